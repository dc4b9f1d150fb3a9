//! Bodies, encodings, methods and spellings of a push that no git sends.

use super::{BOTH, Place, TRAILER, X, Y, assert_done, assert_refused, assert_reported, one, rig, two};
use std::collections::BTreeSet;
use test_support::client::tls;
use test_support::gateway::policy;
use test_support::push::{CAPABILITIES, CONTENT_TYPE, Upload, ZERO, list, list_with};
use test_support::raw::{self, h2};
use test_support::upstream::{HOSTS, git};
use test_support::{Http, Rig};

/// A body in chunks of HTTP/1.1.
fn chunked(head: &str, pieces: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut bytes = head.as_bytes().to_vec();
    for piece in pieces {
        bytes.extend([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    bytes.extend(end);
    bytes
}

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
    // Without a length and a coding, which means no body (RFC 9112 section 6.3), and a body without chunks.
    let head = format!("POST {} HTTP/1.1\r\nHost: github.com\r\nContent-Type: {CONTENT_TYPE}\r\n", place.path());
    for rest in ["\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::One).await.unwrap();
        let answer = raw::ask(&mut stream, format!("{head}{rest}").as_bytes()).await.unwrap();
        assert_refused(rest, &answer, 403, "push.malformed");
    }
    // Headers, then the end of the stream in a separate frame.
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
    // Trailers alone, without a body.
    let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
    let request = h2::Request { body: b"", ..request };
    let answer = h2::ask(&mut stream, request).await.unwrap().answer();
    assert_refused("over HTTP/2 without a body", &answer, 403, "push.malformed");
    assert!(place.bytes() + TRAILER <= body.len() as u64, "{:?}", place.arrived());
    assert_eq!(place.at(X), None);
    // Envoy drops trailers of HTTP/1.1.
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
        // The trailer less one byte, and bytes that are no pack.
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
    // A valid push passes on the same connection.
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
    // A whole request within the body of a refused request is only body.
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

    // A refused push in pieces: none of its bytes are forwarded.
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
    // Each on its own branch: cuts at every place in the list, and around the trailer.
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
    // In two writes, so that the list is complete for a moment.
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    upload.send(&delete).await.unwrap();
    upload.send(b"x").await.unwrap();
    upload.end().await.unwrap();
    assert_reported("in two writes", &upload.hear().await.unwrap(), "push.malformed");
    // A push without an end has no effect.
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
    // A new name of zeros makes an update a deletion, whatever its old name is.
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
            // HTTP allows neither a fragment nor a control byte, and Envoy may end the stream over them.
            let refused = answer.as_ref().is_none_or(|answer| matches!(answer.status, 0 | 400 | 403 | 404 | 405));
            if !refused {
                wrong.push(format!("{http:?} {method} {path}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(place.arrived().is_empty(), "{:?}", place.arrived());
    assert_eq!(place.at(X), None);
    // GitHub accepts both spellings, and git's own URLs have both.
    for (number, path) in [format!("/{repo}/git-receive-pack"), place.path()].iter().enumerate() {
        let name = format!("refs/heads/sandbox/{number}");
        let new = place.work.commit(&[&place.seed], &name);
        let body = place.body(&[(ZERO, &new, &name)], &[&place.seed]);
        assert_done(path, &place.send(Http::Two, "POST", path, &kind, &body).await, &name);
    }
}

/// The gits that may serve a repository.
const SERVERS: [&str; 2] = ["/usr/bin/git", "/usr/local/bin/git"];

#[tokio::test]
async fn a_push_arrives_with_its_head_written_anew_and_its_pack_as_it_came() {
    let odd = "x;rails_env=development session-id=a;b atomic agent=git/2.39.5.(Apple) side-band-64k report-status-v2";
    let plain = " report-status-v2 side-band-64k atomic";
    let servers: Vec<_> = SERVERS.into_iter().filter(|git| std::path::Path::new(git).exists()).collect();
    assert!(!servers.is_empty(), "none of {SERVERS:?} is installed");
    for (number, server) in servers.into_iter().enumerate() {
        for http in BOTH {
            for (form, capabilities) in [("odd", odd), ("plain", plain), ("git", CAPABILITIES)] {
                let place = Place::new(rig(), &format!("bytes-{number}-{http:?}-{form}").to_lowercase());
                std::fs::write(place.bare.join("served-by"), server).unwrap();
                std::fs::write(place.bare.join("received"), "").unwrap();
                let new = place.work.commit(&[&place.seed], "bytes");
                let update = [(ZERO, new.as_str(), X)];
                let pack = place.work.pack(&[&new], &[&place.seed]);
                let body = [list_with(&update, capabilities), pack.clone()].concat();
                let headers = [
                    ("content-type", CONTENT_TYPE),
                    ("git-protocol", "version=1"),
                    ("x-stat", "a=b"),
                    ("x-github-internal", "1"),
                ];
                let told = format!("{server} {http:?} {form}");
                assert_done(&told, &place.send(http, "POST", &place.path(), &headers, &body).await, X);
                assert_eq!(place.at(X), Some(new.clone()), "{told}");
                let written = if form == "odd" { plain } else { capabilities };
                let expected = [list_with(&update, written), pack].concat();
                let received = std::fs::read(place.bare.join("received")).unwrap();
                assert!(received == expected, "{told}: {}", received.escape_ascii());
                let arrived = place.arrived();
                let push = arrived.last().unwrap();
                let length = push.header("content-length");
                let right = length.is_empty() || length == [expected.len().to_string().as_bytes()];
                assert!(right && !(length.is_empty() && http == Http::One), "{told}: {push:?}");
                assert_eq!(push.header("git-protocol"), [b"version=1"], "{told}");
                let strays = ["x-stat", "x-github-internal"].map(|name| push.header(name).len());
                assert_eq!(strays, [0, 0], "{told}: {push:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_push_that_decompresses_to_far_more_arrives_whole() {
    let place = Place::new(rig(), "inflated");
    let (work, seed) = (&place.work, &place.seed);
    // Parsed to its end, since the pack does not prove the descent: more than Envoy's buffer would hold, at a high ratio.
    let between = work.commit(&[seed], "between");
    work.deliver(&between, "refs/heads/other");
    work.deliver(seed, X);
    let line = |number: u32| {
        let (id, time) = (number.wrapping_mul(2_654_435_761), number % 977);
        format!("2026-11-30T10:00:00Z INFO request {id:08x} of GET /api/v1/items served in {time} ms with status 200\n")
    };
    let log: String = (0..900_000).map(line).collect();
    let new = work.commit(&[&between], &log);
    let body = place.body(&[(seed, &new, X)], &[&between]);
    assert!((4 << 20..14 << 20).contains(&body.len()), "{} bytes of {}", body.len(), log.len());
    assert_done("a log of 90 MB", &place.push(Http::One, &body).await, X);
    assert_eq!((place.at(X), place.bytes()), (Some(new), body.len() as u64));
}
