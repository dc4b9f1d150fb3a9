//! What a sandbox, or a web page at the operator's, would try: each test is one attack, and looks at both ends of it,
//! at what the attacker got and at what arrived upstream.

mod admin;
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

/// What every registered container here has.
const REPO: &str = "acme/app";
/// A host for which there is no credential.
const PLAIN: &str = "files.example.net";
/// The longest that a handshake may take which fails.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Held by tests that take all of the machine, and by tests about time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// For the attacks that disturb nobody.
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

/// Asks for `https://host/path` on a connection of its own.
async fn get(sandbox: &Sandbox, host: &str, path: &str) -> Answer {
    connect(sandbox, host, Http::Two).await.get(path).await.unwrap()
}

/// The JSON of a refusal.
fn refusal(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("no refusal: {error}: {body}"))
}

/// The answer is `status` with this rule, in the header and in the body.
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

// Refusals.

/// A file of `megabytes` of nothing.
fn nothing(sandbox: &Sandbox, megabytes: u64) -> PathBuf {
    let path = sandbox.home.join(format!("{megabytes}-megabytes"));
    File::create(&path).unwrap().set_len(megabytes << 20).unwrap();
    path
}
