//! Pushes that no git sends, false claims about refs, and hostile servers and responses. Each test checks the client's
//! response, the bytes that arrived upstream, and the refs.

mod answers;
mod body;
mod races;
mod server;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use test_support::client::tls;
use test_support::push::{CONTENT_TYPE, Update, Upload, Work, ZERO, at, list, pkt};
use test_support::raw::{self, h2};
use test_support::upstream::pranks::Api;
use test_support::upstream::{Recorded, Visibility};
use test_support::{Answer, Http, Rig, Sandbox, eventually, eventually_async};

/// The timeout of a wait whose length is not tested.
const SOON: Duration = Duration::from_secs(10);
/// The longest wait of a push for a response, with a margin for the machine.
const PATIENCE: Duration = Duration::from_secs(18);
/// The time in which a byte or a ref that must wait would have moved.
const COULD_PASS: Duration = Duration::from_millis(500);
/// The trailer of a pack. No server accepts a pack without it.
const TRAILER: u64 = 20;
/// The branch of most pushes.
const X: &str = "refs/heads/sandbox/x";
const Y: &str = "refs/heads/sandbox/y";

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

/// A repository of one test, with a container that may push to it.
struct Place<'a> {
    rig: &'a Rig,
    repo: String,
    bare: PathBuf,
    work: Work,
    sandbox: Sandbox,
    seed: String,
}

impl<'a> Place<'a> {
    fn new(rig: &'a Rig, name: &str) -> Self {
        let repo = format!("acme/{name}");
        let bare = rig.upstream.create_repo(&repo, Visibility::Private);
        let work = Work::of(&bare);
        let (seed, sandbox) = (work.seed(), rig.registered(&[&repo]));
        Self { rig, repo, bare, work, sandbox, seed }
    }

    fn at(&self, name: &str) -> Option<String> {
        at(&self.bare, name)
    }

    /// The requests of pushes that have arrived.
    fn arrived(&self) -> Vec<Recorded> {
        let mut requests = self.rig.upstream.requests_with(&self.repo);
        let [plain, suffixed] = [format!("/{}/", self.repo), format!("/{}.git", self.repo)];
        requests.retain(|request| request.path.starts_with(&plain) || request.path.starts_with(&suffixed));
        let read = |request: &Recorded| request.method == "GET" || request.path.ends_with("/git-upload-pack");
        requests.retain(|request| !request.is_own() && !read(request));
        requests
    }

    fn bytes(&self) -> u64 {
        self.arrived().iter().map(|request| request.body_bytes).sum()
    }

    fn compared(&self) -> usize {
        self.rig.upstream.requests_with(&format!("{}/compare/", self.repo)).len()
    }

    /// The body of a push with the objects that `updates` need and `without` lacks.
    fn body(&self, updates: &[Update<'_>], without: &[&str]) -> Vec<u8> {
        let wanted: Vec<&str> = updates.iter().map(|update| update.1).filter(|new| *new != ZERO).collect();
        let pack = if wanted.is_empty() { vec![] } else { self.work.pack(&wanted, without) };
        [list(updates), pack].concat()
    }

    /// A push that creates [`X`] from a new commit, and the commit.
    fn new_branch(&self, text: &str) -> (String, Vec<u8>) {
        let new = self.work.commit(&[&self.seed], text);
        let body = self.body(&[(ZERO, &new, X)], &[&self.seed]);
        (new, body)
    }

    /// Moves [`X`] to a new commit, and returns the commit with a push that claims the old value.
    fn overtaken(&self) -> (String, Vec<u8>) {
        let (work, seed) = (&self.work, &self.seed);
        let (tip, aside) = (work.commit(&[seed], "tip"), work.commit(&[seed], "aside"));
        work.deliver(&tip, X);
        (tip, self.body(&[(seed, &aside, X)], &[seed]))
    }

    fn path(&self) -> String {
        format!("/{}.git/git-receive-pack", self.repo)
    }

    async fn push(&self, http: Http, body: &[u8]) -> Answer {
        self.send(http, "POST", &self.path(), &[("content-type", CONTENT_TYPE)], body).await
    }

    /// Any request to github.com, on its own connection.
    async fn send(&self, http: Http, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = tls(&self.sandbox, self.sandbox.address, "github.com", http).await.unwrap();
        match http {
            Http::One => raw::ask(&mut stream, &one(method, path, headers, body)).await.unwrap(),
            Http::Two => {
                let fields = two(method, path, headers);
                let heard = h2::ask(&mut stream, h2::Request { fields: &fields, body, trailers: &[] }).await.unwrap();
                heard.answer()
            }
        }
    }
}

fn one(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: github.com\r\nUser-Agent: git/2.47.3\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn two<'a>(method: &'a str, path: &'a str, headers: &[(&'a str, &'a str)]) -> Vec<h2::Field<'a>> {
    let fixed: [h2::Field<'a>; 5] = [
        (b":method", method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", b"github.com"),
        (b":path", path.as_bytes()),
        (b"user-agent", b"git/2.47.3"),
    ];
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    fixed.into_iter().chain(headers).collect()
}

#[track_caller]
fn assert_refused(what: &str, answer: &Answer, status: u16, rule: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (status, Some(rule)), "{what}: {answer:?}");
}

/// Checks git's own report: no ref of the push is reported as moved.
#[track_caller]
fn assert_reported(what: &str, answer: &Answer, rule: &str) {
    assert_refused(what, answer, 200, rule);
    let told = answer.body.contains(&format!("push refused (rule {rule})")) && answer.body.contains("ng refs/");
    assert!(told && !answer.body.contains("ok refs/"), "{what}: {answer:?}");
}

#[track_caller]
fn assert_done(what: &str, answer: &Answer, name: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{what}: {answer:?}");
    assert!(answer.body.contains("unpack ok") && answer.body.contains(&format!("ok {name}")), "{what}: {answer:?}");
}

const BOTH: [Http; 2] = [Http::One, Http::Two];

// The wait of a push.

/// A push that waits for a response of GitHub. All of it has arrived, and all but the trailer was forwarded.
struct Waiting<'a> {
    place: Place<'a>,
    upload: Upload,
    body: Vec<u8>,
    new: String,
    api: String,
}

impl<'a> Waiting<'a> {
    async fn begin(rig: &'a Rig, name: &str) -> Self {
        let place = Place::new(rig, name);
        let api = format!("{}/refs/", place.repo);
        let (new, body) = place.new_branch(name);
        rig.upstream.set_api(&api, Some(Api::Held));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        let all_but = body.len() as u64 - TRAILER;
        eventually("all but the trailer was forwarded", SOON, || (place.bytes() == all_but).then_some(()));
        eventually("the refs are read", SOON, || (rig.upstream.refs_read(&place.repo) == 1).then_some(()));
        Self { place, upload, body, new, api }
    }

    fn assert_nothing_moved(&self) {
        assert_eq!(self.place.at(X), None);
        assert_eq!(self.place.bytes(), self.body.len() as u64 - TRAILER);
    }

    fn release(&self) {
        self.place.rig.upstream.set_api(&self.api, None);
    }

    async fn again(&self) {
        let what = "the next try";
        let done = eventually_async(what, PATIENCE, async || {
            let answer = self.place.push(Http::Two, &self.body).await;
            if answer.rule.is_none() && answer.status == 200 { Ok(answer) } else { Err(answer) }
        });
        assert_done(what, &done.await, X);
        assert_eq!(self.place.at(X).as_ref(), Some(&self.new));
    }
}

// Servers.

/// The report of git's server on a success.
fn success(name: &str) -> Vec<u8> {
    let report = [pkt(b"unpack ok\n"), pkt(format!("ok {name}\n").as_bytes()), b"0000".to_vec()].concat();
    [pkt(&[&[1], &report[..]].concat()), b"0000".to_vec()].concat()
}
