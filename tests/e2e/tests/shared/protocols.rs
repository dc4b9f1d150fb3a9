//! HTTP as real clients and servers speak it: events, silence, trailers, 100 Continue, odd bytes, limits, HTTP/1.0.
//! Each test checks the sandbox's response and the request upstream.

use serde_json::Value;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use test_support::client::{follow, tls};
use test_support::raw::{self, h2};
use test_support::upstream::{Recorded, Visibility, odd};
use test_support::{Answer, Client, Http, Rig, Sandbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A host without a credential.
const PLAIN: &str = "files.example.net";
/// The limit for the delay of an event to the sandbox.
const PROMPT: u128 = 100_000;
/// Longer than each of Envoy's default limits of a request's total time (15 s).
const SILENCE: Duration = Duration::from_secs(17);

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

/// The only request that arrived with `path`.
#[track_caller]
fn arrived(path: &str) -> Recorded {
    let mut requests = rig().upstream.requests_with(path);
    assert_eq!(requests.len(), 1, "{path}: {requests:?}");
    requests.remove(0)
}

#[track_caller]
fn assert_refused(what: &str, answer: &Answer, status: u16, rule: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (status, Some(rule)), "{what}: {answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{what}: {answer:?}"));
    assert_eq!(body["rule"], rule, "{what}: {answer:?}");
}

/// The usual fields of a request for `path` over HTTP/2, and `more`.
fn fields<'a>(method: &'a str, path: &'a str, more: &[h2::Field<'a>]) -> Vec<h2::Field<'a>> {
    let usual: [h2::Field<'a>; 4] = [
        (b":method", method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", PLAIN.as_bytes()),
        (b":path", path.as_bytes()),
    ];
    usual.into_iter().chain(more.iter().copied()).collect()
}

async fn two(sandbox: &Sandbox, request: h2::Request<'_>) -> h2::Heard {
    let mut stream = tls(sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap();
    h2::ask(&mut stream, request).await.unwrap()
}

async fn one(sandbox: &Sandbox, request: &[u8]) -> Answer {
    let mut stream = tls(sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
    raw::ask(&mut stream, request).await.unwrap()
}

// Slow responses.

#[tokio::test]
async fn each_event_is_there_within_100_ms_of_its_sending() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    for http in [Http::One, Http::Two] {
        let mut client = Client::connect(&sandbox, sandbox.address, PLAIN, http).await.unwrap();
        // By then the connection to the upstream is open.
        client.get("/odd/events/1").await.unwrap().ok().unwrap();
        let mut late = Vec::new();
        let body = client.open("/odd/events/10").await.unwrap().into_body();
        let note = |event: &[u8]| {
            // The end of the stream may be a separate frame.
            if event.is_empty() {
                return;
            }
            let came = odd::now();
            let text = std::str::from_utf8(event).unwrap();
            let sent: u128 = text.strip_prefix("data: ").unwrap().trim().parse().unwrap();
            late.push(came - sent);
        };
        follow(body, Duration::from_secs(10), note).await.unwrap();
        assert_eq!(late.len(), 10, "events come together");
        late.sort_unstable();
        println!("{http:?}: events are late by {late:?} µs");
        // A busy machine may delay some events. A buffer would delay each of them by the 150 ms between two.
        assert!(late[4] < PROMPT, "{late:?}");
    }
}

#[tokio::test]
async fn a_long_silence_is_no_fault() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    let (mut first, mut second, mut third) = (
        Client::connect(&sandbox, sandbox.address, PLAIN, Http::One).await.unwrap(),
        Client::connect(&sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap(),
        Client::connect(&sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap(),
    );
    let begun = Instant::now();
    let path = |what: &str| format!("/odd/{what}/{}", SILENCE.as_secs());
    let (silent, paused) = (path("silent"), path("paused"));
    let (one, two, three) = tokio::join!(first.get(&silent), second.get(&silent), third.get(&paused));
    for (answer, body) in [(one, "at last"), (two, "at last"), (three, "first half, second half")] {
        assert_eq!(answer.unwrap().ok().unwrap().body, body);
    }
    assert!(begun.elapsed() >= SILENCE);
}

#[test]
fn no_request_has_a_limit_of_its_total_time_and_silence_is_allowed_an_hour() {
    let dump: Value = serde_json::from_str(&rig().gateway.envoy_admin("/config_dump")).unwrap();
    let (mut managers, mut routes) = (0, 0);
    walk(&dump, &mut |name, value| match name {
        "stream_idle_timeout" => {
            managers += 1;
            assert_eq!(value, "3600s");
        }
        // The routes of the route configurations: no other `route` has a `cluster` beside it.
        "route" if value.get("cluster").is_some() => {
            routes += 1;
            assert_eq!(value["timeout"], "0s", "{value}");
            assert!(value.get("idle_timeout").is_none() && value.get("max_stream_duration").is_none(), "{value}");
        }
        "max_stream_duration" | "request_timeout" | "max_connection_duration" => panic!("{name}: {value}"),
        _ => {}
    });
    assert!(managers >= 3 && routes > 10, "{managers} managers, {routes} routes");
}

fn walk(value: &Value, look: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                look(name, value);
                walk(value, look);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, look)),
        _ => {}
    }
}

// Optional parts of requests and responses.

#[tokio::test]
async fn trailers_pass_both_ways_over_http2() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    let fields = fields("POST", "/odd/trailers", &[(b"te", b"trailers")]);
    let trailers: [h2::Field<'_>; 2] = [(b"x-of-the-sandbox", b"1"), (b"grpc-status", b"0")];
    let heard = two(&sandbox, h2::Request { fields: &fields, body: b"a body", trailers: &trailers }).await;
    assert_eq!((heard.status, &heard.body[..], heard.end), (200, &b"and trailers"[..], h2::End::Whole), "{heard:?}");
    let trailer = |name: &str| heard.trailers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice());
    assert_eq!(trailer("x-checksum"), Some(&b"of-the-upstream"[..]), "{heard:?}");
    // These trailers went upstream, and came back.
    assert_eq!((trailer("x-of-the-sandbox"), trailer("grpc-status")), (Some(&b"1"[..]), Some(&b"0"[..])), "{heard:?}");
}

#[tokio::test]
async fn who_expects_100_continue_gets_it_and_is_refused_with_the_reason() {
    let rig = rig();
    let (known, stranger) = (rig.registered(&[]), rig.sandbox());
    for (sandbox, path) in [(&known, "/continue/known"), (&stranger, "/continue/stranger")] {
        let mut stream = tls(sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {PLAIN}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        // The 100 Continue comes before the body.
        let first = raw::ask(&mut stream, head.as_bytes()).await.unwrap();
        assert_eq!(first.status, 100, "{first:?}");
        let answer = raw::ask(&mut stream, b"hello").await.unwrap();
        match path {
            "/continue/known" => assert_eq!(answer.status, 200, "{answer:?}"),
            _ => assert_refused(path, &answer, 403, "identity.unknown"),
        }
    }
    let request = arrived("/continue/known");
    assert_eq!((request.body_bytes, request.header("expect").len()), (5, 0), "{request:?}");
    assert!(rig.upstream.requests_with("/continue/stranger").is_empty());
}

#[tokio::test]
async fn bytes_beyond_ascii_in_headers_harm_nobody() {
    let rig = rig();
    let (known, stranger) = (rig.registered(&[]), rig.sandbox());
    let odd = b"caf\xe9 \xf0\x9f\x90\x99 \xff";
    let names = ["x-odd", "user-agent", "accept", "x-request-id", "cookie", "authorization", "x-forwarded-for"];
    for (number, name) in names.into_iter().enumerate() {
        for (sandbox, status) in [(&known, 200), (&stranger, 403)] {
            let path = format!("/beyond/{status}/{number}");
            let head = format!("GET {path} HTTP/1.1\r\nHost: {PLAIN}\r\n{name}: ");
            let answer = one(sandbox, &[head.as_bytes(), odd, b"\r\n\r\n"].concat()).await;
            assert_eq!(answer.status, status, "{name}: {answer:?}");
            let path = format!("/beyond/{status}/{number}/two");
            let fields = fields("GET", &path, &[(name.as_bytes(), odd)]);
            let heard = two(sandbox, h2::Request { fields: &fields, ..Default::default() }).await;
            assert_eq!(heard.status, status, "{name}: {heard:?}");
        }
    }
    for path in ["/beyond/200/0", "/beyond/200/0/two"] {
        let arrived: Vec<_> = rig.upstream.requests_with(path).into_iter().filter(|r| r.path == path).collect();
        assert_eq!(arrived[0].header("x-odd"), [odd], "{arrived:?}");
    }
    assert!(rig.upstream.requests_with("/beyond/403").is_empty());
    // In a response, too.
    let fields = fields("GET", "/odd/headers", &[]);
    let heard = two(&known, h2::Request { fields: &fields, ..Default::default() }).await;
    assert_eq!(heard.status, 200, "{heard:?}");
    let panics = rig.gateway.audit().into_iter().filter(|line| line["rule"] == "listener.filter-failed").count();
    assert_eq!(panics, 0, "a filter has failed");
}

#[tokio::test]
async fn an_upstream_s_headers_that_lead_past_the_gateway_or_speak_for_it_never_arrive() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    for (number, http) in [Http::One, Http::Two].into_iter().enumerate() {
        let mut client = Client::connect(&sandbox, sandbox.address, PLAIN, http).await.unwrap();
        let answer = client.open(&format!("/odd/headers/{number}")).await.unwrap();
        let headers = answer.headers();
        let kept: Vec<&[u8]> = headers.get_all("x-kept").iter().map(|value| value.as_bytes()).collect();
        assert_eq!(kept, [&b"caf\xe9 \xf0\x9f\x90\x99 \xff"[..], b"second"], "{headers:?}");
        assert_eq!(headers.get("server").unwrap(), "odd", "{headers:?}");
        for (name, value) in headers {
            let name = name.as_str();
            assert!(
                name != "alt-svc" && name != "x-sallyport-rule" && !name.starts_with("x-envoy-"),
                "{name}: {value:?}"
            );
        }
        assert_eq!(arrived(&format!("/odd/headers/{number}")).method, "GET");
    }
}

/// Headers for the connection alone, for another method or peer, or for Envoy's router.
const NEVER: [(&str, &str); 24] = [
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("proxy-authorization", "Basic eDp5"),
    ("x-http-method-override", "DELETE"),
    ("x-http-method", "DELETE"),
    ("x-method-override", "DELETE"),
    ("x-original-method", "DELETE"),
    ("x-original-url", "/other"),
    ("x-rewrite-url", "/other"),
    ("x-original-host", "github.com"),
    ("x-host", "github.com"),
    ("forwarded", "for=1.2.3.4"),
    ("via", "1.1 other"),
    ("x-forwarded-client-cert", "By=a"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-max-retries", "9"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-original-path", "/other"),
    ("x-envoy-decorator-operation", "other"),
    ("x-envoy-force-trace", "1"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
    ("x-envoy-ip-tags", "a"),
    ("x-sallyport-rule", "egress.host"),
];

#[tokio::test]
async fn headers_for_the_way_only_and_such_that_make_another_request_never_arrive() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    for (number, (name, value)) in NEVER.into_iter().enumerate() {
        let path = |way: &str| format!("/never/{number}/{way}");
        let head = |target: &str| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: x-named\r\nX-Named: 1\r\nX-Kept: 1\r\n{name}: {value}\r\n\r\n"
            )
        };
        let tunnelled = one(&sandbox, head(&path("tunnel")).as_bytes()).await;
        assert_eq!(tunnelled.status, 200, "{name}: {tunnelled:?}");
        let mut proxy = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap();
        let url = format!("http://{PLAIN}{}", path("absolute"));
        assert_eq!(raw::ask(&mut proxy, head(&url).as_bytes()).await.unwrap().status, 200, "{name}");
        let mut ways = vec!["tunnel", "absolute"];
        // Over HTTP/2 connection headers are malformed (RFC 9113 section 8.2.2).
        if !matches!(name, "keep-alive" | "proxy-connection") {
            let path = path("two");
            let fields = fields("GET", &path, &[(name.as_bytes(), value.as_bytes()), (b"x-kept", b"1")]);
            let heard = two(&sandbox, h2::Request { fields: &fields, ..Default::default() }).await;
            assert_eq!(heard.status, 200, "{name}: {heard:?}");
            ways.push("two");
        }
        for way in ways {
            let request = arrived(&path(way));
            assert_eq!(request.method, "GET", "{request:?}");
            assert_eq!(request.header("x-kept"), [b"1"], "{request:?}");
            for gone in [name, "connection", "x-named"] {
                assert!(request.header(gone).is_empty(), "{gone}: {request:?}");
            }
        }
    }
}

// Limits.

/// The total size of a request's head, as Envoy counts it.
const HEAD: usize = 60 * 1024;

/// The response to a head with a filler of `size` bytes.
async fn filled(sandbox: &Sandbox, http: Http, size: usize) -> Answer {
    let filler = "x".repeat(size);
    match http {
        Http::One => {
            one(sandbox, format!("GET /head HTTP/1.1\r\nHost: {PLAIN}\r\nX-Filler: {filler}\r\n\r\n").as_bytes()).await
        }
        Http::Two => {
            let fields = fields("GET", "/head", &[(b"x-filler", filler.as_bytes())]);
            two(sandbox, h2::Request { fields: &fields, ..Default::default() }).await.answer()
        }
    }
}

#[tokio::test]
async fn a_head_of_60_kib_passes_and_not_one_byte_more() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    for http in [Http::One, Http::Two] {
        let (mut passes, mut refused) = (HEAD - 1024, HEAD + 1024);
        while refused - passes > 1 {
            let middle = passes.midpoint(refused);
            match filled(&sandbox, http, middle).await.status {
                200 => passes = middle,
                _ => refused = middle,
            }
        }
        println!("{http:?}: {passes} passes");
        assert!((HEAD - 256..HEAD).contains(&passes), "{http:?}: {passes}");
        filled(&sandbox, http, passes).await.ok().unwrap();
        let before = rig.upstream.requests_with("/head").len();
        let told = filled(&sandbox, http, refused).await;
        match http {
            Http::One => assert_refused("HTTP/1.1", &told, 431, "limit.headers"),
            // Envoy's HTTP/2 codec resets the stream before there is a request to respond to.
            Http::Two => assert_eq!(told.status, 0, "{told:?}"),
        }
        assert_eq!(rig.upstream.requests_with("/head").len(), before);
    }
}

/// Envoy's default for the number of a request's fields.
const FIELDS: usize = 100;

#[tokio::test]
async fn a_head_of_100_fields_passes_and_not_one_field_more() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    // The four pseudo-headers count. Over HTTP/1.1 the method and the path do not count at this point.
    for (http, own) in [(Http::One, 1), (Http::Two, 4)] {
        for (more, passes) in [(FIELDS - own, true), (FIELDS - own + 1, false)] {
            let names: Vec<String> = (0..more).map(|number| format!("x-n{number}")).collect();
            let path = format!("/fields/{http:?}/{more}");
            let told = match http {
                Http::One => {
                    let lines: String = names.iter().map(|name| format!("{name}: 1\r\n")).collect();
                    one(&sandbox, format!("GET {path} HTTP/1.1\r\nHost: {PLAIN}\r\n{lines}\r\n").as_bytes()).await
                }
                Http::Two => {
                    let many: Vec<h2::Field<'_>> = names.iter().map(|name| (name.as_bytes(), &b"1"[..])).collect();
                    let fields = fields("GET", &path, &many);
                    two(&sandbox, h2::Request { fields: &fields, ..Default::default() }).await.answer()
                }
            };
            match (passes, http) {
                (true, _) => assert_eq!(told.status, 200, "{http:?} {more}: {told:?}"),
                (false, Http::One) => assert_refused(&path, &told, 431, "limit.headers"),
                (false, Http::Two) => assert_eq!(told.status, 0, "{told:?}"),
            }
            assert_eq!(rig.upstream.requests_with(&path).len(), usize::from(passes), "{path}");
        }
    }
}

#[tokio::test]
async fn bodies_of_all_sizes_around_our_buffers_arrive_whole() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    let megabyte = 1_usize << 20;
    for size in [
        0,
        1,
        16_383,
        16_384,
        16_385,
        65_536,
        megabyte,
        2 * megabyte - 1,
        2 * megabyte,
        2 * megabyte + 1,
        4 * megabyte + 1,
    ] {
        let file = sandbox.home.join(size.to_string());
        std::fs::write(&file, vec![b'x'; size]).unwrap();
        for http in ["--http1.1", "--http2"] {
            let path = format!("/body/{size}/{http}");
            let data = format!("@{}", file.display());
            let curled = sandbox.curl(&[http, "--data-binary", &data, &format!("https://{PLAIN}{path}")]);
            assert_eq!(curled.status, 200, "{size} {http}: {curled:?}");
            assert_eq!(arrived(&path).body_bytes, size as u64, "{http}");
        }
    }
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_refused_with_its_rule() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    let mut stream = tls(&sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
    let begun = Instant::now();
    stream.write_all(format!("GET /slow-head HTTP/1.1\r\nHost: {PLAIN}\r\nX-Slow: ").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ =
        timeout(HEAD_TIME + Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("the stream ends");
    let answer = String::from_utf8_lossy(&answer);
    assert!(begun.elapsed() >= HEAD_TIME, "{:?}: {answer}", begun.elapsed());
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("x-sallyport-rule: limit.request-time\r\n"),
        "{answer}"
    );
    assert!(rig.upstream.requests_with("/slow-head").is_empty());
}

/// The limit for the arrival of a request's head.
const HEAD_TIME: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_target_without_a_path_is_refused_with_its_rule() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    let before = rig.upstream.requests_with(PLAIN).into_iter().filter(|request| !request.path.starts_with('/')).count();
    let answer = one(&sandbox, format!("OPTIONS * HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n").as_bytes()).await;
    assert_refused("OPTIONS *", &answer, 404, "request.target");
    let mut proxy = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap();
    let answer =
        raw::ask(&mut proxy, format!("GET http://{PLAIN}?x=1 HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n").as_bytes()).await;
    assert_refused("a query alone", &answer.unwrap(), 404, "request.target");
    let from = sandbox.address.to_string();
    let line =
        rig.gateway.audit_line("OPTIONS", |line| line["container_ip"] == from.as_str() && line["method"] == "OPTIONS");
    assert_eq!(
        (&line["verdict"], &line["rule"], &line["stage"]),
        (&"deny".into(), &"request.target".into(), &"request".into())
    );
    let after = rig.upstream.requests_with(PLAIN).into_iter().filter(|request| !request.path.starts_with('/')).count();
    assert_eq!((before, after), (0, 0));
}

// Old protocols.

#[tokio::test]
async fn a_connect_of_http_1_0_opens_a_tunnel_and_is_refused_as_any_other() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    for (target, status, rule) in
        [("files.example.net:22", 403, Some("request.port")), ("127.0.0.1:443", 403, Some("request.authority"))]
    {
        let mut proxy = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap();
        let answer = raw::ask(&mut proxy, format!("CONNECT {target} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.rule.as_deref()), (status, rule), "{target}: {answer:?}");
    }
    // As Python's http.client wrote it up to 3.11.
    let mut proxy = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap();
    let answer = raw::ask(&mut proxy, format!("CONNECT {PLAIN}:80 HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let request = format!("GET /old HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n");
    raw::ask(&mut proxy, request.as_bytes()).await.unwrap().ok().unwrap();
    assert_eq!(arrived("/old").sni, PLAIN);
}

#[test]
fn git_clones_in_absolute_form_with_the_credential_and_over_tls() {
    let rig = rig();
    rig.upstream.create_repo("acme/absolute", Visibility::Private);
    rig.upstream.create_repo("acme/elsewhere", Visibility::Private);
    let sandbox = rig.registered(&["acme/absolute"]);
    sandbox.git(&sandbox.home, &["clone", "http://github.com/acme/absolute", "work"]).success();
    assert_eq!(std::fs::read_to_string(sandbox.home.join("work/README")).unwrap(), "acme/absolute");
    let arrived = rig.upstream.requests_with("github.com/acme/absolute");
    assert!(arrived.len() >= 2, "{arrived:?}");
    for request in arrived {
        assert_eq!((request.sni.as_str(), request.header("authorization").len()), ("github.com", 1), "{request:?}");
    }
    let refused = sandbox.git(&sandbox.home, &["clone", "http://github.com/acme/elsewhere", "other"]);
    assert_ne!(refused.code, Some(0));
    assert!(rig.upstream.requests_with("github.com/acme/elsewhere").is_empty());
    let mut command = sandbox.command("git");
    let env = test_support::Finished::of(command.args(["config", "--global", "--list"]));
    assert!(!env.stdout.contains("insteadOf"), "it was cloned by another URL: {}", env.stdout);
}
