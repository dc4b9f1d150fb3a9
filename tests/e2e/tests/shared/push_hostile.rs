//! Pushes that no git sends, lies about what is where, servers and answers that are nobody's friend: each test looks at
//! what the client was told, at how much arrived upstream, and at where the refs are.

use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use test_support::client::tls;
use test_support::filters::Filters;
use test_support::gateway::policy;
use test_support::process::{Signal, stopped};
use test_support::push::{CAPABILITIES, CONTENT_TYPE, Update, Upload, Work, ZERO, at, list, list_with, pkt};
use test_support::raw::{self, h2};
use test_support::upstream::pranks::{Api, End, Prank};
use test_support::upstream::{HOSTS, Recorded, Visibility, git};
use test_support::{Answer, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async, scratch};
use tokio::time::timeout;

/// The longest that what is only awaited may take.
const SOON: Duration = Duration::from_secs(10);
/// The longest that a push waits for an answer, with something for the machine.
const PATIENCE: Duration = Duration::from_secs(18);
/// The end of a pack, without which no server takes it.
const TRAILER: u64 = 20;
/// The branch that most pushes are about.
const X: &str = "refs/heads/sandbox/x";
const Y: &str = "refs/heads/sandbox/y";

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

/// A repository of a test's own, with a container that may push to it.
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

    /// What arrived of pushes.
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

    /// The body of a push with all that `updates` need and `without` has not.
    fn body(&self, updates: &[Update<'_>], without: &[&str]) -> Vec<u8> {
        let wanted: Vec<&str> = updates.iter().map(|update| update.1).filter(|new| *new != ZERO).collect();
        let pack = if wanted.is_empty() { vec![] } else { self.work.pack(&wanted, without) };
        [list(updates), pack].concat()
    }

    /// One that makes [`X`] from a new commit, and that commit.
    fn new_branch(&self, text: &str) -> (String, Vec<u8>) {
        let new = self.work.commit(&[&self.seed], text);
        let body = self.body(&[(ZERO, &new, X)], &[&self.seed]);
        (new, body)
    }

    /// A new commit that [`X`] is at, and a push that takes it to be where that began.
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

    /// Any request to github.com, on a connection of its own.
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

/// A body that has been cut up for HTTP/1.1.
fn chunked(head: &str, pieces: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut bytes = head.as_bytes().to_vec();
    for piece in pieces {
        bytes.extend([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    bytes.extend(end);
    bytes
}

#[track_caller]
fn assert_refused(what: &str, answer: &Answer, status: u16, rule: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (status, Some(rule)), "{what}: {answer:?}");
}

/// By git's own report: no ref of the push is said to be moved.
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

// Requests.

#[tokio::test]
async fn a_push_that_is_encoded_or_typed_otherwise_than_by_git_is_refused_and_nothing_of_it_arrives() {
    let place = Place::new(rig(), "typed");
    let (_, body) = place.new_branch("typed");
    let kind = ("content-type", CONTENT_TYPE);
    let upper = CONTENT_TYPE.to_uppercase();
    let (parametrised, twice, other) =
        (format!("{CONTENT_TYPE}; charset=utf-8"), format!("{CONTENT_TYPE}, {CONTENT_TYPE}"), "text/plain");
    let encoding = |value| vec![kind, ("content-encoding", value)];
    let mut cases: Vec<(Vec<(&str, &str)>, &str)> = ["gzip", "x-gzip", "br", "identity", "deflate", "GZIP", ""]
        .into_iter()
        .map(|value| (encoding(value), "push.encoding"))
        .collect();
    cases.push((vec![kind, ("content-encoding", "gzip"), ("content-encoding", "gzip")], "push.encoding"));
    for value in [upper.as_str(), &parametrised, &twice, other, "", "application/x-git-upload-pack-request"] {
        cases.push((vec![("content-type", value)], "push.content-type"));
    }
    cases.push((vec![kind, kind], "push.content-type"));
    cases.push((vec![kind, ("content-type", other)], "push.content-type"));
    cases.push((vec![], "push.content-type"));
    for http in BOTH {
        for (headers, rule) in &cases {
            let answer = place.send(http, "POST", &place.path(), headers, &body).await;
            assert_refused(&format!("{http:?} {headers:?}"), &answer, 403, rule);
        }
    }
    assert_eq!((place.arrived().len(), place.at(X)), (0, None));
}

#[tokio::test]
async fn a_push_without_a_body_is_answered() {
    let place = Place::new(rig(), "empty");
    for http in BOTH {
        assert_refused("length 0", &place.push(http, b"").await, 403, "push.malformed");
    }
    // Neither a length nor a coding, which is no body (RFC 9112 section 6.3), and a body of no chunk.
    let head = format!("POST {} HTTP/1.1\r\nHost: github.com\r\nContent-Type: {CONTENT_TYPE}\r\n", place.path());
    for rest in ["\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
        let answer = raw::ask(&mut stream, format!("{head}{rest}").as_bytes()).await.unwrap();
        assert_refused(rest, &answer, 403, "push.malformed");
    }
    // Headers, and then an end that is a frame of its own.
    let path = place.path();
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
    let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
    let heard = h2::ask_in_pieces(&mut stream, &fields, &[b""]).await.unwrap();
    assert_refused("an empty frame", &heard.answer(), 403, "push.malformed");
    assert!(place.arrived().is_empty());
}

#[tokio::test]
async fn a_push_with_trailers_moves_nothing_or_is_whole_without_them() {
    let place = Place::new(rig(), "trailers");
    let (new, body) = place.new_branch("trailers");
    let path = place.path();
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
    let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
    let request = h2::Request { fields: &fields, body: &body, trailers: &[(b"x-checksum", b"1")] };
    let answer = h2::ask(&mut stream, request).await.unwrap().answer();
    assert_reported("over HTTP/2", &answer, "push.malformed");
    // And where nothing but trailers comes.
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
    let request = h2::Request { body: b"", ..request };
    let answer = h2::ask(&mut stream, request).await.unwrap().answer();
    assert_refused("over HTTP/2 without a body", &answer, 403, "push.malformed");
    assert!(place.bytes() + TRAILER <= body.len() as u64, "{:?}", place.arrived());
    assert_eq!(place.at(X), None);
    // Envoy drops those of HTTP/1.1 on their way in.
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: github.com\r\nContent-Type: {CONTENT_TYPE}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-checksum\r\n\r\n"
    );
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
    let bytes = chunked(&head, &[&body], b"0\r\nx-checksum: 1\r\n\r\n");
    let answer = raw::ask(&mut stream, &bytes).await.unwrap();
    assert_done("over HTTP/1.1", &answer, X);
    assert_eq!(place.at(X), Some(new));
}

#[tokio::test]
async fn the_probe_passes_exactly_as_it_is() {
    let place = Place::new(rig(), "probe");
    let (_, body) = place.new_branch("probe");
    for http in BOTH {
        let answer = place.push(http, b"0000").await;
        assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{http:?}: {answer:?}");
    }
    assert_eq!(place.arrived().iter().map(|push| push.body_bytes).collect::<Vec<_>>(), [4, 4]);
    let pack = place.work.pack(&[&place.seed], &[]);
    let beyond: [&[u8]; 7] = [b"0000", b"PACK", b"\0", b"\n", &body, &pack, b"0001"];
    for http in BOTH {
        for more in beyond {
            let answer = place.push(http, &[b"0000", more].concat()).await;
            assert_refused("the probe and more", &answer, 403, "push.malformed");
        }
        for other in [&b"0001"[..], b"0002", b"0003", b"0004", b"000", b"0", b"00000", b"0x00", b"+000", b" 000"] {
            let answer = place.push(http, other).await;
            assert_refused(&format!("{}", other.escape_ascii()), &answer, 403, "push.malformed");
        }
    }
    assert_eq!((place.arrived().len(), place.at(X)), (2, None));
}

#[tokio::test]
async fn what_comes_after_a_push_is_refused_with_it() {
    let place = Place::new(rig(), "after");
    let (new, body) = place.new_branch("after");
    let other = place.work.commit(&[&place.seed], "another");
    let (pack, second) = (place.work.pack(&[&new], &[]), place.work.pack(&[&other], &[]));
    let push = list(&[(ZERO, &new, X)]);
    let commands = list(&[(ZERO, &other, Y)]);
    let nothing = vec![0; 64];
    let cases: [(&str, Vec<u8>); 8] = [
        ("a byte", [&body[..], b"\n"].concat()),
        ("a NUL", [&body[..], b"\0"].concat()),
        ("64 bytes", [&body[..], &nothing].concat()),
        ("a flush", [&body[..], b"0000"].concat()),
        ("the trailer again", [&body[..], &body[body.len() - 20..]].concat()),
        ("a second pack", [&body[..], &second].concat()),
        ("a second push", [&body[..], &commands, &second].concat()),
        ("a second list", [&push[..], &commands, &pack].concat()),
    ];
    for http in BOTH {
        for (what, bytes) in &cases {
            assert_reported(&format!("{http:?} {what}"), &place.push(http, bytes).await, "push.malformed");
        }
        // The trailer less one byte, and what is no pack.
        let short = place.push(http, &body[..body.len() - 1]).await;
        assert_reported("a byte is missing", &short, "push.malformed");
        for other in [&b"PACX"[..], b"PACK", b"PACK\0\0\0\x03\0\0\0\0", b"x"] {
            let answer = place.push(http, &[&push[..], other].concat()).await;
            assert_reported(&format!("{}", other.escape_ascii()), &answer, "push.malformed");
        }
        assert_reported("no pack", &place.push(http, &push).await, "push.malformed");
    }
    assert!(place.arrived().iter().all(|push| push.body_bytes + TRAILER <= body.len() as u64), "{:?}", place.arrived());
    assert_eq!((place.at(X), place.at(Y)), (None, None));
    // What is right is right, on the same connection.
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
    let ask = |body: &[u8]| one("POST", &place.path(), &[("content-type", CONTENT_TYPE)], body);
    assert_reported("first", &raw::ask(&mut stream, &ask(&cases[0].1)).await.unwrap(), "push.malformed");
    assert_done("then", &raw::ask(&mut stream, &ask(&body)).await.unwrap(), X);
    assert_eq!(place.at(X), Some(new));
}

#[tokio::test]
async fn requests_behind_each_other_on_one_connection_are_judged_each_by_itself() {
    let place = Place::new(rig(), "pipelined");
    let headers = [("content-type", CONTENT_TYPE)];
    let request = |body: &[u8]| one("POST", &place.path(), &headers, body);
    let (first, second) = (place.work.commit(&[&place.seed], "1"), place.work.commit(&[&place.seed], "2"));
    let good = |new: &str, name: &str| place.body(&[(ZERO, new, name)], &[&place.seed]);
    let bad = place.body(&[(ZERO, &second, "refs/heads/main2")], &[&place.seed]);
    let protected = place.body(&[(&place.seed, &second, "refs/heads/main")], &[&place.seed]);

    let hear = async |bytes: Vec<u8>| {
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
        let answer = raw::ask(&mut stream, &bytes).await.unwrap();
        (answer, raw::hear(&mut stream, true).await.unwrap())
    };
    let (refused, done) = hear([request(&bad), request(&good(&first, X))].concat()).await;
    assert_reported("a refusal comes first", &refused, "push.branch");
    assert_done("an allowed one after it", &done, X);
    let (done, refused) = hear([request(&good(&second, Y)), request(&protected)].concat()).await;
    assert_done("an allowed one comes first", &done, Y);
    assert_reported("a refusal after it", &refused, "push.protected");
    let (one, two) = hear([request(&bad), request(&protected)].concat()).await;
    assert_reported("two refusals", &one, "push.branch");
    assert_reported("two refusals", &two, "push.protected");
    // A whole request within the body of one that is refused is its body.
    let inner = request(&good(&first, "refs/heads/sandbox/inner"));
    let (refused, probe) = hear([request(&[&bad[..], &inner].concat()), request(b"0000")].concat()).await;
    assert_reported("a request in a body", &refused, "push.branch");
    assert_eq!((probe.status, probe.rule), (200, None));
    assert_eq!((place.at(X), place.at(Y)), (Some(first), Some(second)));
    assert_eq!(place.at("refs/heads/main"), Some(place.seed.clone()));
    assert_eq!(place.at("refs/heads/sandbox/inner"), None);
    assert_eq!(place.arrived().len(), 3, "{:?}", place.arrived());
}

#[tokio::test]
async fn a_push_in_pieces_of_one_byte_is_the_push() {
    let place = Place::new(rig(), "bytes");
    let path = place.path();
    let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
    let (first, second) = (place.work.commit(&[&place.seed], "1"), place.work.commit(&[&place.seed], "2"));
    let body = place.body(&[(ZERO, &first, X)], &[&place.seed]);
    let pieces: Vec<&[u8]> = body.chunks(1).collect();
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
    assert_done("over HTTP/2", &h2::ask_in_pieces(&mut stream, &fields, &pieces).await.unwrap().answer(), X);
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    let body = place.body(&[(ZERO, &second, Y)], &[&place.seed]);
    for piece in body.chunks(1) {
        upload.send(piece).await.unwrap();
    }
    upload.end().await.unwrap();
    assert_done("over HTTP/1.1", &upload.hear().await.unwrap(), Y);
    assert_eq!((place.at(X), place.at(Y)), (Some(first), Some(second.clone())));

    // Refused, whatever the pieces are, and nothing of it goes on.
    let before = place.arrived().len();
    let body = place.body(&[(&place.seed, &second, "refs/heads/main")], &[&place.seed]);
    let pieces: Vec<&[u8]> = body.chunks(1).collect();
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
    let answer = h2::ask_in_pieces(&mut stream, &fields, &pieces).await.unwrap().answer();
    assert_reported("over HTTP/2", &answer, "push.protected");
    assert_eq!((place.arrived().len(), place.at("refs/heads/main")), (before, Some(place.seed.clone())));
}

#[tokio::test]
async fn a_push_cut_in_two_anywhere_is_the_push() {
    let place = Place::new(rig(), "cut");
    let path = place.path();
    let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
    let new = place.work.commit(&[&place.seed], "cut");
    let pack = place.work.pack(&[&new], &[&place.seed]);
    let name = |number: usize| format!("refs/heads/sandbox/cut-{number:04}");
    let length = list(&[(ZERO, &new, &name(0))]).len() + pack.len();
    // Each a branch of its own; every place in the list, and those around the trailer.
    let list_end = length - pack.len() + 16;
    let cuts: BTreeSet<usize> = (1..list_end).chain(length - 24..length).collect();
    for cut in &cuts {
        let body = [list(&[(ZERO, &new, &name(*cut))]), pack.clone()].concat();
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
        let (head, tail) = body.split_at(*cut);
        let answer = h2::ask_in_pieces(&mut stream, &fields, &[head, tail]).await.unwrap().answer();
        assert_done(&format!("cut at {cut}"), &answer, &name(*cut));
    }
    let moved = git(&place.bare, &["for-each-ref", "refs/heads/sandbox/"]);
    assert_eq!(moved.lines().count(), cuts.len());
    assert!(place.arrived().iter().all(|push| push.body_bytes == length as u64));
}

#[tokio::test]
async fn a_push_that_only_deletes_has_nothing_behind_its_list() {
    let text = policy(&HOSTS) + "policy: {allow_branch_deletion: true}\n";
    let rig = Rig::start_with(&text, &[]);
    let place = Place::new(&rig, "deleted");
    place.work.deliver(&place.seed, X);
    let delete = list(&[(&place.seed, ZERO, X)]);
    let pack = place.work.pack(&[&place.seed], &[]);
    let empty = place.work.pack(&[&place.seed], &[&place.seed]);
    let behind: [&[u8]; 6] = [b"0000", b"\0", b"PACK", &pack, &empty, &delete];
    for http in BOTH {
        for more in behind {
            let answer = place.push(http, &[&delete[..], more].concat()).await;
            assert_reported(&format!("{http:?} {}", more.escape_ascii()), &answer, "push.malformed");
        }
    }
    // In two writes, so that the list is whole for a while.
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    upload.send(&delete).await.unwrap();
    upload.send(b"x").await.unwrap();
    upload.end().await.unwrap();
    assert_reported("in two writes", &upload.hear().await.unwrap(), "push.malformed");
    // One that is never ended does nothing.
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    upload.send(&delete).await.unwrap();
    drop(upload);
    assert_eq!((place.arrived().len(), place.at(X)), (0, Some(place.seed.clone())));
    for http in BOTH {
        place.work.deliver(&place.seed, X);
        assert_done(&format!("{http:?}"), &place.push(http, &delete).await, X);
        assert_eq!(place.at(X), None);
    }
    let protected = list(&[(&place.seed, ZERO, "refs/heads/main")]);
    assert_reported("main", &place.push(Http::Two, &protected).await, "push.protected");
    // What deletes is what has the new name of zeros, whatever stands for the old one.
    assert_reported(
        "0 to 0",
        &place.push(Http::Two, &list(&[(ZERO, ZERO, "refs/heads/main")])).await,
        "push.protected",
    );
    assert_eq!(place.at("refs/heads/main"), Some(place.seed.clone()));
}

#[tokio::test]
async fn no_other_method_and_no_other_spelling_of_the_url_reaches_git() {
    let place = Place::new(rig(), "spelled");
    let (_, body) = place.new_branch("spelled");
    let repo = &place.repo;
    let kind = [("content-type", CONTENT_TYPE)];
    let methods = [
        "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "MKCOL", "LOCK", "MOVE", "COPY", "post",
        "GET", "REPORT", "SEARCH",
    ];
    let paths = [
        format!("/{repo}.git/git%2Dreceive%2Dpack"),
        format!("/{repo}.git/%67it-receive-pack"),
        format!("/{repo}.git%2Fgit-receive-pack"),
        format!("/{repo}%2Egit/git-receive-pack"),
        format!("//{repo}.git/git-receive-pack"),
        format!("/{repo}.git//git-receive-pack"),
        format!("/{repo}.git/./git-receive-pack"),
        format!("/./{repo}.git/git-receive-pack"),
        format!("/{repo}.git/x/../git-receive-pack"),
        "/acme/x/../spelled.git/git-receive-pack".to_owned(),
        format!("/{repo}.git/git-receive-pack/"),
        format!("/{repo}.git/git-receive-pack/."),
        format!("/{repo}.git/git-receive-pack;x"),
        format!("/{repo}.git;x/git-receive-pack"),
        format!("/{repo}.git/git-receive-pack?"),
        format!("/{repo}.git/git-receive-pack?x"),
        format!("/{repo}.git/git-receive-pack?service=git-upload-pack"),
        format!("/{repo}.git/git-receive-pack#x"),
        format!("/{repo}.git/GIT-RECEIVE-PACK"),
        format!("/{repo}.git/Git-Receive-Pack"),
        format!("/{repo}.git/.git/git-receive-pack"),
        format!("/{repo}.git.git/git-receive-pack"),
        format!("/{repo}.GIT/git-receive-pack"),
        format!("/{repo}.git/git-receive-pack%0a"),
        format!("/{repo}.git/git-receive-pack%00"),
        format!("/{repo}.git/git-receive-pack%20"),
        format!("/{repo}%0a.git/git-receive-pack"),
        format!("/{repo}.git/git-receive-pack\\"),
        format!("/{repo}.git\\git-receive-pack"),
        format!("/{repo}.wiki.git/git-receive-pack"),
        format!("/{repo}/tree/main/git-receive-pack"),
        format!("/x/{repo}.git/git-receive-pack"),
        "/acme/other.git/git-receive-pack".to_owned(),
        "/gists/spelled.git/git-receive-pack".to_owned(),
    ];
    let posted = paths.iter().map(|path| ("POST", path.clone()));
    let methods = methods.iter().map(|method| (*method, place.path()));
    let mut wrong = Vec::new();
    for (method, path) in posted.chain(methods) {
        for http in BOTH {
            let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", http).await.unwrap();
            let answer = match http {
                Http::One => raw::ask(&mut stream, &one(method, &path, &kind, &body)).await.ok(),
                Http::Two => {
                    let fields = two(method, &path, &kind);
                    let request = h2::Request { fields: &fields, body: &body, trailers: &[] };
                    h2::ask(&mut stream, request).await.ok().map(|heard| heard.answer())
                }
            };
            // A fragment and a control byte are none of HTTP's, and Envoy may end the stream over them.
            let refused = answer.as_ref().is_none_or(|answer| matches!(answer.status, 0 | 400 | 403 | 404 | 405));
            if !refused {
                wrong.push(format!("{http:?} {method} {path}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(place.arrived().is_empty(), "{:?}", place.arrived());
    assert_eq!(place.at(X), None);
    // These are the same to GitHub, and to git's own URLs.
    for (number, path) in [format!("/{repo}/git-receive-pack"), place.path()].iter().enumerate() {
        let name = format!("refs/heads/sandbox/{number}");
        let new = place.work.commit(&[&place.seed], &name);
        let body = place.body(&[(ZERO, &new, &name)], &[&place.seed]);
        assert_done(path, &place.send(Http::Two, "POST", path, &kind, &body).await, &name);
    }
}

// Lies.

#[tokio::test]
async fn where_a_ref_is_is_not_the_client_s_to_say() {
    let place = Place::new(rig(), "lies");
    let (work, seed) = (&place.work, &place.seed);
    let tip = work.commit(&[seed], "tip");
    let next = work.commit(&[&tip], "next");
    let aside = work.commit(&[seed], "aside");
    for (name, to) in [(X, &tip), (Y, &tip)] {
        work.deliver(to, name);
    }
    let stale = [
        // An ancestor, from which the new commit descends, but not where the ref is.
        ("an ancestor", place.body(&[(seed, &aside, X)], &[seed])),
        ("an ancestor, all in the pack", place.body(&[(seed, &aside, X)], &[])),
        ("what the pack itself brings", place.body(&[(&aside, &work.commit(&[&aside], "on"), X)], &[seed])),
        ("zero for what exists", place.body(&[(ZERO, &aside, X)], &[seed])),
        ("zero, and a fast-forward", place.body(&[(ZERO, &next, X)], &[&tip])),
        ("of what does not exist", place.body(&[(&tip, &next, "refs/heads/sandbox/none")], &[&tip])),
        ("one of two", place.body(&[(&tip, &next, Y), (seed, &aside, X)], &[&tip])),
    ];
    for http in BOTH {
        for (what, body) in &stale {
            let answer = place.push(http, body).await;
            assert_reported(&format!("{http:?} {what}"), &answer, "push.stale");
        }
        // By the names that were given it is one, and it is refused before anything is known of its history.
        let answer = place.push(http, &place.body(&[(&tip, &aside, X)], &[seed])).await;
        assert_reported("a rewind", &answer, "push.force");
        let answer = place.push(http, &place.body(&[(&tip, seed, X)], &[seed])).await;
        assert_reported("to where it was", &answer, "push.force");
    }
    assert_eq!((place.at(X), place.at(Y)), (Some(tip.clone()), Some(tip.clone())));
    assert_eq!(place.at("refs/heads/sandbox/none"), None);
    // The innocent one of two has its own reason.
    let answer = place.push(Http::Two, &stale[6].1).await;
    assert!(answer.body.contains(&format!("ng {Y} not pushed, because {X} was refused")), "{answer:?}");
    assert_done("the truth", &place.push(Http::Two, &place.body(&[(&tip, &next, X)], &[&tip])).await, X);
    assert_eq!(place.at(X), Some(next));
}

#[tokio::test]
async fn a_ref_that_moves_meanwhile_stays_where_it_was_moved() {
    let place = Place::new(rig(), "meanwhile");
    let (work, seed) = (&place.work, &place.seed);
    let between = work.commit(&[seed], "between");
    let (new, theirs) = (work.commit(&[&between], "new"), work.commit(&[seed], "theirs"));
    work.deliver(&between, "refs/heads/other");
    work.deliver(seed, X);
    // The gateway has seen where it is, and waits for the comparison.
    let compare = format!("{}/compare/", place.repo);
    rig().upstream.set_api(&compare, Some(Api::Held));
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    upload.send(&place.body(&[(seed, &new, X)], &[&between])).await.unwrap();
    upload.end().await.unwrap();
    eventually("the comparison is asked for", SOON, || (place.compared() == 1).then_some(()));
    work.deliver(&theirs, X);
    rig().upstream.set_api(&compare, None);
    let answer = upload.hear().await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{answer:?}");
    assert!(answer.body.contains(&format!("ng {X}")), "git's own refusal: {answer:?}");
    assert_eq!(place.at(X), Some(theirs.clone()));
    // And now it is known.
    let again = place.push(Http::Two, &place.body(&[(seed, &new, X)], &[&between])).await;
    assert_reported("again", &again, "push.stale");
    assert!(again.body.contains(&theirs), "it says where it is: {again:?}");
}

#[tokio::test]
async fn a_comparison_is_asked_for_once_where_the_pack_does_not_say_it_and_never_where_it_does() {
    let place = Place::new(rig(), "compared");
    let (work, seed) = (&place.work, &place.seed);
    let between = work.commit(&[seed], "between");
    let [first, second] = ["1", "2"].map(|text| work.commit(&[&between], text));
    let aside = work.commit(&[seed], "aside");
    work.deliver(&between, "refs/heads/other");
    work.deliver(&aside, "refs/heads/sandbox/aside");
    for name in [X, Y] {
        work.deliver(seed, name);
    }
    // The pack holds none of what lies between.
    assert_done("open", &place.push(Http::Two, &place.body(&[(seed, &first, X)], &[&between])).await, X);
    assert_eq!(place.compared(), 1);
    assert_done("the same", &place.push(Http::One, &place.body(&[(seed, &second, Y)], &[&between])).await, Y);
    assert_eq!(place.compared(), 1, "it is remembered");
    let third = work.commit(&[&second], "3");
    assert_done("a child", &place.push(Http::Two, &place.body(&[(&second, &third, Y)], &[&second])).await, Y);
    // All in the pack, what GitHub has among it.
    let fourth = work.commit(&[&third], "4");
    assert_done("whole", &place.push(Http::Two, &place.body(&[(&third, &fourth, Y)], &[])).await, Y);
    assert_eq!(place.compared(), 1, "the pack says it");
    // No: it is asked for each time, and each time refused.
    for asked in 2..4 {
        let body = place.body(&[(&aside, &first, "refs/heads/sandbox/aside")], &[&between]);
        assert_reported("diverged", &place.push(Http::Two, &body).await, "push.force");
        assert_eq!(place.compared(), asked);
    }
    // Back to where it was, with an empty pack as git sends it.
    assert_reported("back", &place.push(Http::Two, &place.body(&[(&fourth, seed, Y)], &[seed])).await, "push.force");
    assert_eq!(place.compared(), 4);
    // What nobody knows is no ancestor: 404.
    let unknown = work.commit(&[seed], "unknown");
    let child = work.commit(&[&unknown], "child");
    let body = place.body(&[(&fourth, &child, Y)], &[&unknown]);
    assert_reported("nobody knows", &place.push(Http::Two, &body).await, "push.force");
    assert_eq!((place.at(X), place.at(Y)), (Some(first), Some(fourth)));
    assert_eq!(place.at("refs/heads/sandbox/aside"), Some(aside));
}

#[tokio::test]
async fn while_github_cannot_be_asked_nothing_moves_and_the_next_try_works() {
    let rig = rig();
    let cases = [
        ("git/ref/", Api::Status(500), "push.unconfirmed"),
        ("git/ref/", Api::Status(403), "push.unconfirmed"),
        ("git/ref/", Api::Status(404), "push.stale"),
        ("git/ref/", Api::Garbage, "push.unconfirmed"),
        ("git/ref/", Api::Held, "push.unconfirmed"),
        ("compare/", Api::Status(500), "push.unconfirmed"),
        ("compare/", Api::Status(404), "push.force"),
        ("compare/", Api::Garbage, "push.unconfirmed"),
        ("compare/", Api::Held, "push.unconfirmed"),
    ];
    let one = async |number: usize, (below, api, rule): (&str, Api, &str)| {
        let place = Place::new(rig, &format!("unasked-{number}"));
        let (work, seed) = (&place.work, &place.seed);
        let between = work.commit(&[seed], "between");
        let new = work.commit(&[&between], "new");
        work.deliver(&between, "refs/heads/other");
        work.deliver(seed, X);
        let body = place.body(&[(seed, &new, X)], &[&between]);
        let path = format!("{}/{below}", place.repo);
        rig.upstream.set_api(&path, Some(api));
        let begun = Instant::now();
        let answer = place.push(if number.is_multiple_of(2) { Http::One } else { Http::Two }, &body).await;
        let what = format!("{below} {api:?} after {:?}", begun.elapsed());
        assert!(begun.elapsed() < PATIENCE, "{what}");
        assert_reported(&what, &answer, rule);
        if rule == "push.unconfirmed" {
            assert!(answer.body.contains("fetch, and push again"), "{what}: advice: {answer:?}");
        }
        let audit = rig
            .gateway
            .audit_line(&what, |line| line["container_ip"] == json!(place.sandbox.address) && line["method"] == "POST");
        assert_eq!((&audit["verdict"], &audit["rule"]), (&json!("deny"), &json!(rule)), "{audit}");
        let (came, length) = (place.bytes(), body.len() as u64);
        assert!(
            came + TRAILER <= length,
            "{what}: {came} of {length} bytes arrived, and the ref is at {:?}",
            place.at(X)
        );
        assert_eq!(place.at(X).as_ref(), Some(seed), "{what}");
        rig.upstream.set_api(&path, None);
        assert_done(&what, &place.push(Http::Two, &body).await, X);
        assert_eq!(place.at(X), Some(new), "{what}");
    };
    // Two of them take as long as the gateway waits.
    let (held, prompt): (Vec<_>, Vec<_>) = cases.into_iter().enumerate().partition(|(_, case)| case.1 == Api::Held);
    let held = async |at: usize| one(held[at].0, held[at].1).await;
    let prompt = async {
        for (number, case) in prompt {
            one(number, case).await;
        }
    };
    tokio::join!(held(0), held(1), prompt);
}

// What a push waits for.

/// A push of which all has come but an answer: the pack has gone on but for its trailer.
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
        let api = format!("{}/git/ref/", place.repo);
        let (new, body) = place.new_branch(name);
        rig.upstream.set_api(&api, Some(Api::Held));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        let all_but = body.len() as u64 - TRAILER;
        eventually("all but the trailer has gone on", SOON, || (place.bytes() == all_but).then_some(()));
        eventually("the ref is asked for", SOON, || (rig.upstream.requests_with(&api).len() == 1).then_some(()));
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

#[tokio::test]
async fn the_trailer_goes_on_when_the_answer_has_come_and_not_before() {
    for ended in [true, false] {
        let mut waiting = Waiting::begin(rig(), &format!("waits-{ended}")).await;
        if ended {
            waiting.upload.end().await.unwrap();
        }
        // Nothing more comes, though it could.
        timeout(Duration::from_millis(300), waiting.upload.hear()).await.expect_err("it is not answered");
        waiting.assert_nothing_moved();
        waiting.release();
        if !ended {
            waiting.upload.end().await.unwrap();
        }
        assert_done("released", &waiting.upload.hear().await.unwrap(), X);
        assert_eq!(waiting.place.at(X).as_ref(), Some(&waiting.new));
        assert_eq!(waiting.place.bytes(), waiting.body.len() as u64);
    }
}

/// A later stage may hold a request back as well, and when it lets it go Envoy sends all on that has come by then.
#[tokio::test]
async fn a_push_of_megabytes_over_http_2_is_held_at_its_trailer_or_refused_with_its_reason() {
    const SIZE: u64 = 4 << 20;
    let place = Place::new(rig(), "megabytes");
    let (work, seed) = (&place.work, &place.seed);
    let new = work.commit_random(&[seed], SIZE);
    let body = place.body(&[(ZERO, &new, X)], &[seed]);
    assert!(body.len() as u64 > SIZE);
    // Its names are wrong: nothing of it goes on.
    let wrong = place.body(&[(seed, &new, "refs/heads/main")], &[seed]);
    assert_reported("by its name", &place.push(Http::Two, &wrong).await, "push.protected");
    assert_eq!(place.bytes(), 0);

    let api = format!("{}/git/ref/", place.repo);
    rig().upstream.set_api(&api, Some(Api::Held));
    let all_but = body.len() as u64 - TRAILER;
    let held = async {
        // With the trailer waits what came to the filter together with it, which is no more than Envoy's buffer.
        eventually_async("all but the end has gone on", SOON, async || match place.bytes() {
            came if (all_but - (1 << 20)..=all_but).contains(&came) => Ok(()),
            came => Err(came),
        })
        .await;
        assert_eq!(place.at(X), None);
        rig().upstream.set_api(&api, None);
    };
    let (answer, ()) = tokio::join!(place.push(Http::Two, &body), held);
    assert_done("when it is allowed", &answer, X);
    assert_eq!(place.at(X), Some(new));

    // What is refused while it flows is dropped to its end and told.
    let (before, tip) = (place.bytes(), work.commit(&[seed], "tip"));
    work.deliver(&tip, X);
    let aside = work.commit_random(&[seed], SIZE);
    let stale = place.body(&[(seed, &aside, X)], &[seed]);
    assert_reported("by its ref", &place.push(Http::Two, &stale).await, "push.stale");
    assert!(place.bytes() - before + TRAILER <= stale.len() as u64);
    assert_eq!(place.at(X), Some(tip));
}

#[tokio::test]
async fn a_push_that_ends_while_a_later_stage_waits_is_held_as_well() {
    let rig = Rig::start();
    for (number, refused) in [false, true].into_iter().enumerate() {
        let place = Place::new(&rig, &format!("credential-{number}"));
        let (work, seed) = (&place.work, &place.seed);
        let between = work.commit(&[seed], "between");
        let (new, aside) = (work.commit(&[&between], "new"), work.commit(&[seed], "aside"));
        let old = if refused { &aside } else { seed };
        work.deliver(&between, "refs/heads/other");
        work.deliver(old, X);
        // Both workers know who this is.
        for _ in 0..8 {
            assert_eq!(place.push(Http::Two, b"0000").await.status, 200);
        }
        let before = place.bytes();
        let compare = format!("{}/compare/", place.repo);
        rig.upstream.set_api(&compare, Some(Api::Held));
        let body = place.body(&[(old, &new, X)], &[&between]);
        let path = place.path();
        let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
        rig.gateway.signal(Signal::STOP);
        eventually("the control plane stands still", SOON, || stopped(rig.gateway.pid()).then_some(()));
        let pieces: [&[u8]; 3] = [&body[..100], &body[100..], b""];
        let asked = h2::ask_in_pieces(&mut stream, &fields, &pieces);
        let released = async {
            // Long enough for three frames.
            tokio::time::sleep(Duration::from_millis(500)).await;
            rig.gateway.signal(Signal::CONT);
            eventually_async("the comparison is asked for", SOON, async || match place.compared() {
                0 => Err(()),
                _ => Ok(()),
            })
            .await;
            // It could pass by now.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (came, at) = (place.bytes() - before, place.at(X));
            rig.upstream.set_api(&compare, None);
            (came, at)
        };
        let (answer, (came, at)) = tokio::join!(asked, released);
        assert!(
            came + TRAILER <= body.len() as u64,
            "{came} of {} bytes arrived, and the ref is at {at:?}",
            body.len()
        );
        assert_eq!(at.as_ref(), Some(old));
        let answer = answer.unwrap().answer();
        match refused {
            true => assert_reported("diverged", &answer, "push.force"),
            false => assert_done("ahead", &answer, X),
        }
        assert_eq!(place.at(X).as_ref(), Some(if refused { old } else { &new }));
    }
}

#[tokio::test]
async fn a_client_that_leaves_moves_nothing() {
    for ended in [true, false] {
        let mut waiting = Waiting::begin(rig(), &format!("leaves-{ended}")).await;
        if ended {
            waiting.upload.end().await.unwrap();
        }
        drop(std::mem::replace(&mut waiting.upload, Upload::begin(&waiting.place.sandbox, "acme/x").await.unwrap()));
        let address = json!(waiting.place.sandbox.address);
        let path = json!(waiting.place.path());
        let audit =
            rig().gateway.audit_line("the push", |line| line["container_ip"] == address && line["path"] == path);
        assert_eq!((&audit["verdict"], &audit["rule"]), (&json!("deny"), &json!("push.unfinished")), "{audit}");
        waiting.release();
        waiting.assert_nothing_moved();
        waiting.again().await;
    }
}

// Servers.

/// What git's server says when all went well.
fn success(name: &str) -> Vec<u8> {
    let report = [pkt(b"unpack ok\n"), pkt(format!("ok {name}\n").as_bytes()), b"0000".to_vec()].concat();
    [pkt(&[&[1], &report[..]].concat()), b"0000".to_vec()].concat()
}

fn result(after: u64, body: Vec<u8>, end: End) -> Prank {
    let kind = ("content-type", "application/x-git-receive-pack-result".to_owned());
    Prank { after, status: 200, headers: vec![kind], body, end }
}

#[tokio::test]
async fn a_server_that_ends_its_answer_before_it_has_the_push_is_not_heard() {
    let rig = rig();
    for (number, end) in [End::Whole, End::Trailers, End::Broken].into_iter().enumerate() {
        let place = Place::new(rig, &format!("early-{number}"));
        let (_, body) = place.new_branch("early");
        let api = format!("{}/git/ref/", place.repo);
        rig.upstream.set_api(&api, Some(Api::Held));
        rig.upstream.set_git(&place.path(), Some(result(1, success(X), end)));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        // The body is never ended, and the answer to the question never comes: Envoy takes no more of the one when the
        // server has said all, and nobody shall wait for the other.
        let begun = Instant::now();
        let answer = upload.hear().await;
        assert!(begun.elapsed() < Duration::from_secs(8), "after {:?}: {answer:?}", begun.elapsed());
        match (end, answer) {
            (End::Broken, Err(_)) => {}
            (End::Broken, Ok(answer)) if answer.status == 503 => {
                assert_refused("it broke", &answer, 503, "upstream.unreachable");
            }
            (_, answer) => assert_reported(&format!("{end:?}"), &answer.unwrap(), "push.unfinished"),
        }
        rig.upstream.set_api(&api, None);
        assert!(place.bytes() + TRAILER <= body.len() as u64, "{end:?}");
        assert_eq!(place.at(X), None, "{end:?}");
        // It holds no place among the pushes that are under way.
        rig.upstream.set_git(&place.path(), None);
        assert_done(&format!("{end:?}"), &place.push(Http::Two, &body).await, X);
    }
}

#[tokio::test]
async fn a_refused_push_is_told_by_us_whatever_the_server_has_said() {
    let rig = rig();
    for (number, end) in [End::Late, End::Whole, End::Trailers].into_iter().enumerate() {
        let place = Place::new(rig, &format!("told-{number}"));
        let (tip, body) = place.overtaken();
        let api = format!("{}/git/ref/", place.repo);
        rig.upstream.set_api(&api, Some(Api::Held));
        // With all that it gets, so that its answer comes as late as it can.
        rig.upstream.set_git(&place.path(), Some(result(body.len() as u64 - TRAILER, success(X), end)));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        upload.end().await.unwrap();
        timeout(Duration::from_millis(300), upload.hear()).await.expect_err("the server's answer waits");
        rig.upstream.set_api(&api, None);
        assert_reported(&format!("{end:?}"), &upload.hear().await.unwrap(), "push.stale");
        assert_eq!(place.at(X), Some(tip), "{end:?}");
    }
}

#[tokio::test]
async fn while_a_refused_push_is_dropped_it_is_told_by_us_whatever_the_server_says() {
    let rig = rig();
    let whole = |status: u16| Prank { status, ..result(0, success(X), End::Whole) };
    let pranks = [whole(200), whole(403), whole(500), result(0, success(X), End::Trailers), whole(0)];
    for (number, prank) in pranks.into_iter().enumerate() {
        let place = Place::new(rig, &format!("dropped-{number}"));
        let (tip, body) = place.overtaken();
        let api = format!("{}/git/ref/", place.repo);
        rig.upstream.set_api(&api, Some(Api::Held));
        rig.upstream.set_git(&place.path(), Some(Prank { after: u64::MAX, ..prank.clone() }));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body[..body.len() - 10]).await.unwrap();
        timeout(Duration::from_millis(300), upload.hear()).await.expect_err("GitHub is asked");
        assert!(place.bytes() > 0, "the server has the push's beginning");
        rig.upstream.set_api(&api, None);
        timeout(Duration::from_millis(300), upload.hear()).await.expect_err("the rest is dropped first");
        rig.upstream.set_git(&place.path(), Some(prank.clone()));
        // It has ended the stream, so nothing more comes of the push.
        let (what, answer) = (format!("{prank:?}"), upload.hear().await.unwrap());
        match prank.status {
            // Envoy says that itself, and nobody waits for ever.
            0 => assert_refused(&what, &answer, 503, "upstream.unreachable"),
            _ => assert_reported(&what, &answer, "push.stale"),
        }
        assert_eq!(place.at(X), Some(tip), "{prank:?}");
    }
}

#[tokio::test]
async fn a_success_that_came_early_is_told_when_the_push_is_allowed() {
    for ended in [true, false] {
        let place = Place::new(rig(), &format!("early-allowed-{ended}"));
        let api = format!("{}/git/ref/", place.repo);
        rig().upstream.set_api(&api, Some(Api::Held));
        let (_, body) = place.new_branch("early");
        // git itself begins its answer early, and ends it when it has all.
        rig().upstream.set_git(&place.path(), Some(result(1, success(X), End::Late)));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        if ended {
            upload.end().await.unwrap();
        }
        timeout(Duration::from_millis(300), upload.hear()).await.expect_err("the server's answer waits");
        rig().upstream.set_api(&api, None);
        if !ended {
            upload.end().await.unwrap();
        }
        assert_done("when it is allowed", &upload.hear().await.unwrap(), X);
        assert_eq!(place.bytes(), body.len() as u64);
    }
}

#[tokio::test]
async fn a_server_that_fails_in_the_middle_is_no_success() {
    let rig = rig();
    let place = Place::new(rig, "failing");
    let (_, body) = place.new_branch("failing");
    let page = |status: u16| Prank {
        after: 1,
        status,
        headers: vec![("content-type", "text/html".into())],
        body: b"<html>no</html>".to_vec(),
        end: End::Whole,
    };
    let pranks = [
        ("401", page(401)),
        ("403", page(403)),
        ("413", page(413)),
        ("500", page(500)),
        ("503", page(503)),
        ("broken", page(0)),
        ("a redirect", Prank { headers: vec![("location", "https://github.com/acme/other.git".into())], ..page(307) }),
        ("an answer that breaks", result(1, b"000".to_vec(), End::Broken)),
        ("an empty answer", result(1, vec![], End::Whole)),
    ];
    for http in BOTH {
        for (what, prank) in &pranks {
            rig.upstream.set_git(&place.path(), Some(prank.clone()));
            let path = place.path();
            let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
            let answer = match http {
                Http::One => {
                    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", http).await.unwrap();
                    let request = one("POST", &path, &[("content-type", CONTENT_TYPE)], &body);
                    raw::ask(&mut stream, &request).await
                }
                Http::Two => {
                    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", http).await.unwrap();
                    let request = h2::Request { fields: &fields, body: &body, trailers: &[] };
                    h2::ask(&mut stream, request).await.map(|heard| heard.answer())
                }
            };
            match answer {
                Ok(answer) => {
                    let told = format!("{http:?} {what}: {answer:?}");
                    assert!(!answer.body.contains("unpack ok") && !answer.body.contains("ok refs/"), "{told}");
                    let as_it_was = prank.status == 0 || prank.status == 200 || answer.status == prank.status;
                    assert!(as_it_was, "{told}");
                }
                Err(error) => println!("{http:?} {what}: {error}"),
            }
            assert_eq!(place.at(X), None);
        }
    }
    rig.upstream.set_git(&place.path(), None);
    assert_done("after all of that", &place.push(Http::Two, &body).await, X);
}

const REFS: &str = "info/refs?service=git-receive-pack";
const ADVERTISEMENT: &str = "application/x-git-receive-pack-advertisement";

#[tokio::test]
async fn what_is_no_list_of_refs_is_told_as_such_and_git_prints_it() {
    let rig = rig();
    let place = Place::new(rig, "advertised");
    let clone = |name: &str| {
        place.sandbox.git(&place.sandbox.home, &["clone", "-q", &format!("https://github.com/{}", place.repo), name])
    };
    clone("work").success();
    let target = format!("/{}.git/{REFS}", place.repo);
    // What git asks for has no suffix if its URL has none.
    let bare_target = format!("/{}/{REFS}", place.repo);
    let good = {
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
        raw::ask(&mut stream, &one("GET", &target, &[], b"")).await.unwrap().body.into_bytes()
    };
    let kind = |value: &str| ("content-type", value.to_owned());
    let answer = |headers: Vec<(&'static str, String)>, body: &[u8]| Prank {
        after: 0,
        status: 200,
        headers,
        body: body.to_vec(),
        end: End::Whole,
    };
    let service = [pkt(b"# service=git-receive-pack\n"), b"0000".to_vec()].concat();
    let no_capabilities =
        [&service[..], &pkt(format!("{} refs/heads/main\n", place.seed).as_bytes()), b"0000"].concat();
    let own = || vec![kind(ADVERTISEMENT)];
    let cases = [
        ("garbage", answer(own(), &[0xff; 4096])),
        ("a page", answer(own(), b"<html>welcome</html>")),
        ("a page of its own type", answer(vec![kind("text/html")], b"<html>welcome</html>")),
        ("of another type", answer(vec![kind("application/x-git-upload-pack-advertisement")], &good)),
        ("of no type", answer(vec![], &good)),
        ("of a parametrised type", answer(vec![kind(&format!("{ADVERTISEMENT}; charset=x"))], &good)),
        ("compressed", answer(vec![kind(ADVERTISEMENT), ("content-encoding", "gzip".into())], &good)),
        ("empty", answer(own(), b"")),
        ("only a flush", answer(own(), b"0000")),
        ("cut off", answer(own(), &good[..good.len().min(60)])),
        ("without capabilities", answer(own(), &no_capabilities)),
        ("too long before its capabilities", answer(own(), &b"0000".repeat(64 << 10))),
        ("a pkt that is too long", answer(own(), &[b"ffff".to_vec(), vec![b'a'; 70_000]].concat())),
        ("trailers only behind a cut", Prank { end: End::Trailers, ..answer(own(), &good[..60]) }),
    ];
    for (what, prank) in &cases {
        for target in [&target, &bare_target] {
            rig.upstream.set_git(target, Some(prank.clone()));
        }
        for http in BOTH {
            let answer = place.send(http, "GET", &target, &[], b"").await;
            assert_refused(&format!("{http:?} {what}"), &answer, 502, "push.advertisement");
        }
        let pushed = place.sandbox.git(&place.sandbox.home.join("work"), &["push", "origin", "HEAD:sandbox/x"]);
        assert_ne!(pushed.code, Some(0), "{what}: {pushed:?}");
        assert!(pushed.stderr.contains("push.advertisement"), "{what}: {pushed:?}");
    }
    // What is no 200 is the server's own business.
    let redirect = Prank {
        status: 301,
        headers: vec![("location", format!("https://github.com/acme/other.git/{REFS}"))],
        ..answer(vec![], b"")
    };
    for target in [&target, &bare_target] {
        rig.upstream.set_git(target, Some(redirect.clone()));
    }
    assert_eq!(place.send(Http::Two, "GET", &target, &[], b"").await.status, 301);
    let pushed = place.sandbox.git(&place.sandbox.home.join("work"), &["push", "origin", "HEAD:sandbox/x"]);
    assert_ne!(pushed.code, Some(0), "{pushed:?}");
    assert!(pushed.stderr.contains("github.repo"), "where it leads is judged by itself: {pushed:?}");
    for target in [&target, &bare_target] {
        rig.upstream.set_git(target, None);
    }
    assert!(place.arrived().is_empty() && place.at(X).is_none());
    place.sandbox.git(&place.sandbox.home.join("work"), &["push", "origin", "HEAD:sandbox/x"]).success();
}

#[tokio::test]
async fn a_list_of_refs_is_handed_on_with_two_capabilities_changed() {
    let place = Place::new(rig(), "rewritten");
    git(&place.bare, &["config", "receive.certNonceSeed", "x"]);
    let target = format!("/{}.git/{REFS}", place.repo);
    for http in BOTH {
        for version in [false, true] {
            let headers: &[(&str, &str)] = if version { &[("git-protocol", "version=1")] } else { &[] };
            let answer = place.send(http, "GET", &target, headers, b"").await;
            let what = format!("{http:?} {version}: {answer:?}");
            assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{what}");
            assert!(answer.body.contains(" no-thin") && !answer.body.contains("push-cert"), "{what}");
            assert!(answer.body.contains("report-status") && answer.body.ends_with("0000"), "{what}");
            assert_eq!(answer.body.contains("version 1"), version, "{what}");
        }
    }
    // git takes it, and says of itself that nothing can be signed.
    let run = |args: &[&str]| place.sandbox.git(&place.sandbox.home.join("work"), args);
    place
        .sandbox
        .git(&place.sandbox.home, &["clone", "-q", &format!("https://github.com/{}", place.repo), "work"])
        .success();
    for version in ["0", "1", "2"] {
        let set = format!("protocol.version={version}");
        run(&["-c", &set, "push", "origin", &format!("HEAD:sandbox/v{version}")]).success();
    }
    let signed = run(&["push", "--signed=true", "origin", "HEAD:sandbox/signed"]);
    assert!(signed.stderr.contains("does not support --signed push"), "{signed:?}");
    // Who does it nevertheless is refused by name.
    let cert = [pkt(format!("push-cert\0{CAPABILITIES}").as_bytes()), b"0000".to_vec()].concat();
    assert_refused("a certificate", &place.push(Http::Two, &cert).await, 403, "push.signed");
    assert_eq!(place.at("refs/heads/sandbox/signed"), None);
}

#[tokio::test]
async fn a_client_that_reads_no_report_is_told_by_the_status() {
    let place = Place::new(rig(), "silent");
    let new = place.work.commit(&[&place.seed], "silent");
    let pack = place.work.pack(&[&new], &[&place.seed]);
    let update: [Update<'_>; 1] = [(&place.seed, &new, "refs/heads/main")];
    for http in BOTH {
        for (capabilities, status) in [("", 403), ("side-band-64k", 403), ("report-status", 200), ("atomic quiet", 403)]
        {
            let body = [list_with(&update, capabilities), pack.clone()].concat();
            assert_refused(capabilities, &place.push(http, &body).await, status, "push.protected");
        }
    }
    assert!(place.arrived().is_empty());
}

// Limits.

/// The most pushes of one container that a worker inspects at a time.
const PUSHES: usize = 4;

#[tokio::test]
async fn a_container_has_four_pushes_under_way_and_not_one_more() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).workers(1).build();
    gateway.up();
    let rig = Rig { upstream, gateway };
    let (place, other) = (Place::new(&rig, "many"), Place::new(&rig, "beside"));
    let (new, body) = place.new_branch("many");
    let mut uploads = Vec::new();
    for branch in ["a", "b", "c", "d"] {
        let name = format!("refs/heads/sandbox/{branch}");
        let body = place.body(&[(ZERO, &new, &name)], &[&place.seed]);
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        let (most, rest) = body.split_at(body.len() - 30);
        upload.send(most).await.unwrap();
        uploads.push((upload, rest.to_vec(), name));
        // In order: what comes before the fourth is under way would take its place.
        eventually("it is under way", SOON, || (place.arrived().len() == uploads.len()).then_some(()));
    }
    assert_eq!(uploads.len(), PUSHES);
    for http in BOTH {
        let answer = place.push(http, &body).await;
        assert_refused("the fifth", &answer, 429, "limit.pushes");
        assert!(answer.body.contains("try again"), "{answer:?}");
    }
    // Whole repositories are still read, and their refs; another container isn't concerned.
    place.sandbox.git(&place.sandbox.home, &["clone", "-q", &format!("https://github.com/{}", place.repo)]).success();
    let (_, others) = other.new_branch("beside");
    assert_done("another container's", &other.push(Http::Two, &others).await, X);
    assert_eq!(place.arrived().len(), PUSHES);
    // One leaves.
    drop(uploads.pop());
    eventually_async("its place is free", SOON, async || {
        let answer = place.push(Http::Two, &body).await;
        if answer.rule.is_none() && answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(place.at(X), Some(new.clone()));
    // One is refused: free as soon as it is answered.
    let mut fourth = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    fourth.send(b"zzzz").await.unwrap();
    fourth.end().await.unwrap();
    assert_refused("nonsense", &fourth.hear().await.unwrap(), 403, "push.malformed");
    let answer = place.push(Http::Two, b"0000").await;
    assert_eq!((answer.status, answer.rule), (200, None));
    // The other three are none the worse.
    for (mut upload, rest, name) in uploads {
        upload.send(&rest).await.unwrap();
        upload.end().await.unwrap();
        assert_done("one that waited", &upload.hear().await.unwrap(), &name);
        assert_eq!(place.at(&name).as_ref(), Some(&new));
    }
}

// Chaos.

#[tokio::test]
async fn while_the_control_plane_stands_still_a_push_is_refused_in_time_and_the_next_try_works() {
    let rig = Rig::start();
    let mut waiting = Waiting::begin(&rig, "stopped").await;
    rig.gateway.signal(Signal::STOP);
    eventually("the control plane stands still", SOON, || stopped(rig.gateway.pid()).then_some(()));
    let begun = Instant::now();
    waiting.upload.end().await.unwrap();
    let answer = waiting.upload.hear().await;
    rig.gateway.signal(Signal::CONT);
    let answer = answer.unwrap();
    println!("refused after {:?}", begun.elapsed());
    assert!(begun.elapsed() < PATIENCE);
    assert_reported("stopped", &answer, "push.unconfirmed");
    waiting.assert_nothing_moved();
    waiting.release();
    waiting.again().await;
}

#[tokio::test]
async fn when_the_control_plane_is_killed_a_push_is_refused_at_once_and_the_next_try_works() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    gateway.serve();
    eventually("the control plane listens", SOON, || gateway.try_call("GET", "/healthz", None).ok());
    gateway.start_envoy();
    let rig = Rig { upstream, gateway };
    for ended in [true, false] {
        let mut waiting = Waiting::begin(&rig, &format!("killed-{ended}")).await;
        if ended {
            waiting.upload.end().await.unwrap();
        }
        let begun = Instant::now();
        rig.gateway.signal(Signal::KILL);
        rig.gateway.ended(SOON);
        if !ended {
            waiting.upload.end().await.unwrap();
        }
        let answer = waiting.upload.hear().await.unwrap();
        println!("refused after {:?}", begun.elapsed());
        assert_reported("killed", &answer, "push.unconfirmed");
        waiting.assert_nothing_moved();
        // While it is away nothing can be pushed.
        let answer = waiting.place.push(Http::Two, &waiting.body).await;
        assert!(answer.rule.is_some() || answer.status == 503, "{answer:?}");
        waiting.assert_nothing_moved();
        waiting.release();
        rig.gateway.serve();
        waiting.again().await;
    }
}

#[tokio::test]
async fn a_push_goes_by_the_rules_of_its_beginning_and_the_next_by_the_new_ones() {
    let rig = Rig::start();
    let mut waiting = Waiting::begin(&rig, "policy").await;
    let text = policy(&HOSTS) + "policy: {protected_branches: [main, 'sandbox/*']}\n";
    let beside = rig.gateway.policy_file().with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, rig.gateway.policy_file()).unwrap();
    let place = &waiting.place;
    let body = place.body(&[(ZERO, &waiting.new, Y)], &[&place.seed]);
    rig.upstream.set_api(&format!("{}/git/ref/heads/sandbox/y", place.repo), Some(Api::Status(500)));
    eventually_async("the new rules are in force", Duration::from_secs(5), async || {
        let answer = place.push(Http::Two, &body).await;
        if answer.rule.as_deref() == Some("push.protected") { Ok(()) } else { Err(answer) }
    })
    .await;
    waiting.assert_nothing_moved();
    waiting.release();
    waiting.upload.end().await.unwrap();
    assert_done("the one of before", &waiting.upload.hear().await.unwrap(), X);
    assert_eq!((waiting.place.at(X).as_ref(), waiting.place.at(Y)), (Some(&waiting.new), None));
}

#[tokio::test]
async fn a_push_of_a_container_that_is_removed_meanwhile_moves_nothing() {
    let rig = rig();
    let mut waiting = Waiting::begin(rig, "removed").await;
    rig.gateway.remove(waiting.place.sandbox.address);
    let answer = waiting.upload.hear().await;
    assert!(answer.as_ref().map_or(true, |answer| answer.rule.is_some()), "{answer:?}");
    waiting.release();
    waiting.assert_nothing_moved();
    rig.gateway.register(waiting.place.sandbox.address, &[&waiting.place.repo]);
    waiting.again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_filter_is_exchanged_nothing_that_is_refused_passes_and_what_waits_goes_on() {
    let filters = Filters::copied(scratch("filters"));
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).env("SALLYPORT_FILTERS", filters.directory()).build();
    gateway.up();
    let rig = Rig { upstream, gateway };
    let place = Place::new(&rig, "exchanged");
    let (work, seed) = (&place.work, &place.seed);
    let (tip, aside) = (work.commit(&[seed], "tip"), work.commit(&[seed], "aside"));
    work.deliver(&tip, X);
    let body = place.body(&[(&tip, &aside, X)], &[seed]);
    let in_force = || rig.gateway.envoy_stat("extension_config_discovery.http_filter.push.config_reload");
    let mut pushes = 0;
    for number in 0..5 {
        let waiting = Waiting::begin(&rig, &format!("exchanged-{number}")).await;
        let reloads = in_force();
        filters.exchange(number);
        let begun = Instant::now();
        // Over all of the exchange, and a little beyond it.
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
            assert!(begun.elapsed() < SOON, "Envoy runs the new code");
            for http in BOTH {
                assert_reported(
                    &format!("{http:?} {:?}", begun.elapsed()),
                    &place.push(http, &body).await,
                    "push.force",
                );
                pushes += 1;
            }
            if since.is_none() && in_force() > reloads {
                since = Some(Instant::now());
            }
        }
        let mut waiting = waiting;
        waiting.assert_nothing_moved();
        waiting.release();
        waiting.upload.end().await.unwrap();
        assert_done("what began before", &waiting.upload.hear().await.unwrap(), X);
        assert_eq!(waiting.place.at(X).as_ref(), Some(&waiting.new));
    }
    println!("{pushes} refused pushes over 5 exchanges");
    assert_eq!(place.at(X), Some(tip));
    assert!(place.arrived().iter().all(|push| push.body_bytes + TRAILER <= body.len() as u64), "{:?}", place.arrived());
}
