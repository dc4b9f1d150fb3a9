//! The clients that agents use, unmodified, with only the output of `sallyport env`, against stand-ins that check the
//! credential. Each does its work, gets its stream as the upstream sends it, and never holds a secret. docs/clients.md
//! lists the needs of each client; this test makes its table.

mod agents;
mod builds;
mod libraries;
mod packages;
mod programs;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use test_support::gateway::policy;
use test_support::models::{self, FIRST, LAST};
use test_support::registries::{self, Registries};
use test_support::scripted::{Asked, Gate, Play, Scripted};
use test_support::upstream::Visibility;
use test_support::{Finished, Gateway, Git, Sandbox, TOKEN, Upstream, kept, scratch, secrets, skip};

const ANTHROPIC: &str = "anthropic_fixture_Vd4kW8";
const CLAUDE_LOGIN: &str = "claude_login_fixture_Tb8nG5";
const OPENAI: &str = "openai_fixture_Qn6tR1";
const GEMINI: &str = "gemini_fixture_Xc9jB3";
const CHATGPT: &str = "chatgpt_fixture_Mw2hS7";
const ANTHROPIC_HOST: &str = "api.anthropic.com";
const OPENAI_HOST: &str = "api.openai.com";
const GEMINI_HOST: &str = "generativelanguage.googleapis.com";
/// The host of Codex with a login instead of a key.
const CHATGPT_HOST: &str = "chatgpt.com";
/// The token endpoints of Codex and Claude Code.
const TOKEN_ENDPOINTS: [&str; 3] = ["auth.openai.com", "console.anthropic.com", "platform.claude.com"];
const REPO: &str = "acme/clients";
/// The timeout for a client's first word, and for its last.
const WORD_WITHIN: Duration = Duration::from_secs(60);
/// Every client, in the order of the table.
const CLIENTS: [(&str, Client); 21] = [
    ("Claude Code", agents::claude_code),
    ("Codex", agents::codex),
    ("anthropic (Python)", libraries::anthropic),
    ("openai (Python)", libraries::openai),
    ("google-genai (Python)", libraries::google_genai),
    ("git, GnuTLS", programs::git_gnutls),
    ("git, OpenSSL", programs::git_openssl),
    ("gh", programs::gh_of_the_machine),
    ("gh, newer", programs::gh_newer),
    ("curl", programs::curl),
    ("requests (Python)", libraries::requests),
    ("httpx (Python)", libraries::httpx),
    ("aiohttp (Python)", libraries::aiohttp),
    ("urllib (Python)", libraries::urllib),
    ("Node fetch", libraries::node),
    ("Java HttpsURLConnection", libraries::java),
    ("pip", packages::pip),
    ("uv", packages::uv),
    ("cargo", packages::cargo),
    ("npm", packages::npm),
    ("wget", programs::wget),
];

type Client = fn(&World) -> Result<Row, Skipped>;

/// The result for one client.
struct Row {
    version: String,
    needs: &'static str,
    outcome: String,
}

/// The reason for skipping a client, and whether its package is unavailable.
struct Skipped {
    why: String,
    cannot_be_had: bool,
}

/// A gateway, and the servers that its clients reach.
struct World {
    gateway: Gateway,
    upstream: Upstream,
    scripted: Scripted,
    /// The gate in the responses to the running client.
    gate: Arc<Mutex<Gate>>,
}

/// The credential for chatgpt.com where the gateway has no login: a token that is never refreshed.
const CHATGPT_LOGIN: &str = "codex: false, login: {host: chatgpt.com, header: authorization, format: 'Bearer {}', \
                             paths: ['/backend-api/codex/**', /backend-api/wham/accounts/check], from: {env: CHATGPT_TOKEN}}";

impl World {
    /// Starts with this variable for api.anthropic.com.
    fn start(anthropic: (&str, &str)) -> Self {
        Self::start_with(&[anthropic, ("CHATGPT_TOKEN", CHATGPT)], CHATGPT_LOGIN)
    }

    /// Starts with these variables for api.anthropic.com and chatgpt.com, and these entries of `credentials:`.
    fn start_with(variables: &[(&str, &str)], credentials: &str) -> Self {
        let upstream = Upstream::start();
        upstream.create_repo(REPO, Visibility::Private);
        let registries = Registries::make();
        let gate = Arc::new(Mutex::new(Gate::closed()));
        let models = [ANTHROPIC_HOST, OPENAI_HOST, GEMINI_HOST, CHATGPT_HOST];
        let hosts = [&models[..], &registries::HOSTS].concat();
        let scripted = Scripted::start(&hosts, {
            let gate = Arc::clone(&gate);
            move |asked| {
                let gate = gate.lock().unwrap().clone();
                match (asked.head.host.as_str(), has_its_credential(asked)) {
                    (_, false) => Play::json(401, &json!({"error": {"message": "no credential"}})),
                    (ANTHROPIC_HOST, _) => models::anthropic(asked, &gate),
                    (OPENAI_HOST | CHATGPT_HOST, _) => models::openai(asked, &gate),
                    (GEMINI_HOST, _) => models::gemini(asked, &gate),
                    _ => registries.answer(asked),
                }
            }
        });
        let ca = upstream.ca.display();
        let (address, port) = (upstream.address.ip(), upstream.address.port());
        let github = ["github.com", "api.github.com"]
            .map(|host| format!("  {host}: {{address: {address}, port: {port}, ca: {ca}}}\n"))
            .concat();
        let settings = format!("credentials: {{{credentials}}}\nupstreams:\n{github}{}", scripted.pins());
        let allowed = [&["github.com", "api.github.com"], &hosts[..], &TOKEN_ENDPOINTS].concat();
        let keys = [variables, &[("OPENAI_API_KEY", OPENAI), ("GEMINI_API_KEY", GEMINI)]].concat();
        let gateway = Gateway::with(&policy(&allowed)).settings(&settings).envs(&keys).up();
        Self { gateway, upstream, scripted, gate }
    }

    fn sandbox(&self) -> Sandbox {
        let sandbox = Sandbox::start().behind(&self.gateway);
        self.gateway.register(sandbox.address, &[REPO]);
        sandbox
    }

    /// Checks that `command` fails without the variables for trust, and that no request arrives.
    fn distrusts(&self, command: &mut Command) {
        let arrived = || (self.scripted.asked().len(), self.upstream.requests().iter().filter(|r| !r.is_own()).count());
        let before = arrived();
        let finished = Finished::of(trusting(command, &[]).stdin(Stdio::null()));
        assert_ne!(finished.code, Some(0), "{finished:?}");
        assert_eq!(arrived(), before, "{finished:?}");
    }

    /// Runs `command` with an open gate. Returns its output and its requests.
    fn runs(&self, command: &mut Command) -> (String, Vec<Asked>) {
        let before = self.scripted.asked().len();
        let gate = Gate::closed();
        gate.open();
        *self.gate.lock().unwrap() = gate;
        let finished = Finished::of(command.stdin(Stdio::null()));
        let asked = self.scripted.asked().split_off(before);
        assert_eq!(finished.code, Some(0), "{finished:?}\n{asked:#?}");
        (finished.stdout, asked)
    }

    /// Runs `command` with a gate in its response: it prints the first word while the gate is closed, and the last when
    /// the gate is open. Returns its output and its requests.
    fn streams(&self, command: &mut Command) -> (String, Vec<Asked>) {
        let before = self.scripted.asked().len();
        let gate = Gate::closed();
        *self.gate.lock().unwrap() = gate.clone();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut printed = String::new();
        let mut wait_for = |word: &str| {
            let until = Instant::now() + WORD_WITHIN;
            // The client may print the prompt, too, but the prompt has neither word.
            while !printed.contains(word) {
                match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(line) => printed += &format!("{line}\n"),
                    Err(RecvTimeoutError::Timeout) => return Err(format!("{word} did not come: {printed}")),
                    Err(RecvTimeoutError::Disconnected) => return Err(format!("it ended before {word}: {printed}")),
                }
            }
            Ok(())
        };
        // A client that prints both words only at the end would wait here forever, since the upstream waits.
        let streamed = wait_for(FIRST);
        let closed = !gate.is_open();
        gate.open();
        let ended = streamed.and_then(|()| wait_for(LAST));
        printed.extend(lines.iter().map(|line| line + "\n"));
        let status = child.wait().unwrap();
        let errors = errors.join().unwrap();
        kept::note("streamed", format!("{printed}\n{errors}").as_bytes());
        let asked = self.scripted.asked().split_off(before);
        assert!(ended.is_ok() && status.success() && closed, "{ended:?} {status}\n{printed}\n{errors}\n{asked:#?}");
        (printed, asked)
    }
}

/// Whether a request to a model's API has exactly its credential.
fn has_its_credential(asked: &Asked) -> bool {
    let all = ["authorization", "x-api-key", "x-goog-api-key"];
    let own = |name: &str| asked.head.header(name);
    let only = |name: &str, value: &str| {
        all.iter().all(|each| own(each) == if *each == name { vec![value.as_bytes()] } else { vec![] })
    };
    match asked.head.host.as_str() {
        ANTHROPIC_HOST => only("x-api-key", ANTHROPIC) || only("authorization", &format!("Bearer {CLAUDE_LOGIN}")),
        OPENAI_HOST => only("authorization", &format!("Bearer {OPENAI}")),
        GEMINI_HOST => only("x-goog-api-key", GEMINI),
        CHATGPT_HOST => only("authorization", &format!("Bearer {CHATGPT}")),
        _ => all.iter().all(|name| own(name).is_empty()),
    }
}

#[track_caller]
fn assert_credentials(asked: &[Asked], host: &str, at_least: usize) {
    let arrived: Vec<_> = asked.iter().filter(|asked| asked.head.host == host).collect();
    assert!(arrived.len() >= at_least, "{host}: {arrived:#?}");
    assert!(arrived.iter().all(|asked| has_its_credential(asked)), "{host}: {arrived:#?}");
}

#[test]
fn every_client_does_what_the_docs_say() {
    let world = World::start(("ANTHROPIC_API_KEY", ANTHROPIC));
    let wanted = std::env::var("SALLYPORT_CLIENT").unwrap_or_default();
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for (name, client) in CLIENTS.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let began = Instant::now();
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client(&world))) {
            Ok(Ok(row)) => rows.push((name, [row.version, row.needs.to_owned(), row.outcome])),
            Ok(Err(skipped)) => {
                skip(&format!("client {name}"), &skipped.why);
                if !skipped.may_be() {
                    failed.push(format!("{name}: skipped: {}", skipped.why));
                }
                rows.push((name, [String::new(), String::new(), format!("skipped: {}", skipped.why)]));
            }
            Err(_) => failed.push(name.to_owned()),
        }
        println!("{name} took {:?}", began.elapsed());
    }
    assert!(failed.is_empty(), "{failed:#?}");
    if wanted.is_empty() {
        compare(&rows);
    }
    for secret in [ANTHROPIC, OPENAI, GEMINI, CHATGPT, TOKEN] {
        secrets::assert_absent(secret, &world.gateway.readable());
    }
}

#[test]
fn claude_code_uses_a_login_that_the_gateway_has() {
    let program = match file_of("agents", "claude_agent_sdk", "_bundled/claude") {
        Ok(program) => program,
        Err(skipped) => return skipped.skip("client Claude Code"),
    };
    let world = World::start(("CLAUDE_CODE_OAUTH_TOKEN", CLAUDE_LOGIN));
    let sandbox = world.sandbox();
    let environment = Finished::of(&mut sandbox.command("env")).success().stdout;
    assert!(environment.contains("CLAUDE_CODE_OAUTH_TOKEN=") && !environment.contains("ANTHROPIC_API_KEY"));
    let (printed, asked) = world.runs(sandbox.command(&program).args(["-p", "hello"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, ANTHROPIC_HOST, 1);
    for asked in &asked {
        assert_eq!(asked.head.header("authorization"), [format!("Bearer {CLAUDE_LOGIN}").as_bytes()]);
        // Without this header the provider accepts no login.
        let beta = asked.head.header("anthropic-beta").concat();
        assert!(String::from_utf8_lossy(&beta).contains("oauth-"), "{asked:#?}");
    }
    refused(&world, &sandbox);
    secrets::assert_absent(CLAUDE_LOGIN, &world.gateway.readable());
}

/// The stubs have expired, like those of a sandbox that is older than this gateway. The clients request new tokens,
/// accept the gateway's response, and continue.
#[test]
fn claude_code_and_codex_take_the_placeholders_that_a_token_endpoint_gives() {
    let (claude, codex) = match (file_of("agents", "claude_agent_sdk", "_bundled/claude"), codex_program()) {
        (Ok(claude), Ok(codex)) => (claude, codex),
        (Err(skipped), _) | (_, Err(skipped)) => return skipped.skip("clients that refresh a login"),
    };
    let keys = scratch("keys");
    let login = |name: &str, login: Value| {
        let file = keys.join(name);
        std::fs::write(&file, login.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let never = 4_102_444_800_u64;
    let claudes = login(
        "claude.json",
        json!({"claudeAiOauth": {
            "accessToken": CLAUDE_LOGIN, "refreshToken": "refresh_fixture_1", "expiresAt": never * 1_000,
        }}),
    );
    let codexs = login(
        "codex.json",
        json!({"expires_at": never, "tokens": {
            "access_token": CHATGPT, "refresh_token": "refresh_fixture_2", "account_id": models::ACCOUNT,
        }}),
    );
    let variables = [("CLAUDE_OAUTH_FILE", claudes.as_str()), ("CODEX_AUTH_FILE", codexs.as_str())];
    let world = World::start_with(&variables, "");
    let sandbox = world.sandbox();
    let stubs = ["--stub-files", sandbox.home.to_str().unwrap(), "--codex-account-id", models::ACCOUNT];
    world.gateway.sandbox_env_with(sandbox.gateway_address, &stubs);
    let end = |name: &str, change: &dyn Fn(&mut Value)| {
        let file = sandbox.home.join(name);
        let mut stub = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut stub);
        std::fs::write(&file, stub.to_string()).unwrap();
    };
    end(".claude/.credentials.json", &|stub| stub["claudeAiOauth"]["expiresAt"] = json!(1));
    end(".codex/auth.json", &|stub| {
        stub["last_refresh"] = json!("2020-01-01T00:00:00Z");
        stub["tokens"]["access_token"] = json!(format!("e30.{}.e30", BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp": 1}"#)));
    });
    // With one of these variables it looks for no login.
    let mut command = sandbox.command(&claude);
    command.env_remove("ANTHROPIC_API_KEY").env_remove("CLAUDE_CODE_OAUTH_TOKEN");
    let (printed, asked) = world.runs(command.args(["-p", "hello"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, ANTHROPIC_HOST, 1);
    let (printed, asked) = world.runs(sandbox.command(&codex).args(CODEX_EXEC));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, CHATGPT_HOST, 2);
    // It compresses its requests. The guard inflates them, so the stand-in sees its tools.
    agents::assert_used_its_tool(&asked);
    for host in ["platform.claude.com", "auth.openai.com"] {
        let line = world.gateway.audit_line(host, |line| line["host"] == host);
        assert_eq!((&line["rule"], &line["status"]), (&json!("credentials.stub"), &json!(200)), "{line}");
    }
    refused(&world, &sandbox);
}

/// Compares the table in docs/clients.md with the results. Versions, which depend on the machine, and skipped clients
/// do not count. SALLYPORT_WRITE_CLIENTS=1 writes the table.
fn compare(rows: &[(&str, [String; 3])]) {
    const BEGIN: &str = "<!-- made by tests/e2e/tests/own/clients.rs -->\n";
    const END: &str = "<!-- end -->";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table: String = rows
        .iter()
        .map(|(name, [version, needs, outcome])| format!("| {name} | {version} | {needs} | {outcome} |\n"))
        .collect();
    let table = format!("| client | version | needs beside the proxy | works |\n| --- | --- | --- | --- |\n{table}");
    std::fs::create_dir_all(root.join("target/clients")).unwrap();
    std::fs::write(root.join("target/clients/clients.md"), &table).unwrap();
    let path = root.join("docs/clients.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/clients.md has the table's begin");
    let (documented, after) = rest.split_once(END).expect("docs/clients.md has the table's end");
    if std::env::var_os("SALLYPORT_WRITE_CLIENTS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    let cells = |line: &str| line.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect::<Vec<_>>();
    let documented: Vec<_> = documented.lines().skip(2).map(cells).collect();
    let names: Vec<_> = documented.iter().map(|cells| cells[0].as_str()).collect();
    assert_eq!(names, rows.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "the clients in docs/clients.md");
    for ((name, [_, needs, outcome]), documented) in rows.iter().zip(&documented) {
        if !outcome.starts_with("skipped: ") {
            assert_eq!(documented[2..], [needs.as_str(), outcome.as_str()], "docs/clients.md: {name}");
        }
    }
}

/// Keeps only these of the variables for trust, which name the bundle, so that a row names the sufficient ones.
fn trusting<'a>(command: &'a mut Command, variables: &[&str]) -> &'a mut Command {
    let bundle = |value: Option<&OsStr>| value.is_some_and(|value| value.to_string_lossy().ends_with("/ca-bundle.pem"));
    let set = command.get_envs().filter(|(_, value)| bundle(*value)).map(|(name, _)| name.to_owned());
    let others: Vec<_> = set.filter(|name| !variables.iter().any(|kept| name == kept)).collect();
    assert!(!others.is_empty(), "sallyport env names the bundle in more than one variable");
    for name in others {
        command.env_remove(name);
    }
    command
}

// The paths of the clients.

fn clients() -> PathBuf {
    PathBuf::from(std::env::var_os("SDK_CLIENTS").unwrap_or_else(|| "/nonexistent".into()))
}

/// The Python of an environment of tests/support/sdk-clients.sh.
fn python_of(environment: &str) -> Result<String, Skipped> {
    let python = clients().join(environment).join("bin/python");
    if python.exists() {
        return Ok(python.display().to_string());
    }
    Err(Skipped::without(environment, "not installed: tests/support/sdk-clients.sh --all"))
}

impl Skipped {
    /// A client without `name`, because of `why`. It counts as unavailable only if a script of tests/support has tried
    /// to install it: then a file in `missing` has the error.
    fn without(name: &str, why: &str) -> Self {
        match std::fs::read_to_string(clients().join("missing").join(name)) {
            Ok(tried) => Self { why: format!("{why}, and can't be had: {}", tried.trim()), cannot_be_had: true },
            Err(_) => Self { why: why.into(), cannot_be_had: false },
        }
    }

    /// Whether the client may be skipped. If all clients are required, only unavailable ones may.
    fn may_be(&self) -> bool {
        self.cannot_be_had || std::env::var("SALLYPORT_ALL_CLIENTS").as_deref() != Ok("1")
    }

    /// Reports that `what` is skipped.
    fn skip(&self, what: &str) {
        skip(what, &self.why);
        assert!(self.may_be(), "{what}: skipped: {}", self.why);
    }
}

/// A file of a package in one of these environments.
fn file_of(environment: &str, package: &str, file: &str) -> Result<String, Skipped> {
    let python = python_of(environment)?;
    let script = format!("import {package}, os; print(os.path.join(os.path.dirname({package}.__file__), '{file}'))");
    let path = Finished::of(Command::new(python).args(["-c", &script])).success().stdout.trim().to_owned();
    if Path::new(&path).exists() {
        return Ok(path);
    }
    // The package is installed, so its makers provide no such file for this machine.
    Err(Skipped { why: format!("the package {package} has no {file}"), cannot_be_had: true })
}

fn version_of(python: &str, package: &str) -> String {
    let script = format!("import importlib.metadata as m; print(m.version('{package}'))");
    Finished::of(Command::new(python).args(["-c", &script])).success().stdout.trim().to_owned()
}

/// Checks that the machine has a program.
fn installed(program: &str) -> Result<(), Skipped> {
    let there = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().unwrap();
    let missing = || Skipped::without(program, &format!("{program} is not on this machine"));
    there.success().then_some(()).ok_or_else(missing)
}

/// The word after `before` in the output of `program argument`.
fn version(program: &str, argument: &str, before: &str) -> String {
    let finished = Finished::of(Command::new(program).arg(argument));
    let text = finished.stdout + &finished.stderr;
    let rest = text.split_once(before).map_or("", |(_, rest)| rest);
    rest.split([' ', '\n', '"', ',']).next().unwrap_or_default().to_owned()
}

fn script(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../support/clients").join(name);
    path.canonicalize().unwrap().display().to_string()
}

fn works(version: impl Into<String>, needs: &'static str, outcome: &str) -> Result<Row, Skipped> {
    Ok(Row { version: version.into(), needs, outcome: outcome.to_owned() })
}

// The agents.

const CODEX_EXEC: [&str; 7] =
    ["exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "-m", "gpt-5", "Run the command."];

fn codex_program() -> Result<String, Skipped> {
    file_of("agents", "codex_cli_bin", "bin/codex")
}

/// Prints the refusals of an agent that completed its work.
fn refused(world: &World, sandbox: &Sandbox) {
    let address = sandbox.address.to_string();
    let mut refused = BTreeMap::<String, u32>::new();
    for line in world.gateway.audit() {
        if line["container_ip"] == address.as_str() && line["verdict"] == "deny" {
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            *refused.entry(["method", "host", "path", "rule"].map(text).join(" ")).or_default() += 1;
        }
    }
    println!("refused meanwhile: {refused:#?}");
}

// The programs.

fn git(world: &World, tls: &str) -> Result<Row, Skipped> {
    let gits = Git::all();
    // libcurl's file is libcurl-gnutls.so where it is not OpenSSL's.
    let gits: Vec<_> =
        gits.iter().filter(|git| git.libcurl().to_string_lossy().contains("gnutls") == (tls == "gnutls")).collect();
    if gits.is_empty() {
        let why = format!("no git on this machine has a libcurl with {tls}; OPENSSL_GIT names one");
        return Err(Skipped::without(&format!("git-{tls}"), &why));
    }
    let mut versions = Vec::new();
    for git in gits {
        let sandbox = world.sandbox();
        let before = world.upstream.requests().len();
        let url = format!("https://github.com/{REPO}");
        let mut command = sandbox.command(&git.program);
        let http = format!("http.version={}", git.http);
        command.args(["-c", &http, "clone", "--quiet", &url, "cloned"]);
        Finished::of(trusting(&mut command, &["GIT_SSL_CAINFO"])).success();
        assert_eq!(std::fs::read_to_string(sandbox.home.join("cloned/README")).unwrap(), REPO);
        let arrived = world.upstream.requests().split_off(before);
        let basic = base64(&format!("x-access-token:{TOKEN}"));
        assert!(arrived.len() >= 2, "{arrived:?}");
        let all =
            arrived.iter().all(|request| request.header("authorization") == [format!("Basic {basic}").as_bytes()]);
        assert!(all, "{arrived:?}");
        std::fs::remove_dir_all(sandbox.home.join("cloned")).unwrap();
        world.distrusts(&mut command);
        versions.push(version(&git.program, "--version", "git version "));
    }
    versions.dedup();
    works(versions.join(", "), "`GIT_SSL_CAINFO`", "yes, HTTP/1.1 and HTTP/2")
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}

fn gh(world: &World, program: &str) -> Result<Row, Skipped> {
    let sandbox = world.sandbox();
    let before = world.upstream.requests().len();
    let mut command = sandbox.command(program);
    command.env("TMPDIR", &sandbox.home).env("GH_NO_UPDATE_NOTIFIER", "1");
    command.args(["api", &format!("repos/{REPO}/issues")]);
    let printed = Finished::of(trusting(&mut command, &["SSL_CERT_FILE"])).success().stdout;
    assert!(serde_json::from_str::<Value>(&printed).is_ok(), "{printed}");
    let mut arrived = world.upstream.requests().split_off(before);
    arrived.retain(|request| !request.is_own());
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    assert_eq!(arrived[0].header("authorization"), [format!("Bearer {TOKEN}").as_bytes()]);
    world.distrusts(&mut command);
    works(version(program, "--version", "gh version "), "`GITHUB_TOKEN` (placeholder), `SSL_CERT_FILE`", "yes")
}
