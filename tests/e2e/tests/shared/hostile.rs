//! Attacks by a sandbox, or by a web page in the operator's browser. Each test is one attack. It checks both ends: the
//! response that the attacker gets, and the requests that arrive upstream.

mod admin;
mod framing;
mod handshake;
mod policy_file;
mod refused;
mod requests;

use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use test_support::upstream::Visibility;
use test_support::{Answer, Client, Http, Rig, Sandbox};
use tokio::sync::Mutex;

/// The repository of every registered container here.
const REPO: &str = "acme/app";
/// A host for which there is no credential.
const PLAIN: &str = "files.example.net";
/// The timeout for a handshake that fails.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// The lock of tests that use the whole machine, and of tests that measure time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The shared rig, for attacks that do not disturb other tests.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let rig = Rig::start();
        rig.upstream.create_repo(REPO, Visibility::Private);
        rig
    })
}

async fn connect(sandbox: &Sandbox, host: &str, http: Http) -> Client {
    Client::connect(sandbox, sandbox.address, host, http).await.unwrap()
}

/// Requests `https://host/path` on a new connection.
async fn get(sandbox: &Sandbox, host: &str, path: &str) -> Answer {
    connect(sandbox, host, Http::Two).await.get(path).await.unwrap()
}

/// The JSON of a refusal.
fn refusal(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("no refusal: {error}: {body}"))
}

/// Asserts that the response has `status`, and `rule` in its header and its body.
#[track_caller]
fn assert_refused(what: &str, answer: &Answer, status: u16, rule: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (status, Some(rule)), "{what}: {answer:?}");
    assert_eq!(refusal(&answer.body)["rule"], rule, "{what}: {answer:?}");
}

#[track_caller]
fn assert_nothing_arrived(rig: &Rig, text: &str) {
    let arrived = rig.upstream.requests_with(text);
    assert!(arrived.is_empty(), "{arrived:?}");
}

#[track_caller]
fn assert_ready(rig: &Rig, after: &str) {
    let (status, body) = rig.gateway.call("GET", "/readyz", None);
    assert_eq!(status, 200, "after {after}: {body}");
}

/// A file of `megabytes` of zeros.
fn nothing(sandbox: &Sandbox, megabytes: u64) -> PathBuf {
    let path = sandbox.home.join(format!("{megabytes}-megabytes"));
    File::create(&path).unwrap().set_len(megabytes << 20).unwrap();
    path
}
