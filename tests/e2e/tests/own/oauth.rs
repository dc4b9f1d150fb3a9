//! A login that the gateway owns: refreshed once for all requests, on disk before its use, and never in a sandbox.

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use test_support::process::{self, Signal};
use test_support::upstream::tokens;
use test_support::{
    Client, Curled, Finished, Gateway, Http, Rig, Sandbox, Upstream, disk, eventually, holds, scratch, secrets,
};

const PATH: &str = "/backend-api/codex/responses";

/// The timeout for the start and the end of a refresh.
const REFRESHED: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3_600);

/// A token endpoint that responds at once.
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// A token endpoint that holds its response until the test releases it.
const HELD: Option<Duration> = None;

/// The number of kills around a refresh.
const KILLS: u32 = 12;

/// The additional delay of each kill, so that kills hit different moments of a refresh.
const LATER: Duration = Duration::from_micros(1_500);

/// The interval in which the gateway checks its logins.
const LOOK: Duration = Duration::from_secs(1);

struct Login {
    rig: Rig,
    file: PathBuf,
}

/// Unix time `seconds` from now.
fn at(seconds: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + seconds
}

fn write(file: &PathBuf, number: u64, seconds: i64) {
    let text = json!({
        "OPENAI_API_KEY": null, "kept": {"by": ["us"]}, "expires_at": at(seconds),
        "tokens": {"id_token": "id", "access_token": tokens::access(number), "refresh_token": tokens::refresh(number), "account_id": "account-1"},
    });
    std::fs::write(file, text.to_string()).unwrap();
}

/// A gateway with these entries of `credentials:` and these variables, started by `up`. Its token endpoints take
/// `delay`, or hold their responses.
fn rig(credentials: &str, variables: &[(&str, &str)], delay: Option<Duration>, up: impl FnOnce(&Gateway)) -> Rig {
    let upstream = Upstream::start();
    upstream.tokens().set(delay, HOUR);
    let credentials = format!("credentials: {{{credentials}}}\n");
    let builder = Gateway::with("strip_foreign_credentials: true\n").settings(&credentials).upstream(&upstream);
    let gateway = builder.envs(variables).build();
    up(&gateway);
    Rig { upstream, gateway }
}

/// The JSON in a file. Null if the file does not exist or is not JSON.
fn read(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap_or_default()).unwrap_or_default()
}

impl Login {
    /// A login of Codex that ends in `seconds`, with an endpoint that takes `delay`, or that holds its response.
    fn start(seconds: i64, delay: Option<Duration>) -> Self {
        Self::start_by(seconds, delay, Gateway::up)
    }

    /// The same, with a gateway that `up` starts.
    fn start_by(seconds: i64, delay: Option<Duration>, up: impl FnOnce(&Gateway)) -> Self {
        let file = scratch("keys").join("auth.json");
        write(&file, 0, seconds);
        let keyed = "keyed: {host: keyed.example.com, from: {env: KEYED}}";
        let set = [("CODEX_AUTH_FILE", file.to_str().unwrap()), ("KEYED", "keyed_fixture_8Jd")];
        let rig = rig(keyed, &set, delay, up);
        Self { rig, file }
    }

    fn saved(&self) -> Value {
        read(&self.rig.gateway.state.join("tokens/codex.json"))
    }

    fn refreshed(&self, number: u64) {
        eventually("the new login is saved", REFRESHED, || {
            (self.saved()["tokens"]["refresh_token"] == tokens::refresh(number).as_str()).then_some(())
        });
    }

    /// Waits until the endpoint has issued the token of this number.
    fn asked(&self, number: u64) {
        let tokens = self.rig.upstream.tokens();
        eventually("the endpoint gets the request", REFRESHED, || (tokens.newest() == number).then_some(()));
    }

    fn arrived(&self, path: &str) -> Vec<(String, String)> {
        arrived(&self.rig.upstream, path)
    }
}

/// The access tokens and the accounts of the requests for `path`.
fn arrived(upstream: &Upstream, path: &str) -> Vec<(String, String)> {
    let text = |value: &[&[u8]]| String::from_utf8_lossy(&value.concat()).into_owned();
    let requests = upstream.requests_with(path);
    requests.iter().map(|r| (text(&r.header("authorization")), text(&r.header("chatgpt-account-id")))).collect()
}

/// The request of Codex.
fn post(sandbox: &Sandbox) -> Curled {
    sandbox.curl(&["-H", "content-type: application/json", "-d", "{}", &format!("https://chatgpt.com{PATH}")])
}

async fn client(sandbox: &Sandbox, host: &str) -> Client {
    Client::connect(sandbox, sandbox.address, host, Http::One).await.unwrap()
}

#[tokio::test]
async fn a_hundred_requests_at_its_end_are_one_refresh_and_all_carry_the_new_token_and_the_account() {
    let login = Login::start(3_000, Some(Duration::from_millis(1_500)));
    let sandbox = login.rig.registered(&[]);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(client(&sandbox, "chatgpt.com").await);
    }
    write(&login.file, 0, -1);
    login.asked(1);
    let waiting = login.saved()["tokens"]["refresh_token"] == tokens::refresh(0).as_str();
    assert!(waiting, "the endpoint has not responded yet");
    let began = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move { client.post(PATH, "application/json", "{}".into()).await.unwrap().status })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    println!("100 requests, begun before the answer, took {:?}", began.elapsed());
    let arrived = login.arrived(PATH);
    assert_eq!(arrived.len(), 100);
    let expected = (format!("Bearer {}", tokens::access(1)), "account-1".to_owned());
    assert!(arrived.iter().all(|found| *found == expected), "{arrived:?}");
    assert_eq!(login.rig.upstream.tokens().asked(), (1, 0));
    let saved = login.saved();
    assert_eq!((&saved["kept"], &saved["tokens"]["account_id"]), (&json!({"by": ["us"]}), &json!("account-1")));

    // A 401 asks for one more refresh. The minimum interval of a minute delays it, so the count stays the same.
    sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]);
    login.rig.gateway.audit_line("the 401", |line| line["status"] == 401);
    assert_eq!(login.rig.upstream.tokens().asked(), (1, 0));
    no_secret_is_anywhere_else(&login, &sandbox);
}

fn no_secret_is_anywhere_else(login: &Login, sandbox: &Sandbox) {
    let mut texts = login.rig.gateway.readable();
    texts.extend(secrets::files(&sandbox.home));
    for secret in [tokens::access(0), tokens::refresh(0), tokens::access(1), tokens::refresh(1)] {
        secrets::assert_absent(&secret, &texts);
    }
    assert!(texts.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("sallyport_credentials_refreshed")));
}

/// One program's login and its use.
struct Program {
    /// The credential, which is also the name of the gateway's own file.
    credential: &'static str,
    /// The login with a number and an end in milliseconds, as the program writes it.
    file: fn(u64, i64) -> Value,
    /// The path of its end in the JSON.
    ends: &'static str,
    /// Its entry in `credentials:`, and the variables beside `FILE`'s; `FILE` is the file.
    entry: &'static str,
    variables: &'static [(&'static str, &'static str)],
    /// The sandbox's request.
    url: &'static str,
    /// The token endpoint, and the program's request for a new token.
    endpoint: &'static str,
    question: &'static [&'static str],
}

const JSON: &[&str] =
    &["-H", "content-type: application/json", "-d", r#"{"grant_type":"refresh_token","refresh_token":"placeholder"}"#];

const PROGRAMS: [Program; 3] = [
    Program {
        credential: "gemini-cli",
        file: |number, ends| {
            json!({
                "access_token": tokens::access(number), "refresh_token": tokens::refresh(number), "expiry_date": ends,
                "scope": "openid", "token_type": "Bearer", "id_token": "id", "kept": [1],
            })
        },
        ends: "/expiry_date",
        entry: "",
        variables: &[
            ("GEMINI_OAUTH_FILE", "FILE"),
            ("GEMINI_OAUTH_CLIENT_ID", "id"),
            ("GEMINI_OAUTH_CLIENT_SECRET", "client_fixture_5Rt"),
        ],
        url: "https://cloudcode-pa.googleapis.com/v1internal:generateContent",
        endpoint: "https://oauth2.googleapis.com/token",
        question: &["-d", "grant_type=refresh_token&refresh_token=placeholder"],
    },
    Program {
        credential: "anthropic",
        file: |number, ends| {
            json!({"claudeAiOauth": {
                "accessToken": tokens::access(number), "refreshToken": tokens::refresh(number), "expiresAt": ends,
                "scopes": ["user:inference"], "subscriptionType": "max",
            }, "kept": {"mcp": true}})
        },
        ends: "/claudeAiOauth/expiresAt",
        entry: "",
        variables: &[("CLAUDE_OAUTH_FILE", "FILE")],
        url: "https://api.anthropic.com/v1/messages",
        endpoint: "https://console.anthropic.com/v1/oauth/token",
        question: JSON,
    },
    Program {
        credential: "openai",
        file: |number, ends| {
            json!({
                "openai": {
                    "type": "oauth", "access": tokens::access(number), "refresh": tokens::refresh(number), "expires": ends,
                },
                "groq": {"type": "api", "key": "other_fixture_3Lm"},
            })
        },
        ends: "/openai/expires",
        entry: "openai: {from: {oauth: opencode, provider: openai, file: FILE}}",
        variables: &[],
        url: "https://api.openai.com/v1/responses",
        endpoint: "https://auth.openai.com/oauth/token",
        question: JSON,
    },
];

/// Codex's login is that of the other tests.
#[test]
fn each_program_s_login_is_refreshed_and_stays_in_its_own_form() {
    for program in &PROGRAMS {
        let file = scratch("keys").join("login.json");
        std::fs::write(&file, (program.file)(0, at(-1) * 1_000).to_string()).unwrap();
        let named = |text: &str| text.replace("FILE", file.to_str().unwrap());
        let variables: Vec<(&str, String)> =
            program.variables.iter().map(|(name, value)| (*name, named(value))).collect();
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let rig = rig(&named(program.entry), &variables, AT_ONCE, Gateway::up);
        let sandbox = rig.registered(&[]);

        let curled = sandbox.curl(&[
            "-H",
            "authorization: Bearer placeholder",
            "-H",
            "content-type: application/json",
            "-d",
            "{}",
            program.url,
        ]);
        assert_eq!(curled.status, 200, "{}: {curled:?}", program.credential);
        let path = program.url.strip_prefix("https://").unwrap();
        let expected = format!("Bearer {}", tokens::access(1));
        assert_eq!(arrived(&rig.upstream, path), [(expected, String::new())], "{}", program.credential);

        let own = rig.gateway.state.join("tokens").join(format!("{}.json", program.credential));
        assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
        let saved = read(&own);
        let ends = saved.pointer(program.ends).and_then(Value::as_i64).unwrap_or_default();
        assert!((at(3_500)..=at(3_600)).contains(&(ends / 1_000)), "{saved}");
        assert_eq!(saved, (program.file)(1, ends), "{}: all else as it was", program.credential);
        assert_eq!(read(&file), (program.file)(0, read(&file).pointer(program.ends).unwrap().as_i64().unwrap()));

        let question = [&["--http1.1"], program.question, &[program.endpoint]].concat();
        let stub = sandbox.curl(&question);
        let answer: Value = serde_json::from_str(&stub.body).unwrap();
        let token = answer["access_token"].as_str().unwrap_or_default();
        assert!(stub.status == 200 && !token.is_empty() && !token.contains("fixture"), "{stub:?}");
        assert_eq!(rig.upstream.tokens().asked(), (1, 0), "{}", program.credential);
    }
}

#[test]
fn a_login_that_is_refused_for_good_is_told_everywhere_until_there_is_a_new_one() {
    let login = Login::start(3_000, AT_ONCE);
    let (gateway, upstream) = (&login.rig.gateway, &login.rig.upstream);
    let sandbox = login.rig.registered(&[]);
    let post = || {
        sandbox.curl(&[
            "--http1.1",
            "-H",
            "content-type: application/json",
            "-d",
            "{}",
            &format!("https://chatgpt.com{PATH}"),
        ])
    };
    let metric = |line: &str| gateway.call("GET", "/metrics", None).1.lines().any(|found| found == line);
    let told = |what: &str| gateway.warnings().iter().any(|warning| warning.contains(what));
    assert_eq!(post().status, 200);
    assert!(metric(r#"sallyport_credentials_failing{credential="codex"} 0"#));

    // A login whose refresh token another program has used.
    write(&login.file, 77, -1);
    eventually("a warning names the problem", REFRESHED, || {
        told("401 refresh_token_reused; log in again").then_some(())
    });
    let begun = Instant::now();
    let refused = post();
    assert_eq!((refused.status, refused.rule().as_deref()), (503, Some("credentials.source")), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "the refusal comes at once");
    assert!(metric(r#"sallyport_credentials_failing{credential="codex"} 1"#));
    assert!(metric(r#"sallyport_credentials_refreshed_total{credential="codex",what="refused"} 1"#));
    let doctor = Finished::of(&mut gateway.operator(&["doctor"]));
    assert!(doctor.stdout.contains("refresh_token_reused"), "{doctor:?}");
    holds("the refusal is final", 3 * LOOK, || upstream.tokens().asked() == (1, 1));

    write(&login.file, 0, -1);
    eventually("the request is served", REFRESHED, || (post().status == 200).then_some(()));
    assert!(!told("auth.json") && metric(r#"sallyport_credentials_failing{credential="codex"} 0"#));
    assert_eq!(arrived(upstream, PATH).last().unwrap().0, format!("Bearer {}", tokens::access(1)));
}

#[test]
fn a_401_of_the_provider_begins_one_refresh() {
    let login = Login::start(3_000, AT_ONCE);
    let sandbox = login.rig.registered(&[]);
    for _ in 0..5 {
        assert_eq!(sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]).status, 401);
    }
    login.refreshed(1);
    for _ in 0..5 {
        assert_eq!(sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]).status, 401);
    }
    holds("one refresh", 2 * LOOK, || login.rig.upstream.tokens().asked() == (1, 0));
}

#[test]
fn a_sandbox_that_asks_a_token_endpoint_gets_a_placeholder_and_nothing_goes_on() {
    let login = Login::start(3_000, AT_ONCE);
    let sandbox = login.rig.registered(&[]);
    let body = json!({"grant_type": "refresh_token", "refresh_token": "held-by-the-gateway"}).to_string();
    let curled = sandbox.curl(&[
        "--http1.1",
        "-H",
        "content-type: application/json",
        "-d",
        &body,
        "https://auth.openai.com/oauth/token",
    ]);
    assert_eq!(curled.status, 200, "{curled:?}");
    let answer: Value = serde_json::from_str(&curled.body).unwrap();
    assert_eq!(answer["access_token"].as_str().unwrap().split('.').count(), 3);
    for path in ["oauth/revoke", "api/accounts/deviceauth/usercode", "oauth/token/"] {
        let refused = sandbox.curl(&["--http1.1", "-d", &body, &format!("https://auth.openai.com/{path}")]);
        assert_eq!((refused.status, refused.rule().as_deref()), (403, Some("credentials.path")), "{path}");
    }
    let line = login.rig.gateway.audit_line("the stub", |line| line["path"] == "/oauth/token");
    assert_eq!((&line["rule"], &line["verdict"]), (&json!("credentials.stub"), &json!("allow")), "{line}");
    assert!(login.rig.upstream.requests_with("auth.openai.com").is_empty());
    // Endpoints without a configured login do not exist.
    let other = sandbox.curl(&["--http1.1", "-d", &body, "https://oauth2.googleapis.com/token"]);
    assert_eq!((other.status, other.rule().as_deref()), (403, Some("egress.host")));
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_delays_nobody_else() {
    let login = Login::start(-1, HELD);
    let sandbox = login.rig.registered(&[]);
    let mut keyed = client(&sandbox, "keyed.example.com").await;
    let median = async |client: &mut Client| {
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            assert_eq!(client.get("/x").await.unwrap().status, 200);
            times.push(began.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    };
    // Other work on the machine only adds delay.
    let median = async |client: &mut Client| {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            best = best.min(median(client).await);
        }
        best
    };
    let during = median(&mut keyed).await;
    let mut codex = client(&sandbox, "chatgpt.com").await;
    let began = Instant::now();
    let refused = codex.post(PATH, "application/json", "{}".into()).await.unwrap();
    println!("waited {:?}, then {} {:?}", began.elapsed(), refused.status, refused.rule);
    assert_eq!((refused.status, refused.rule.as_deref()), (503, Some("credentials.source")));
    assert_eq!(login.saved()["tokens"]["refresh_token"], tokens::refresh(0).as_str(), "the endpoint still hangs");
    login.rig.upstream.tokens().set(AT_ONCE, HOUR);
    login.refreshed(1);
    let after = median(&mut keyed).await;
    println!("median while the endpoint hangs {during:?}, after {after:?}");
    // A request that waits for the endpoint waits for seconds. Other tests begin and end between the two.
    assert!(during < after + Duration::from_millis(500), "{during:?} {after:?}");
}

/// The endpoint accepts no token twice: a lost or reused token is the end of the login.
#[test]
fn a_kill_around_a_refresh_loses_no_login() {
    // The kills concern the control plane alone, so Envoy is started once, beside it.
    let login = Login::start_by(-1, AT_ONCE, Gateway::up_apart);
    let (upstream, gateway) = (&login.rig.upstream, &login.rig.gateway);
    let sandbox = login.rig.registered(&[]);
    login.refreshed(1);
    for kill in 0..KILLS {
        gateway.signal(Signal::KILL);
        gateway.ended(REFRESHED);
        // A new, expired login: the next start refreshes it at once.
        let newest = upstream.tokens().newest();
        write(&login.file, newest, -1);
        // In every second round the endpoint holds its response, so that the kill comes before the response.
        let held = kill % 2 == 1;
        upstream.tokens().set(if held { HELD } else { AT_ONCE }, HOUR);
        gateway.serve();
        login.asked(newest + 1);
        // Each kill comes later in the refresh than the one before.
        std::thread::sleep(kill * LATER);
        gateway.signal(Signal::KILL);
        gateway.ended(REFRESHED);
        if held {
            let saved = login.saved();
            assert_eq!(saved["tokens"]["refresh_token"], tokens::refresh(newest).as_str(), "kill {kill}");
            upstream.tokens().set(AT_ONCE, HOUR);
        }
        // The next start finds the new login, or a refresh under way for which it waits.
        gateway.serve();
        eventually("the gateway serves again", REFRESHED, || (post(&sandbox).status == 200).then_some(()));
        let expected = format!("Bearer {}", tokens::access(newest + 1));
        assert_eq!(login.arrived(PATH).last().unwrap().0, expected, "kill {kill}");
        assert_eq!(upstream.tokens().asked(), (u64::from(kill) + 2, 0), "kill {kill}");
    }
}

#[test]
fn a_token_that_lasts_goes_on_while_a_refresh_of_an_earlier_run_is_under_way() {
    // Due for a refresh, and valid for some minutes more.
    let login = Login::start(200, HELD);
    let (upstream, gateway) = (&login.rig.upstream, &login.rig.gateway);
    let sandbox = login.rig.registered(&[]);
    login.asked(1);
    gateway.signal(Signal::KILL);
    gateway.ended(REFRESHED);
    gateway.up();
    let carried = || {
        let served = post(&sandbox);
        assert_eq!(served.status, 200, "{served:?}");
        login.arrived(PATH).last().unwrap().0.clone()
    };
    let first = carried();
    let saved = login.saved();
    assert_eq!(saved["tokens"]["refresh_token"], tokens::refresh(0).as_str(), "the refresh still runs");
    assert_eq!(first, format!("Bearer {}", tokens::access(0)));
    upstream.tokens().set(AT_ONCE, HOUR);
    login.refreshed(1);
    let renewed = format!("Bearer {}", tokens::access(1));
    eventually("the new token is in force", REFRESHED, || (carried() == renewed).then_some(()));
    assert_eq!(upstream.tokens().asked(), (1, 0));
    assert!(gateway.warnings().iter().all(|warning| !warning.contains("auth.json")), "{:?}", gateway.warnings());
}

/// The processes that refresh a login of `gateway`.
fn refreshing(gateway: &Gateway) -> Vec<u32> {
    let command = format!("sallyport\0refresh-login\0{}/", gateway.state.display());
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(command.as_bytes());
    pids.filter(is).collect()
}

#[test]
fn a_refresh_whose_process_is_killed_is_tried_again_and_told() {
    let login = Login::start(200, HELD);
    let (upstream, gateway) = (&login.rig.upstream, &login.rig.gateway);
    let sandbox = login.rig.registered(&[]);
    login.asked(1);
    let [child] = refreshing(gateway)[..] else { panic!("{:?}", refreshing(gateway)) };
    // The process gets the tokens neither by arguments nor by variables, which other processes could read.
    let seen = ["cmdline", "environ"].map(|file| std::fs::read(format!("/proc/{child}/{file}")).unwrap_or_default());
    assert!(!String::from_utf8_lossy(&seen.concat()).contains("fixture"), "{seen:?}");
    process::signal(child, Signal::KILL);
    upstream.tokens().set(AT_ONCE, HOUR);
    // The endpoint has used up that token. The gateway can't prevent this, and reports the endpoint's error.
    eventually("a warning names the problem", REFRESHED, || {
        gateway.warnings().iter().any(|warning| warning.contains("refresh_token_reused")).then_some(())
    });
    assert_eq!(upstream.tokens().asked(), (2, 1));
    let served = post(&sandbox);
    assert_eq!(served.status, 200, "the token in force is used until its end: {served:?}");
}

#[test]
fn on_a_full_disk_nothing_is_asked_and_what_was_asked_before_has_its_room() {
    let login = Login::start_by(3_000, Some(Duration::from_secs(3)), |gateway| {
        disk::small(&gateway.state.join("tokens"), "128k");
        gateway.up();
    });
    let (upstream, gateway) = (&login.rig.upstream, &login.rig.gateway);
    let filler = gateway.state.join("tokens/filler");
    let sandbox = login.rig.registered(&[]);
    let problem = |what: &str| gateway.call("GET", "/readyz", None).1.contains(what);

    disk::fill(&filler);
    for _ in 0..2 {
        assert_eq!(sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]).status, 401);
    }
    eventually("a warning names the problem", REFRESHED, || problem("No space left on device").then_some(()));
    assert_eq!(upstream.tokens().asked(), (0, 0));
    let served = post(&sandbox);
    assert_eq!(served.status, 200, "the token in force is still used: {served:?}");

    // Free space before the request to the endpoint, and a full disk from then on.
    std::fs::remove_file(&filler).unwrap();
    login.asked(1);
    disk::fill(&filler);
    assert_eq!(
        login.saved()["tokens"]["refresh_token"],
        tokens::refresh(0).as_str(),
        "the endpoint has not responded yet"
    );
    login.refreshed(1);
    eventually("the warning is gone", REFRESHED, || (!problem("auth.json")).then_some(()));
    // No login is lost, neither on a full disk nor after it.
    gateway.signal(Signal::KILL);
    gateway.ended(REFRESHED);
    gateway.up();
    assert_eq!(post(&sandbox).status, 200);
    assert_eq!(login.arrived(PATH).last().unwrap().0, format!("Bearer {}", tokens::access(1)));
    assert_eq!(upstream.tokens().asked(), (1, 0));
}
