//! Servers that respond early, wrongly or not at all, and lists of refs that no git server sends.

use super::{
    BOTH, COULD_PASS, Place, SOON, TRAILER, X, ZERO, assert_done, assert_refused, assert_reported, one, rig, success,
    two,
};
use futures::StreamExt;
use std::time::{Duration, Instant};
use test_support::client::tls;
use test_support::push::{CAPABILITIES, CONTENT_TYPE, Update, Upload, list_with, pkt};
use test_support::raw::{self, h2};
use test_support::upstream::git;
use test_support::upstream::pranks::{Api, End, Prank};
use test_support::{Answer, Http, eventually_async, holds_async};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

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
        let api = format!("{}/refs/", place.repo);
        rig.upstream.set_api(&api, Some(Api::Held));
        rig.upstream.set_git(&place.path(), Some(result(1, success(X), end)));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        // The body never ends, and GitHub's response never comes. Envoy reads no more of the body when the server's
        // response is complete, and the client must not wait for GitHub.
        let begun = Instant::now();
        let answer = upload.hear().await;
        assert!(begun.elapsed() < Duration::from_secs(8), "after {:?}: {answer:?}", begun.elapsed());
        match (end, answer) {
            (End::Broken, Err(_)) => {}
            (End::Broken, Ok(answer)) if answer.status == 503 => {
                assert_refused("a broken response", &answer, 503, "upstream.broken-off");
            }
            (_, answer) => assert_reported(&format!("{end:?}"), &answer.unwrap(), "push.unfinished"),
        }
        rig.upstream.set_api(&api, None);
        assert!(place.bytes() + TRAILER <= body.len() as u64, "{end:?}");
        assert_eq!(place.at(X), None, "{end:?}");
        // It holds no place among the pushes under way.
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
        let api = format!("{}/refs/", place.repo);
        rig.upstream.set_api(&api, Some(Api::Held));
        // The server responds after all bytes that it gets, as late as possible.
        rig.upstream.set_git(&place.path(), Some(result(body.len() as u64 - TRAILER, success(X), end)));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body).await.unwrap();
        upload.end().await.unwrap();
        let at_once = timeout(Duration::from_millis(300), upload.hear()).await;
        rig.upstream.set_api(&api, None);
        let answer = match at_once {
            Ok(answer) => answer.unwrap(),
            Err(_waits) => upload.hear().await.unwrap(),
        };
        // Envoy sends nothing more of a request whose response is complete, so its push waits for no answer of GitHub's.
        let complete = !matches!(end, End::Late) && answer.rule.as_deref() == Some("push.unfinished");
        assert_reported(&format!("{end:?}"), &answer, if complete { "push.unfinished" } else { "push.stale" });
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
        let api = format!("{}/refs/", place.repo);
        rig.upstream.set_api(&api, Some(Api::Held));
        rig.upstream.set_git(&place.path(), Some(Prank { after: u64::MAX, ..prank.clone() }));
        let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
        upload.send(&body[..body.len() - 10]).await.unwrap();
        timeout(Duration::from_millis(300), upload.hear()).await.expect_err("the push waits for GitHub");
        eventually_async("the server has the push's beginning", SOON, async || {
            if place.bytes() > 0 { Ok(()) } else { Err("nothing") }
        })
        .await;
        rig.upstream.set_api(&api, None);
        // By then GitHub's answer has refused the push.
        timeout(Duration::from_secs(2), upload.hear()).await.expect_err("the rest is dropped first");
        rig.upstream.set_git(&place.path(), Some(prank.clone()));
        // The server has ended the stream, so no more of the push arrives.
        let (what, answer) = (format!("{prank:?}"), upload.hear().await.unwrap());
        match prank.status {
            // This is Envoy's own response, so the client does not wait forever.
            0 => assert_refused(&what, &answer, 503, "upstream.broken-off"),
            _ => assert_reported(&what, &answer, "push.stale"),
        }
        assert_eq!(place.at(X), Some(tip), "{prank:?}");
    }
}

#[tokio::test]
async fn a_success_that_came_early_is_told_when_the_push_is_allowed() {
    for ended in [true, false] {
        let place = Place::new(rig(), &format!("early-allowed-{ended}"));
        let api = format!("{}/refs/", place.repo);
        rig().upstream.set_api(&api, Some(Api::Held));
        let (_, body) = place.new_branch("early");
        // git itself begins its response early, and ends it after the whole push.
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

/// How the body of a push is framed.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Chunked,
    Length,
    Two,
}

/// A push whose last bytes come after the server's early 200.
#[derive(Clone, Copy, Debug)]
struct Late {
    framing: Framing,
    /// The number of last bytes that are sent separately.
    left: usize,
    /// The end of the body comes by itself, after the last byte.
    apart: bool,
    /// Every piece waits until the server's response has come.
    paused: bool,
}

impl Late {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for framing in [Framing::Chunked, Framing::Length, Framing::Two] {
            for left in [0, 1, 10, 19, 20, 21, 30] {
                for (apart, paused) in [(false, false), (false, true), (true, false), (true, true)] {
                    // A body of a known length ends with its last byte.
                    if !(apart && matches!(framing, Framing::Length)) {
                        all.push(Self { framing, left, apart, paused });
                    }
                }
            }
        }
        all
    }

    /// Sends `body` to the repository of `place`, where it moves the ref `name`.
    async fn push(self, place: &Place<'_>, name: &str, body: &[u8]) -> Answer {
        let before = place.at(name);
        let (first, rest) = body.split_at(body.len() - self.left);
        let end: &[u8] = b"";
        let pieces: Vec<&[u8]> =
            [Some(first), (self.left > 0).then_some(rest), self.apart.then_some(end)].into_iter().flatten().collect();
        let last = pieces.len() - 1;
        // git http-backend responds as soon as it has the list, and nothing outside Envoy shows that response.
        let pause = async |number: usize| {
            if self.paused && number != last {
                let whole = number > 0 || self.left == 0;
                let unmoved = || whole || place.at(name) == before;
                holds_async("an incomplete push moves nothing", COULD_PASS, unmoved).await;
            }
        };
        match self.framing {
            Framing::Chunked => {
                let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
                for (number, piece) in pieces.iter().enumerate() {
                    if number == last { upload.send_last(piece).await } else { upload.send(piece).await }.unwrap();
                    pause(number).await;
                }
                upload.hear().await.unwrap()
            }
            Framing::Length => {
                let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
                let request = one("POST", &place.path(), &[("content-type", CONTENT_TYPE)], body);
                let (first, rest) = request.split_at(request.len() - self.left);
                stream.write_all(first).await.unwrap();
                stream.flush().await.unwrap();
                pause(0).await;
                raw::ask(&mut stream, rest).await.unwrap()
            }
            Framing::Two => {
                let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
                let path = place.path();
                let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
                h2::ask_in_pieces_with(&mut stream, &fields, &pieces, pause).await.unwrap().answer()
            }
        }
    }
}

#[tokio::test]
async fn a_push_passes_whose_end_comes_after_the_server_s_early_success() {
    let place = Place::new(rig(), "late-end");
    let (place, seed) = (&place, &place.seed);
    let pushes = Late::all().into_iter().enumerate().map(|(number, late)| {
        let name = format!("refs/heads/sandbox/late-{number}");
        let new = place.work.commit(&[seed], &name);
        // A fast-forward of the container's own branch, or a new one.
        let old = if number % 2 == 0 { seed } else { ZERO };
        if old != ZERO {
            place.work.deliver(seed, &name);
        }
        let body = place.body(&[(old, &new, &name)], &[seed]);
        async move {
            let answer = late.push(place, &name, &body).await;
            assert_done(&format!("{late:?}"), &answer, &name);
            assert_eq!(place.at(&name), Some(new), "{late:?}");
        }
    });
    // A container has four pushes under way at a time.
    futures::stream::iter(pushes).buffer_unordered(4).for_each(async |()| {}).await;
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
    // git's request has no suffix if its URL has none.
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
    // The gateway forwards statuses other than 200.
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
    assert!(pushed.stderr.contains("github.repo"), "the redirect's target has its own verdict: {pushed:?}");
    for target in [&target, &bare_target] {
        rig.upstream.set_git(target, None);
    }
    assert!(place.arrived().is_empty() && place.at(X).is_none());
    place.sandbox.git(&place.sandbox.home.join("work"), &["push", "origin", "HEAD:sandbox/x"]).success();
}

#[tokio::test]
async fn a_list_of_refs_is_handed_on_with_some_capabilities_changed() {
    let place = Place::new(rig(), "rewritten");
    git(&place.bare, &["config", "receive.certNonceSeed", "x"]);
    git(&place.bare, &["config", "receive.advertisePushOptions", "true"]);
    git(&place.bare, &["config", "transfer.advertiseSID", "true"]);
    let target = format!("/{}.git/{REFS}", place.repo);
    for http in BOTH {
        for version in [false, true] {
            let headers: &[(&str, &str)] = if version { &[("git-protocol", "version=1")] } else { &[] };
            let answer = place.send(http, "GET", &target, headers, b"").await;
            let what = format!("{http:?} {version}: {answer:?}");
            assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{what}");
            assert!(answer.body.contains(" no-thin") && !answer.body.contains("push-cert"), "{what}");
            assert!(!answer.body.contains("push-options") && !answer.body.contains("session-id"), "{what}");
            assert!(answer.body.contains("report-status") && answer.body.ends_with("0000"), "{what}");
            assert_eq!(answer.body.contains("version 1"), version, "{what}");
        }
    }
    // git accepts the list, and reports itself that it can't sign the push.
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
    // A signed push is refused with its own rule nevertheless.
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
