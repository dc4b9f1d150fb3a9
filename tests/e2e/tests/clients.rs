//! The clients that agents use, unmodified, with no more than what `sallyport env` prints, against stand-ins that
//! check the credential: each does its work, is streamed to as the upstream sends, and never holds a secret.
//! docs/clients.md says what each needs; its table is this test's.

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
use test_support::models::{self, COMMAND, FIRST, LAST, PRINTED};
use test_support::registries::{self, PACKAGE, Registries};
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
/// Where Codex goes with a login instead of a key.
const CHATGPT_HOST: &str = "chatgpt.com";
/// Where Codex and Claude Code ask for a new token.
const TOKEN_ENDPOINTS: [&str; 3] = ["auth.openai.com", "console.anthropic.com", "platform.claude.com"];
const REPO: &str = "acme/clients";

/// The longest that a client may take to print the first word, or the last.
const WORD_WITHIN: Duration = Duration::from_secs(60);

/// Every client, in the order of the table.
const CLIENTS: [(&str, Client); 19] = [
    ("Claude Code", claude_code),
    ("Codex", codex),
    ("anthropic (Python)", anthropic),
    ("openai (Python)", openai),
    ("google-genai (Python)", google_genai),
    ("git, GnuTLS", git_gnutls),
    ("git, OpenSSL", git_openssl),
    ("gh", gh_of_the_machine),
    ("gh, newer", gh_newer),
    ("curl", curl),
    ("requests (Python)", requests),
    ("httpx (Python)", httpx),
    ("urllib (Python)", urllib),
    ("Node fetch", node),
    ("Java HttpsURLConnection", java),
    ("pip", pip),
    ("uv", uv),
    ("cargo", cargo),
    ("wget", wget),
];

type Client = fn(&World) -> Result<Row, Skipped>;

/// What was found about one client.
struct Row {
    version: String,
    needs: &'static str,
    outcome: String,
}

/// Why one was not tried, and whether it is because its package can't be had.
struct Skipped {
    why: String,
    cannot_be_had: bool,
}

/// A gateway, and all that its clients reach.
struct World {
    gateway: Gateway,
    upstream: Upstream,
    scripted: Scripted,
    /// Where the answers stop, for the client that is running.
    gate: Arc<Mutex<Gate>>,
}

/// What stands for a login at chatgpt.com, where the gateway has none: one that is never asked to be refreshed.
const CHATGPT_LOGIN: &str = "codex: false, login: {host: chatgpt.com, header: authorization, format: 'Bearer {}', \
                             paths: ['/backend-api/codex/**', /backend-api/wham/accounts/check], from: {env: CHATGPT_TOKEN}}";

impl World {
    /// With this variable for api.anthropic.com.
    fn start(anthropic: (&str, &str)) -> Self {
        Self::start_with(&[anthropic, ("CHATGPT_TOKEN", CHATGPT)], CHATGPT_LOGIN)
    }

    /// With these variables for api.anthropic.com and chatgpt.com, and these entries of `credentials:`.
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
        let gateway = Gateway::start_in(&policy(&allowed), &settings, &keys);
        Self { gateway, upstream, scripted, gate }
    }

    fn sandbox(&self) -> Sandbox {
        let sandbox = Sandbox::start().behind(&self.gateway);
        self.gateway.register(sandbox.address, &[REPO]);
        sandbox
    }

    /// That `command`, with none of the variables for trust, ends badly and nothing of it arrives.
    fn distrusts(&self, command: &mut Command) {
        let arrived = || (self.scripted.asked().len(), self.upstream.requests().iter().filter(|r| !r.is_own()).count());
        let before = arrived();
        let finished = Finished::of(trusting(command, &[]).stdin(Stdio::null()));
        assert_ne!(finished.code, Some(0), "{finished:?}");
        assert_eq!(arrived(), before, "{finished:?}");
    }

    /// Runs `command`, whose answer stops nowhere. Returns all that it printed, and what arrived of it.
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

    /// Runs `command`, whose answer stops at a gate: the first word is printed while the gate is closed, the last when
    /// it has been opened. Returns all that it printed, and what arrived of it.
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
            // The prompt may be printed, too, but holds neither word.
            while !printed.contains(word) {
                match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(line) => printed += &format!("{line}\n"),
                    Err(RecvTimeoutError::Timeout) => return Err(format!("{word} did not come: {printed}")),
                    Err(RecvTimeoutError::Disconnected) => return Err(format!("it ended before {word}: {printed}")),
                }
            }
            Ok(())
        };
        // What printed both words at the end only would wait here for ever, since the upstream does.
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

/// Whether a request to a model's API has the credential and nothing else of that kind.
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
        // Without it the provider takes no login.
        let beta = asked.head.header("anthropic-beta").concat();
        assert!(String::from_utf8_lossy(&beta).contains("oauth-"), "{asked:#?}");
    }
    refused(&world, &sandbox);
    secrets::assert_absent(CLAUDE_LOGIN, &world.gateway.readable());
}

/// Their stubs have ended, as those do of a sandbox that is older than this gateway's: they ask for new tokens, take what
/// the gateway answers, and go on.
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
    // With one of these it looks for no login.
    let mut command = sandbox.command(&claude);
    command.env_remove("ANTHROPIC_API_KEY").env_remove("CLAUDE_CODE_OAUTH_TOKEN");
    let (printed, asked) = world.runs(command.args(["-p", "hello"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, ANTHROPIC_HOST, 1);
    let (printed, asked) = world.runs(sandbox.command(&codex).args(CODEX_EXEC));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, CHATGPT_HOST, 2);
    for host in ["platform.claude.com", "auth.openai.com"] {
        let line = world.gateway.audit_line(host, |line| line["host"] == host);
        assert_eq!((&line["rule"], &line["status"]), (&json!("credentials.stub"), &json!(200)), "{line}");
    }
    refused(&world, &sandbox);
}

/// The table in docs/clients.md is the one that was found, but for versions, which are those of the machine, and for
/// clients that were skipped. With SALLYPORT_WRITE_CLIENTS=1 it is written.
fn compare(rows: &[(&str, [String; 3])]) {
    const BEGIN: &str = "<!-- made by tests/e2e/tests/clients.rs -->\n";
    const END: &str = "<!-- end -->";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table: String = rows
        .iter()
        .map(|(name, [version, needs, outcome])| format!("| {name} | {version} | {needs} | {outcome} |\n"))
        .collect();
    let table =
        format!("| client | version | needs beside the proxy | works |\n| --- | --- | --- | --- |\n{table}");
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

/// Of the variables for trust, which name the bundle, only these, so that a row names what is enough.
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

// Where the clients are.

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
    /// Without `name`, because of `why`. That it can't be had is believed only of what a script of tests/support has
    /// tried to get: then its file in `missing` says what came of that.
    fn without(name: &str, why: &str) -> Self {
        match std::fs::read_to_string(clients().join("missing").join(name)) {
            Ok(tried) => Self { why: format!("{why}, and can't be had: {}", tried.trim()), cannot_be_had: true },
            Err(_) => Self { why: why.into(), cannot_be_had: false },
        }
    }

    /// Where all clients are wanted, only what can't be had may be skipped.
    fn may_be(&self) -> bool {
        self.cannot_be_had || std::env::var("SALLYPORT_ALL_CLIENTS").as_deref() != Ok("1")
    }

    /// Says that `what` is skipped.
    fn skip(&self, what: &str) {
        skip(what, &self.why);
        assert!(self.may_be(), "{what}: skipped: {}", self.why);
    }
}

/// A file of a package of such an environment.
fn file_of(environment: &str, package: &str, file: &str) -> Result<String, Skipped> {
    let python = python_of(environment)?;
    let script = format!("import {package}, os; print(os.path.join(os.path.dirname({package}.__file__), '{file}'))");
    let path = Finished::of(Command::new(python).args(["-c", &script])).success().stdout.trim().to_owned();
    if Path::new(&path).exists() {
        return Ok(path);
    }
    // The package was had, so this is what its makers have for this machine.
    Err(Skipped { why: format!("the package {package} has no {file}"), cannot_be_had: true })
}

fn version_of(python: &str, package: &str) -> String {
    let script = format!("import importlib.metadata as m; print(m.version('{package}'))");
    Finished::of(Command::new(python).args(["-c", &script])).success().stdout.trim().to_owned()
}

/// A program of the machine.
fn installed(program: &str) -> Result<(), Skipped> {
    let there = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().unwrap();
    let missing = || Skipped::without(program, &format!("{program} is not on this machine"));
    there.success().then_some(()).ok_or_else(missing)
}

/// The word behind `before` in what `program argument` prints first.
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

fn claude_code(world: &World) -> Result<Row, Skipped> {
    let program = file_of("agents", "claude_agent_sdk", "_bundled/claude")?;
    let sandbox = world.sandbox();
    let mut command = sandbox.command(&program);
    command.args(["-p", "Run the command.", "--allowedTools", "Bash", "--model", "claude-sonnet-4-5"]);
    command.args(["--output-format", "stream-json", "--include-partial-messages", "--verbose"]);
    let (printed, asked) = world.streams(trusting(&mut command, &["NODE_EXTRA_CA_CERTS"]));
    assert_credentials(&asked, ANTHROPIC_HOST, 2);
    assert_used_its_tool(&asked);
    assert!(printed.contains(COMMAND), "{printed}");
    refused(world, &sandbox);

    // With a stub login and no key it starts as well.
    let sandbox = world.sandbox();
    world.gateway.sandbox_env_with(sandbox.gateway_address, &["--stub-files", sandbox.home.to_str().unwrap()]);
    let mut command = sandbox.command(&program);
    let (printed, asked) = world.runs(command.env_remove("ANTHROPIC_API_KEY").args(["-p", "hello"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, ANTHROPIC_HOST, 1);
    let needs = "`ANTHROPIC_API_KEY` (placeholder) or a stub login; `NODE_EXTRA_CA_CERTS`";
    works(version(&program, "--version", ""), needs, "yes: streams, runs its tools; its other calls are refused")
}

const CODEX_EXEC: [&str; 7] =
    ["exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "-m", "gpt-5", "Run the command."];

fn codex_program() -> Result<String, Skipped> {
    file_of("agents", "codex_cli_bin", "bin/codex")
}

fn codex(world: &World) -> Result<Row, Skipped> {
    let program = codex_program()?;
    let sandbox = world.sandbox();
    let (printed, asked) = world.runs(trusting(sandbox.command(&program).args(CODEX_EXEC), &["SSL_CERT_FILE"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, OPENAI_HOST, 2);
    assert_used_its_tool(&asked);
    refused(world, &sandbox);
    // It takes one refusal for an answer, and goes on by POST: with another status than 426 it tries seven times.
    let address = sandbox.address.to_string();
    let web_sockets = |line: &Value| line["container_ip"] == address.as_str() && line["status"] == 426;
    world.gateway.audit_line("Codex's WebSocket", web_sockets);
    assert_eq!(world.gateway.audit().iter().filter(|line| web_sockets(line)).count(), 1);

    let (_, asked) = world.streams(world.sandbox().command(&python_of("agents")?).arg(script("use_codex.py")));
    assert_credentials(&asked, OPENAI_HOST, 2);
    assert_used_its_tool(&asked);

    // With a stub login it goes to chatgpt.com.
    let sandbox = world.sandbox();
    let stub = ["--stub-files", sandbox.home.to_str().unwrap(), "--codex-account-id", models::ACCOUNT];
    world.gateway.sandbox_env_with(sandbox.gateway_address, &stub);
    let (printed, asked) = world.runs(sandbox.command(&program).env_remove("OPENAI_API_KEY").args(CODEX_EXEC));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, CHATGPT_HOST, 2);
    // What it sends there is compressed, so the stand-in sees no tools in it and answers at once.
    assert!(
        asked.iter().any(|asked| asked.head.method == "POST" && asked.path().ends_with("/responses")),
        "{asked:#?}"
    );
    refused(world, &sandbox);
    let needs = "`OPENAI_API_KEY` (placeholder) or a stub login; `SSL_CERT_FILE`";
    works(version(&program, "--version", "codex-cli "), needs, "yes: streams, runs its tools")
}

/// What the tool printed went back to the model.
#[track_caller]
fn assert_used_its_tool(asked: &[Asked]) {
    assert!(asked.iter().any(|asked| String::from_utf8_lossy(&asked.body).contains(PRINTED)), "{asked:#?}");
}

/// Prints what was refused to an agent while it worked all the same.
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

// The libraries.

/// Runs a script with `python`: with none of the variables for trust, and with `trust` alone.
fn streams_by_script(world: &World, python: &str, name: &str, arguments: &[&str], trust: &str) -> (String, Vec<Asked>) {
    let sandbox = world.sandbox();
    let command = || {
        let mut command = sandbox.command(python);
        command.arg(script(name)).args(arguments);
        command
    };
    world.distrusts(&mut command());
    world.streams(trusting(&mut command(), &[trust]))
}

fn anthropic(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (printed, asked) = streams_by_script(world, &python, "use_anthropic.py", &[], "SSL_CERT_FILE");
    assert!(printed.contains(&format!("whole: {FIRST} {LAST}\npart: {FIRST}\n")), "{printed}");
    assert_eq!(asked.len(), 2);
    assert_credentials(&asked, ANTHROPIC_HOST, 2);
    works(
        version_of(&python, "anthropic"),
        "`ANTHROPIC_API_KEY` (placeholder), `SSL_CERT_FILE`",
        "yes: whole and streamed",
    )
}

fn openai(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    for api in ["chat", "responses"] {
        let (_, asked) = streams_by_script(world, &python, "use_openai.py", &[api], "SSL_CERT_FILE");
        assert_eq!(asked.len(), 1);
        assert_credentials(&asked, OPENAI_HOST, 1);
    }
    let needs = "`OPENAI_API_KEY` (placeholder), `SSL_CERT_FILE`";
    works(version_of(&python, "openai"), needs, "yes: chat and responses, streamed")
}

fn google_genai(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (printed, asked) = streams_by_script(world, &python, "use_google_genai.py", &[], "SSL_CERT_FILE");
    assert!(printed.contains(&format!("whole: {FIRST} {LAST}\npart: {FIRST}\n")), "{printed}");
    assert_eq!(asked.len(), 2);
    assert_credentials(&asked, GEMINI_HOST, 2);
    let needs = "`GEMINI_API_KEY` (placeholder), `SSL_CERT_FILE`";
    works(version_of(&python, "google-genai"), needs, "yes: whole and streamed")
}

fn requests(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_requests.py", &[], "REQUESTS_CA_BUNDLE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version_of(&python, "requests"), "`REQUESTS_CA_BUNDLE`", "yes: streams")
}

fn httpx(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_httpx.py", &[], "SSL_CERT_FILE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version_of(&python, "httpx"), "`SSL_CERT_FILE`", "yes: streams")
}

fn urllib(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_urllib.py", &[], "SSL_CERT_FILE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version(&python, "--version", "Python "), "`SSL_CERT_FILE`", "yes: streams")
}

fn node(world: &World) -> Result<Row, Skipped> {
    installed("node")?;
    let sandbox = world.sandbox();
    let knows = "process.exit(process.allowedNodeEnvironmentFlags.has('--use-env-proxy') ? 0 : 1)";
    let number = version("node", "--version", "v");
    let needs = "`NODE_EXTRA_CA_CERTS`, `NODE_USE_ENV_PROXY=1`";
    if Command::new("node").args(["-e", knows]).status().unwrap().success() {
        let (_, asked) = world.streams(sandbox.command("node").arg(script("use_fetch.mjs")));
        assert_credentials(&asked, OPENAI_HOST, 1);
        return works(number, needs, "yes: streams");
    }
    let before = world.scripted.asked().len();
    let finished = Finished::of(sandbox.command("node").arg(script("use_fetch.mjs")));
    assert!(finished.code != Some(0) && finished.stderr.contains("fetch failed"), "{finished:?}");
    assert_eq!(world.scripted.asked().len(), before, "nothing arrives");
    works(number, needs, "no: before Node 22.21 and 24.5 it ignores the proxy's variables, and reaches nothing")
}

fn java(world: &World) -> Result<Row, Skipped> {
    ["java", "keytool"].into_iter().try_for_each(installed)?;
    let sandbox = world.sandbox();
    let needs = "`JAVA_TOOL_OPTIONS`, and a trust store of its own";
    std::fs::write(sandbox.home.join("ca.pem"), &sandbox.ca_pem).unwrap();
    let store = sandbox.home.join("trust.jks");
    let mut keytool = Command::new("keytool");
    keytool.args(["-importcert", "-noprompt", "-alias", "sallyport", "-storetype", "JKS", "-storepass", "changeit"]);
    keytool.arg("-file").arg(sandbox.home.join("ca.pem")).arg("-keystore").arg(&store);
    Finished::of(&mut keytool).success();
    // Without it, it reaches the gateway and does not trust it.
    let before = world.scripted.asked().len();
    let finished = Finished::of(sandbox.command("java").arg(script("UseHttpsUrlConnection.java")));
    assert!(finished.code != Some(0) && finished.stderr.contains("PKIX path building failed"), "{finished:?}");
    assert_eq!(world.scripted.asked().len(), before, "nothing arrives");
    let arguments = ["--java-trust-store", store.to_str().unwrap()];
    let variables = world.gateway.sandbox_env_with(sandbox.gateway_address, &arguments);
    let mut command = sandbox.command("java");
    command.env("JAVA_TOOL_OPTIONS", &variables["JAVA_TOOL_OPTIONS"]).arg(script("UseHttpsUrlConnection.java"));
    let (_, asked) = world.streams(&mut command);
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version("java", "-version", "version \""), needs, "yes: streams; without the trust store no")
}

// The programs.

fn curl(world: &World) -> Result<Row, Skipped> {
    for http in ["--http1.1", "--http2"] {
        let sandbox = world.sandbox();
        let mut command = sandbox.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--no-buffer",
            http,
            "-H",
            "content-type: application/json",
        ]);
        command.args(["-d", r#"{"model": "gpt-5", "stream": true}"#, "https://api.openai.com/v1/chat/completions"]);
        let (_, asked) = world.streams(trusting(&mut command, &["CURL_CA_BUNDLE"]));
        assert_credentials(&asked, OPENAI_HOST, 1);
        world.distrusts(&mut command);
    }
    works(version("curl", "--version", "curl "), "`CURL_CA_BUNDLE`", "yes: streams, HTTP/1.1 and HTTP/2")
}

fn wget(world: &World) -> Result<Row, Skipped> {
    installed("wget")?;
    let needs = "`--ca-certificate=FILE`, or `ca_certificate = FILE` in a file that `WGETRC` names";
    let sandbox = world.sandbox();
    let url = format!("https://pypi.org/simple/{PACKAGE}/");
    let fetched = |more: &[&str]| {
        let before = world.scripted.asked().len();
        let finished =
            Finished::of(sandbox.command("wget").args(["--quiet", "--tries=1", "-O", "-"]).args(more).arg(&url));
        (finished, world.scripted.asked().len() - before)
    };
    let bundle = world.gateway.sandbox_env(sandbox.gateway_address)["SSL_CERT_FILE"].clone();
    let (told, arrived) = fetched(&[&format!("--ca-certificate={bundle}")]);
    assert!(told.success().stdout.contains(".whl") && arrived == 1);
    let (by_variable, arrived) = fetched(&[]);
    let outcome = if by_variable.code == Some(0) {
        "yes; a wget of OpenSSL also by `SSL_CERT_FILE`"
    } else {
        assert_eq!(arrived, 0, "{by_variable:?}");
        "yes, when told so: with GnuTLS it reads no variable for its roots"
    };
    works(version("wget", "--version", "GNU Wget "), needs, outcome)
}

fn git_gnutls(world: &World) -> Result<Row, Skipped> {
    git(world, "gnutls")
}

fn git_openssl(world: &World) -> Result<Row, Skipped> {
    git(world, "openssl")
}

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

fn gh_of_the_machine(world: &World) -> Result<Row, Skipped> {
    installed("gh")?;
    gh(world, "gh")
}

fn gh_newer(world: &World) -> Result<Row, Skipped> {
    let program = std::env::var("NEWER_GH").unwrap_or_default();
    if program.is_empty() {
        return Err(Skipped::without("gh-newer", "not installed: tests/support/newer-gh.sh"));
    }
    gh(world, &program)
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

// The package managers.

fn pip(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    let mut command = sandbox.command(&python);
    command.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--target", "there", PACKAGE]);
    Finished::of(trusting(&mut command, &["PIP_CERT"])).success();
    assert!(sandbox.home.join("there/sallyport_fixture.py").exists());
    assert_hosts(world, before, &["pypi.org", "files.pythonhosted.org"]);
    std::fs::remove_dir_all(sandbox.home.join("there")).unwrap();
    world.distrusts(command.args(["--no-cache-dir", "--retries", "0"]));
    works(version_of(&python, "pip"), "`PIP_CERT`", "yes")
}

fn uv(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let uv = clients().join("sdks/bin/uv").display().to_string();
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    let mut command = sandbox.command(&uv);
    command.args(["pip", "install", "--no-config", "--python", &python, "--target", "there", PACKAGE]);
    Finished::of(trusting(&mut command, &["SSL_CERT_FILE"])).success();
    assert!(sandbox.home.join("there/sallyport_fixture.py").exists());
    assert_hosts(world, before, &["pypi.org", "files.pythonhosted.org"]);
    std::fs::remove_dir_all(sandbox.home.join("there")).unwrap();
    world.distrusts(command.arg("--no-cache"));
    works(version(&uv, "--version", "uv "), "`SSL_CERT_FILE`", "yes")
}

fn cargo(world: &World) -> Result<Row, Skipped> {
    // Not rustup's, which looks for its toolchains at home.
    let cargo = std::env::var("CARGO").expect("cargo sets it");
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    std::fs::create_dir_all(sandbox.home.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"own\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\n{PACKAGE} = \"1\"\n"
    );
    std::fs::write(sandbox.home.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(sandbox.home.join("src/lib.rs"), "").unwrap();
    let mut command = sandbox.command(&cargo);
    let tools = Path::new(&cargo).parent().unwrap().display().to_string();
    command.env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap()));
    command.args(["fetch", "--quiet"]);
    Finished::of(trusting(&mut command, &["CARGO_HTTP_CAINFO"])).success();
    let locked = std::fs::read_to_string(sandbox.home.join("Cargo.lock")).unwrap();
    assert!(locked.contains(PACKAGE), "{locked}");
    assert_hosts(world, before, &["index.crates.io", "static.crates.io"]);
    for kept in ["Cargo.lock", ".cargo/registry"] {
        let kept = sandbox.home.join(kept);
        if kept.is_dir() { std::fs::remove_dir_all(kept) } else { std::fs::remove_file(kept) }.unwrap();
    }
    world.distrusts(&mut command);
    works(version(&cargo, "--version", "cargo "), "`CARGO_HTTP_CAINFO`", "yes")
}

/// What arrived since `before` was for these hosts, for each of them, and had no credential.
#[track_caller]
fn assert_hosts(world: &World, before: usize, hosts: &[&str]) {
    let asked = world.scripted.asked().split_off(before);
    assert!(
        asked.iter().all(|asked| hosts.contains(&asked.head.host.as_str()) && has_its_credential(asked)),
        "{asked:#?}"
    );
    for host in hosts {
        assert!(asked.iter().any(|asked| asked.head.host == *host), "{host}: {asked:#?}");
    }
}
