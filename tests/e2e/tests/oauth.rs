//! A login that the gateway owns: refreshed once whoever asks, on disk before it is used, and never in a sandbox.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use test_support::gateway::pins;
use test_support::process::Signal;
use test_support::upstream::tokens;
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, disk, eventually, scratch, secrets};

const PATH: &str = "/backend-api/codex/responses";

/// As long as a refresh may take to be begun and ended.
const REFRESHED: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3_600);

/// How often the gateway is killed around a refresh.
const KILLS: u32 = 12;

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

impl Login {
    /// One that ends in `seconds`, at an endpoint that takes `delay`.
    fn start(seconds: i64, delay: Duration) -> Self {
        Self::start_after(seconds, delay, |_| {})
    }

    /// The same, with something done before the gateway's start.
    fn start_after(seconds: i64, delay: Duration, before: impl FnOnce(&Gateway)) -> Self {
        let upstream = Upstream::start();
        upstream.tokens().set(delay, HOUR);
        let file = scratch("keys").join("auth.json");
        write(&file, 0, seconds);
        let settings = format!(
            "credentials: {{keyed: {{host: keyed.example.com, from: {{env: KEYED}}}}}}\n{}",
            pins(&upstream, &[])
        );
        let set = [("CODEX_AUTH_FILE", file.to_str().unwrap()), ("KEYED", "keyed_fixture_8Jd")];
        let gateway = Gateway::configure("strip_foreign_credentials: true\n", &settings, &set);
        before(&gateway);
        gateway.up();
        Self { rig: Rig { upstream, gateway }, file }
    }

    fn saved(&self) -> Value {
        let text = std::fs::read_to_string(self.rig.gateway.state.join("tokens/codex.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn refreshed(&self, number: u64) {
        eventually("the new login is saved", REFRESHED, || {
            (self.saved()["tokens"]["refresh_token"] == tokens::refresh(number).as_str()).then_some(())
        });
    }

    /// The access tokens and the accounts of what arrived at `path`.
    fn arrived(&self, path: &str) -> Vec<(String, String)> {
        let text = |value: &[&[u8]]| String::from_utf8_lossy(&value.concat()).into_owned();
        let requests = self.rig.upstream.requests_with(path);
        requests.iter().map(|r| (text(&r.header("authorization")), text(&r.header("chatgpt-account-id")))).collect()
    }
}

async fn client(sandbox: &Sandbox, host: &str) -> Client {
    Client::connect(sandbox, sandbox.address, host, Http::One).await.unwrap()
}

#[tokio::test]
async fn a_hundred_requests_at_its_end_are_one_refresh_and_all_carry_the_new_token_and_the_account() {
    let login = Login::start(3_000, Duration::from_millis(2_500));
    let sandbox = login.rig.registered(&[]);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(client(&sandbox, "chatgpt.com").await);
    }
    write(&login.file, 0, -1);
    eventually("the endpoint is asked", REFRESHED, || (login.rig.upstream.tokens().newest() == 1).then_some(()));
    let waiting = login.saved()["tokens"]["refresh_token"] == tokens::refresh(0).as_str();
    assert!(waiting, "the answer has not come yet");
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

    // A 401 begins one more, which the floor of a minute then puts off: none here.
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

#[test]
fn a_401_of_the_provider_begins_one_refresh() {
    let login = Login::start(3_000, Duration::ZERO);
    let sandbox = login.rig.registered(&[]);
    for _ in 0..5 {
        assert_eq!(sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]).status, 401);
    }
    login.refreshed(1);
    for _ in 0..5 {
        assert_eq!(sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]).status, 401);
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(login.rig.upstream.tokens().asked(), (1, 0));
}

#[test]
fn a_sandbox_that_asks_a_token_endpoint_gets_a_placeholder_and_nothing_goes_on() {
    let login = Login::start(3_000, Duration::ZERO);
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
    // Those of logins that there are not are not there.
    let other = sandbox.curl(&["--http1.1", "-d", &body, "https://oauth2.googleapis.com/token"]);
    assert_eq!((other.status, other.rule().as_deref()), (403, Some("egress.host")));
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_delays_nobody_else() {
    let login = Login::start(-1, Duration::from_secs(15));
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
    let during = median(&mut keyed).await;
    let mut codex = client(&sandbox, "chatgpt.com").await;
    let began = Instant::now();
    let refused = codex.post(PATH, "application/json", "{}".into()).await.unwrap();
    println!("waited {:?}, then {} {:?}", began.elapsed(), refused.status, refused.rule);
    assert_eq!((refused.status, refused.rule.as_deref()), (503, Some("credentials.source")));
    assert_eq!(login.saved()["tokens"]["refresh_token"], tokens::refresh(0).as_str(), "it still hangs");
    login.refreshed(1);
    let after = median(&mut keyed).await;
    println!("median while the endpoint hangs {during:?}, after {after:?}");
    assert!(during < after + Duration::from_millis(5), "{during:?} {after:?}");
}

/// The endpoint takes no token twice: one that is lost, or used again, is the end of the login.
#[test]
fn a_kill_around_a_refresh_loses_no_login() {
    let login = Login::start(-1, Duration::ZERO);
    let (upstream, gateway) = (&login.rig.upstream, &login.rig.gateway);
    let sandbox = login.rig.registered(&[]);
    login.refreshed(1);
    for kill in 0..KILLS {
        gateway.signal(Signal::KILL);
        gateway.ended(REFRESHED);
        // A new login that has ended: the next start refreshes it at once.
        let newest = upstream.tokens().newest();
        write(&login.file, newest, -1);
        // A killed gateway is of no use to the one answer; for that it takes longer, in every second round.
        let delay = Duration::from_millis(if kill % 2 == 0 { 0 } else { 1_500 });
        upstream.tokens().set(delay, HOUR);
        gateway.serve();
        eventually("it is asked", REFRESHED, || (upstream.tokens().newest() == newest + 1).then_some(()));
        std::thread::sleep(Duration::from_micros(u64::from(kill) * 1_500));
        gateway.signal(Signal::KILL);
        gateway.ended(REFRESHED);
        if delay > Duration::ZERO {
            let saved = login.saved();
            assert_eq!(saved["tokens"]["refresh_token"], tokens::refresh(newest).as_str(), "kill {kill} was too late");
        }
        // The next one finds either the new login, or that it is on its way and worth waiting for.
        gateway.up();
        let served = sandbox.curl(&["-d", "{}", &format!("https://chatgpt.com{PATH}")]);
        assert_eq!(served.status, 200, "kill {kill}: {served:?}");
        let expected = format!("Bearer {}", tokens::access(newest + 1));
        assert_eq!(login.arrived(PATH).last().unwrap().0, expected, "kill {kill}");
        assert_eq!(upstream.tokens().asked(), (u64::from(kill) + 2, 0), "kill {kill}");
    }
}

#[test]
fn on_a_full_disk_nothing_is_asked_and_what_was_asked_before_has_its_room() {
    let login = Login::start_after(3_000, Duration::from_secs(3), |gateway| {
        disk::small(&gateway.state.join("tokens"), "128k");
    });
    let (upstream, gateway) = (&login.rig.upstream, &login.rig.gateway);
    let filler = gateway.state.join("tokens/filler");
    let sandbox = login.rig.registered(&[]);
    let problem = |what: &str| gateway.call("GET", "/readyz", None).1.contains(what);

    disk::fill(&filler);
    for _ in 0..2 {
        assert_eq!(sandbox.curl(&["https://chatgpt.com/backend-api/wham/usage"]).status, 401);
    }
    eventually("it is told", REFRESHED, || problem("No space left on device").then_some(()));
    assert_eq!(upstream.tokens().asked(), (0, 0));
    let served = sandbox.curl(&["-d", "{}", &format!("https://chatgpt.com{PATH}")]);
    assert_eq!(served.status, 200, "the token in force goes on: {served:?}");

    // There is room again, and none from when the endpoint was asked.
    std::fs::remove_file(&filler).unwrap();
    eventually("it is asked", REFRESHED, || (upstream.tokens().newest() == 1).then_some(()));
    disk::fill(&filler);
    assert_eq!(login.saved()["tokens"]["refresh_token"], tokens::refresh(0).as_str(), "the answer has not come");
    login.refreshed(1);
    eventually("nothing is wrong", REFRESHED, || (!problem("auth.json")).then_some(()));
    // Neither on a full disk nor after it.
    gateway.signal(Signal::KILL);
    gateway.ended(REFRESHED);
    gateway.up();
    assert_eq!(sandbox.curl(&["-d", "{}", &format!("https://chatgpt.com{PATH}")]).status, 200);
    assert_eq!(login.arrived(PATH).last().unwrap().0, format!("Bearer {}", tokens::access(1)));
    assert_eq!(upstream.tokens().asked(), (1, 0));
}
