//! The commands in README.md and docs/ work as printed there, and print the text below them.
//!
//! Every fenced block of the documents has one of these marks:
//!
//! | mark | check |
//! | --- | --- |
//! | `sh quickstart WHO` | a part of the first session: its commands are run in the order of the documents, README.md first |
//! | `text quickstart WHO` | the output of that part, in order; `…` stands for anything |
//! | `sh run`, `text run` | commands that need no gateway, run beside the shipped config/; the text below is their output. `sh run clone` runs in a clone with two commits |
//! | `sh` | bash parses it, and `sallyport` knows each command and option in it |
//! | `yaml policy` | `sallyport` reads it as its policy; so do the commands below it in the same document |
//! | `yaml settings` | `sallyport` reads it as its settings |
//! | `json` | it parses |
//! | none | a picture, or bytes on the wire; it has no command |
//!
//! The word WHO is the role in the session. The commands of `operator` and `sandbox` succeed. `refused`, `force` and
//! `stranger` are refused: a registered sandbox, its forced push, and an unregistered address. `audit` is the operator
//! once the audit has been written. `up` is the gateway's own terminal, whose command is not run here.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use test_support::upstream::{Visibility, git, number};
use test_support::{Finished, Gateway, Rig, Sandbox, TOKEN, scratch};

/// The name of the reader's own repository in the documents.
const PLACEHOLDER: &str = "OWNER/REPO";
/// The branch that the session pushes.
const BRANCH: &str = "sandbox/demo/hello";

/// Its gateway is the first of this process, so it has the ports that the README names.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let rig = Rig::start();
        assert_eq!(rig.gateway.proxy_port, 8080);
        rig
    })
}

/// A block of the session.
struct Block {
    /// Commands, otherwise their output.
    commands: bool,
    who: String,
    text: String,
}

/// A fenced block of a document.
struct Fenced {
    /// The document and the line of the block, for messages.
    at: String,
    /// The words after the opening fence.
    mark: String,
    text: String,
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The documents below `directory`, sorted by name.
fn documents(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let (directories, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.chain(directories.iter().flat_map(|directory| documents(directory))).collect()
}

/// The fenced blocks of all documents: README.md first, then docs/, then the rest.
fn fenced() -> Vec<Fenced> {
    let root = root();
    let mut paths = vec![root.join("README.md")];
    paths.extend(documents(&root.join("docs")));
    paths.extend(["CONTRIBUTING.md", "SECURITY.md", "envoy/README.md", "tests/README.md"].map(|name| root.join(name)));
    let mut blocks = Vec::new();
    for path in paths {
        let document = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let mut lines = document.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(mark) = line.strip_prefix("```") else { continue };
            let inside = lines.by_ref().take_while(|(_, line)| *line != "```");
            let text: String = inside.map(|(_, line)| format!("{line}\n")).collect();
            blocks.push(Fenced { at: format!("{name}:{}", number + 1), mark: mark.to_owned(), text });
        }
    }
    blocks
}

/// The session, with `repo` in place of the placeholder.
fn session(repo: &str) -> Vec<Block> {
    let block = |fenced: Fenced| {
        let (language, who) = fenced.mark.split_once(" quickstart ")?;
        let commands = language == "sh";
        Some(Block { commands, who: who.to_owned(), text: fenced.text.replace(PLACEHOLDER, repo) })
    };
    fenced().into_iter().filter_map(block).collect()
}

/// The texts of those `blocks` that `wanted` picks.
fn texts(blocks: &[Block], wanted: impl Fn(&Block) -> bool) -> Vec<&str> {
    blocks.iter().filter(|block| wanted(block)).map(|block| block.text.as_str()).collect()
}

/// One script that prints all in one stream. It ends at the first failing command of a block, unless the block shows
/// refusals.
fn script<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> String {
    let mut script = "exec 2>&1\n".to_owned();
    for block in blocks.into_iter().filter(|block| block.commands) {
        let refused = matches!(block.who.as_str(), "refused" | "force" | "stranger");
        script += if refused { "set +e\n" } else { "set -e\n" };
        script += &block.text;
    }
    script + "exit 0\n"
}

/// Whether `line` is `pattern`, in which `…` stands for anything.
fn matches_line(pattern: &str, line: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('…') else { return pattern == line };
    let (middle, end) = rest.rsplit_once('…').unwrap_or(("", rest));
    let Some(line) = line.strip_prefix(start).and_then(|line| line.strip_suffix(end)) else { return false };
    middle.split('…').try_fold(line, |line, part| line.split_once(part).map(|(_, behind)| behind)).is_some()
}

/// Checks that the lines of `expected` are among those of `printed`, in their order.
#[track_caller]
fn assert_prints(printed: &str, expected: &[&str]) {
    let mut lines = printed.lines();
    for pattern in expected.iter().flat_map(|text| text.lines()).filter(|pattern| *pattern != "…") {
        assert!(lines.any(|line| matches_line(pattern, line)), "the documents promise\n{pattern}\nin\n{printed}");
    }
}

/// Checks that the push has arrived, with only the gateway's credential, and that no refused request has.
#[track_caller]
fn assert_pushed_with_the_credential(repo: &str, bare: &Path) {
    assert_eq!(git(bare, &["log", "-1", "--format=%an: %s", BRANCH]), "Agent: Say hello");
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}")));
    let arrived = rig().upstream.requests_with(repo);
    let has = |method: &str, end: &str| arrived.iter().any(|r| r.method == method && r.path.ends_with(end));
    assert!(has("POST", "/git-receive-pack") && has("GET", &format!("/repos/{repo}")), "{arrived:?}");
    for request in &arrived {
        let expected = if request.host == "api.github.com" { format!("Bearer {TOKEN}") } else { basic.clone() };
        assert_eq!(request.header("authorization"), [expected.as_bytes()], "{request:?}");
        assert!(matches!(request.method.as_str(), "GET" | "POST") && !request.path.contains("/pulls/"), "{request:?}");
    }
    // The README's refused requests go to other repositories and hosts. The gateway's own query reads the refs of a push.
    let strays = rig().upstream.requests().into_iter();
    let strays = strays.filter(|request| !request.path.contains("/acme/") && request.path != "/graphql");
    assert_eq!(strays.count(), 0);
}

/// The machine's PATH with the program's directory in front.
fn path() -> String {
    let program = PathBuf::from(std::env::var_os("SALLYPORT_BIN").expect("SALLYPORT_BIN is set by run-e2e.sh"));
    format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap())
}

#[test]
fn the_quick_start_works_as_it_is_printed_on_one_machine() {
    let rig = rig();
    let repo = "acme/quick";
    let bare = rig.upstream.create_repo(repo, Visibility::Private);
    let blocks = session(repo);
    // A home directory of its own, whose default state directory is the gateway's.
    let home = scratch("home");
    fs::create_dir_all(home.join(".local/state")).unwrap();
    std::os::unix::fs::symlink(&rig.gateway.state, home.join(".local/state/sallyport")).unwrap();
    let bash = |script: &str| {
        let mut command = Command::new("timeout");
        command.args(["120", "bash", "-c", script]).env_clear().current_dir(&home);
        command.env("HOME", &home).env("TMPDIR", &home).env("PATH", path()).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Agent").env(format!("GIT_{role}_EMAIL"), "agent@example.com");
        }
        Finished::of(&mut command).success().stdout
    };

    let audit = |block: &Block| block.who == "audit";
    let session = |block: &Block| !matches!(block.who.as_str(), "audit" | "force" | "up");
    let printed = bash(&script(blocks.iter().filter(|block| session(block))));
    assert_prints(&printed, &texts(&blocks, |block| !block.commands && session(block)));
    assert_pushed_with_the_credential(repo, &bare);

    rig.gateway.audit_line("the refused fetch", |line| {
        let path = line["path"].as_str().unwrap_or_default();
        line["rule"] == "identity.unknown" && path.starts_with(&format!("/{repo}/info/refs"))
    });
    let printed = bash(&script(blocks.iter().filter(|block| audit(block))));
    assert_prints(&printed, &texts(&blocks, |block| !block.commands && audit(block)));

    let printed = fs::read_to_string(rig.gateway.state.with_file_name("stderr.log")).unwrap();
    // The rig's proxy listens on all addresses, for its sandboxes.
    let printed = printed.replace("http://0.0.0.0:8080", "http://127.0.0.1:8080");
    let up = texts(&blocks, |block| block.who == "up");
    assert!(!up.is_empty());
    assert_prints(&printed, &up);
}

#[test]
fn the_quick_start_works_in_a_sandbox_of_its_own() {
    let upstream = &rig().upstream;
    let repo = "acme/boxed";
    let bare = upstream.create_repo(repo, Visibility::Private);
    let blocks = session(repo);
    // The other test lists the registered containers.
    let gateway = Gateway::start(upstream);
    let sandbox = Sandbox::start().behind(&gateway);
    let known = json!({"name": repo, "id": number(repo), "default_branch": "main"});
    let record = json!({"container_ip": sandbox.address, "container_id": "demo", "repos": [known]});
    let (status, body) = gateway.call("POST", "/internal/containers", Some(&record));
    assert_eq!(status, 201, "{body}");
    let run = |first: &str, parts: &[&str]| {
        let wanted = |block: &Block| parts.contains(&block.who.as_str());
        let mut command = sandbox.command("bash");
        command.env("TMPDIR", &sandbox.home);
        let script = format!("{first}\n{}", script(blocks.iter().filter(|block| wanted(block))));
        let printed = Finished::of(command.args(["-c", &script])).success().stdout;
        let expected = texts(&blocks, |block| !block.commands && wanted(block));
        assert!(!expected.is_empty(), "the documents have nothing for {parts:?}");
        assert_prints(&printed, &expected);
    };
    run("", &["sandbox", "refused"]);
    assert_pushed_with_the_credential(repo, &bare);
    run("cd \"$TMPDIR\"/*/work", &["force"]);
    assert_pushed_with_the_credential(repo, &bare);
    gateway.remove(sandbox.address);
    let arrived = upstream.requests_with(repo).len();
    run("cd \"$TMPDIR\"/*/work", &["stranger"]);
    assert_eq!(upstream.requests_with(repo).len(), arrived);
}

/// The binary, in an empty directory with the shipped configuration.
struct Shipped {
    directory: PathBuf,
}

impl Shipped {
    fn new() -> Self {
        let shipped = Self { directory: scratch("shipped") };
        fs::create_dir_all(shipped.directory.join("config")).unwrap();
        for name in ["policy.yaml", "sallyport.yaml"] {
            shipped.write(name, &fs::read_to_string(root().join("config").join(name)).unwrap());
        }
        shipped
    }

    /// Replaces a file of the configuration.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join("config").join(name), text).unwrap();
    }

    /// Runs `script` in bash.
    fn bash(&self, arguments: &[&str], script: &str) -> Finished {
        let mut command = Command::new("timeout");
        command.args(["60", "bash"]).args(arguments).args(["-c", script]).env_clear().current_dir(&self.directory);
        command.env("HOME", &self.directory).env("PATH", path()).env("LC_ALL", "C").env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Agent").env(format!("GIT_{role}_EMAIL"), "agent@example.com");
        }
        Finished::of(&mut command)
    }
}

/// The sallyport commands in `script`, without redirections and pipes.
fn commands_of_ours(script: &str) -> Vec<String> {
    let script = script.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in script.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        for (at, word) in line.match_indices("sallyport ") {
            let starts = line[..at].chars().next_back().is_none_or(|before| matches!(before, ' ' | '(' | '/'));
            let rest = &line[at + word.len()..];
            if starts && rest.starts_with(|first: char| first.is_ascii_lowercase()) {
                let end = rest.find([')', '|', '<', '>', ';']).unwrap_or(rest.len());
                commands.push(format!("sallyport {}", rest[..end].trim()));
            }
        }
    }
    commands
}

#[test]
fn every_block_of_the_documents_has_a_mark_and_does_what_it_says() {
    let mut document = String::new();
    let mut shipped = Shipped::new();
    let clone = "git init -q -b main && git commit -q --allow-empty -m one && git commit -q --allow-empty -m two";
    let known = |shipped: &Shipped, command: &str| shipped.bash(&[], &format!("{command} --help >&2")).code == Some(0);
    assert!(
        !known(&shipped, "sallyport container add --no-such-option") && !known(&shipped, "sallyport no-such-command")
    );
    let mut printed: Option<String> = None;
    for Fenced { at, mark, text } in fenced() {
        let name = at.split(':').next().unwrap_or_default();
        if document != name {
            document = name.to_owned();
            shipped = Shipped::new();
        }
        if mark != "text run" {
            assert!(printed.is_none(), "{at}: the output of the commands above it is missing");
        }
        match mark.as_str() {
            "sh run" | "sh run clone" => {
                if mark.ends_with("clone") {
                    shipped.bash(&["-e"], clone).success();
                }
                printed = Some(shipped.bash(&[], &format!("exec 2>&1\n{text}")).stdout);
            }
            "text run" => assert_prints(&printed.take().expect(&at), &[&text]),
            // The test of the builds in clients.rs runs these.
            "dockerfile build" => {}
            "sh" | "sh build" => {
                assert!(shipped.bash(&["-n"], &text).code == Some(0), "{at}: bash does not parse it");
                for command in commands_of_ours(&text) {
                    assert!(known(&shipped, &command), "{at}: {command}");
                }
            }
            "yaml policy" => {
                shipped.write("policy.yaml", &text);
                assert!(shipped.bash(&[], "sallyport policy check config/policy.yaml").code == Some(0), "{at}");
            }
            "yaml settings" => {
                shipped.write("sallyport.yaml", &text);
                let finished = shipped.bash(&[], "sallyport container ls");
                assert_ne!(finished.code, Some(2), "{at}: {}", finished.stderr);
            }
            "json" => drop(serde_json::from_str::<serde_json::Value>(&text).expect(&at)),
            "" => assert!(!text.contains("\n$ ") && commands_of_ours(&text).is_empty(), "{at}: mark its commands"),
            _ => {
                let who = mark.strip_prefix("sh quickstart ").or_else(|| mark.strip_prefix("text quickstart "));
                let known = ["up", "operator", "sandbox", "refused", "force", "stranger", "audit"];
                assert!(who.is_some_and(|who| known.contains(&who)), "{at}: {mark} is no mark");
            }
        }
    }
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    for (pattern, line) in
        [("a", "a"), ("a…", "a"), ("a…c", "abc"), ("…c", "abcc"), ("…", ""), ("a…c…", "abcd"), ("a…c", "acxc")]
    {
        assert!(matches_line(pattern, line), "{pattern} {line}");
    }
    for (pattern, line) in [("a", "ab"), ("a", ""), ("a…c", "abd"), ("…c", "abcd"), ("b…", "ab")] {
        assert!(!matches_line(pattern, line), "{pattern} {line}");
    }
}
