//! The README's first session works as it is printed there: its commands are run, and print what it says they print.
//!
//! In README.md a block ```` ```sh quickstart WHO ```` is a part of that session. WHO says whose part it is:
//! `operator` and `sandbox` type commands that succeed, `refused` and `stranger` are a sandbox that is refused
//! something, registered and not, `audit` is the operator once the audit has been written. A block
//! ```` ```text quickstart WHO ```` is what they print, in order, where `…` stands for anything; `up` is the gateway's
//! own terminal, whose command is not run here.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use test_support::gateway::container_id;
use test_support::upstream::{Visibility, git};
use test_support::{Finished, Gateway, Rig, Sandbox, TOKEN, scratch};

/// What the README calls the reader's own repository.
const PLACEHOLDER: &str = "OWNER/REPO";
/// The branch that the session pushes.
const BRANCH: &str = "sandbox/hello";

/// Its gateway is the first of this process, so it has the ports that the README speaks of.
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
    /// Commands, otherwise what they print.
    commands: bool,
    who: String,
    text: String,
}

/// The session, with `repo` in place of the placeholder.
fn session(repo: &str) -> Vec<Block> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        let Some((language, who)) = line.strip_prefix("```").and_then(|info| info.split_once(" quickstart ")) else {
            continue;
        };
        let commands = match language {
            "sh" => true,
            "text" => false,
            _ => panic!("{line}: expected sh or text"),
        };
        let text: String = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        blocks.push(Block { commands, who: who.to_owned(), text: text.replace(PLACEHOLDER, repo) });
    }
    blocks
}

/// The texts of those `blocks` that `wanted` picks.
fn texts(blocks: &[Block], wanted: impl Fn(&Block) -> bool) -> Vec<&str> {
    blocks.iter().filter(|block| wanted(block)).map(|block| block.text.as_str()).collect()
}

/// One script that prints all in one stream. It ends at the first command of a block that fails, unless the block is
/// about being refused.
fn script<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> String {
    let mut script = "exec 2>&1\n".to_owned();
    for block in blocks.into_iter().filter(|block| block.commands) {
        let refused = matches!(block.who.as_str(), "refused" | "stranger");
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

/// Fails unless the lines of `expected` are among those of `printed`, in their order.
#[track_caller]
fn assert_prints(printed: &str, expected: &[&str]) {
    let mut lines = printed.lines();
    for pattern in expected.iter().flat_map(|text| text.lines()).filter(|pattern| *pattern != "…") {
        assert!(lines.any(|line| matches_line(pattern, line)), "README.md promises\n{pattern}\nin\n{printed}");
    }
}

/// The push has arrived, with the gateway's credential and no other, and nothing of what is refused has.
#[track_caller]
fn assert_pushed_with_the_credential(repo: &str, bare: &Path) {
    assert_eq!(git(bare, &["log", "-1", "--format=%an", BRANCH]), "Agent");
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}")));
    let arrived = rig().upstream.requests_with(repo);
    let has = |method: &str, end: &str| arrived.iter().any(|r| r.method == method && r.path.ends_with(end));
    assert!(has("POST", "/git-receive-pack") && has("GET", &format!("/repos/{repo}")), "{arrived:?}");
    for request in &arrived {
        let expected = if request.host == "api.github.com" { format!("Bearer {TOKEN}") } else { basic.clone() };
        assert_eq!(request.header("authorization"), [expected.as_bytes()], "{request:?}");
        assert!(matches!(request.method.as_str(), "GET" | "POST") && !request.path.contains("/pulls/"), "{request:?}");
    }
    // What the README shows as refused goes to other repositories and hosts.
    let strays = rig().upstream.requests().into_iter().filter(|request| !request.path.contains("/acme/"));
    assert_eq!(strays.count(), 0);
}

/// The program's directory in front of the machine's PATH.
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
    // A home of its own whose default state directory is the gateway's.
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
    let printed = bash(&script(blocks.iter().filter(|block| !audit(block))));
    assert_prints(&printed, &texts(&blocks, |block| !block.commands && !audit(block) && block.who != "up"));
    assert_pushed_with_the_credential(repo, &bare);

    rig.gateway.audit_line("the refused fetch", |line| {
        let path = line["path"].as_str().unwrap_or_default();
        line["rule"] == "identity.unknown" && path.starts_with(&format!("/{repo}/info/refs"))
    });
    let printed = bash(&script(blocks.iter().filter(|block| audit(block))));
    assert_prints(&printed, &texts(&blocks, |block| !block.commands && audit(block)));

    let printed = fs::read_to_string(rig.gateway.state.with_file_name("stderr.log")).unwrap();
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
    // The other test lists what is registered.
    let gateway = Gateway::start(upstream);
    let sandbox = Sandbox::start().behind(&gateway);
    gateway.register(sandbox.address, &[repo]);
    let run = |first: &str, parts: &[&str]| {
        let wanted = |block: &Block| parts.contains(&block.who.as_str());
        let mut command = sandbox.command("bash");
        command.env("TMPDIR", &sandbox.home);
        let script = format!("{first}\n{}", script(blocks.iter().filter(|block| wanted(block))));
        let printed = Finished::of(command.args(["-c", &script])).success().stdout;
        // Who is refused is named by its id, which is the address where the operator has given none.
        let printed = printed.replace(&container_id(sandbox.address), "127.0.0.1");
        let expected = texts(&blocks, |block| !block.commands && wanted(block));
        assert!(!expected.is_empty(), "README.md has nothing for {parts:?}");
        assert_prints(&printed, &expected);
    };
    run("", &["sandbox", "refused"]);
    assert_pushed_with_the_credential(repo, &bare);
    gateway.remove(sandbox.address);
    let arrived = upstream.requests_with(repo).len();
    run("cd \"$TMPDIR\"/*/work", &["stranger"]);
    assert_eq!(upstream.requests_with(repo).len(), arrived);
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
