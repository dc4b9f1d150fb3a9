//! The limits of HTTP/2 at their last frame and one past it, and Envoy's heap.

use std::io;
use std::time::Duration;
use test_support::client::{Tls, tls};
use test_support::raw::h2::{Connection, Events, Field};
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// A host whose `/v1/stream` never ends.
const STREAMS: &str = "api.anthropic.com";
/// A host without a credential.
const PLAIN: &str = "files.example.net";
/// The timeout of a wait whose length is not tested.
const SOON: Duration = Duration::from_secs(10);

/// The most streams of a connection (RFC 9113, SETTINGS_MAX_CONCURRENT_STREAMS).
const CONCURRENT: u8 = 3;
/// The limit of streams.
const LIMIT: u32 = 128;
/// The streams of which half may be reset early. Envoy closes the connection as soon as that is certain.
const RESETS: u32 = 500;
/// Further resets, for streams that were not reset early enough.
const MORE_RESETS: u32 = 8;
/// REFUSED_STREAM (RFC 9113 section 7).
const REFUSED: u32 = 7;

/// The most fields of a request's headers.
const HEADERS: usize = 100;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const WINDOW_UPDATE: u8 = 8;

fn get<'a>(host: &'a str, path: &'a str) -> [Field<'a>; 4] {
    [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host.as_bytes()), (b":path", path.as_bytes())]
}

async fn connection(sandbox: &Sandbox, host: &str) -> Connection<Tls> {
    let stream = tls(sandbox, sandbox.address, host, Http::Two).await.unwrap();
    Connection::begin(stream, 1 << 20).await.unwrap()
}

async fn is_served(sandbox: &Sandbox) {
    let mut client = Client::connect(sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap();
    client.get("/beside").await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn a_connection_has_128_streams_and_not_one_more() {
    let rig = Rig::start();
    let (sandbox, other) = (rig.registered(&[]), rig.registered(&[]));
    let mut connection = connection(&sandbox, STREAMS).await;
    assert_eq!(connection.setting(CONCURRENT).await.unwrap(), LIMIT);
    let mut last = 0;
    for _ in 0..LIMIT {
        last = connection.request(&get(STREAMS, "/v1/stream"), false).await.unwrap();
    }
    let limit = usize::try_from(LIMIT).unwrap();
    let events = connection.events(SOON, |events| events.answered.len() == limit).await;
    assert_eq!((events.answered.len(), events.resets.len(), events.closed), (limit, 0, false), "{events:?}");
    // One stream ends, one more is granted.
    connection.reset(last).await.unwrap();
    let again = connection.request(&get(STREAMS, "/v1/stream"), false).await.unwrap();
    let events = connection.events(SOON, |events| events.answered.contains(&again)).await;
    assert!(events.answered.contains(&again), "{events:?}");
    // Until the client has confirmed the setting, its stream is refused. Then such a stream is an error of the
    // connection, which Envoy closes.
    let beyond = connection.request(&get(STREAMS, "/v1/one-more"), false).await.unwrap();
    let events = connection.events(SOON, |events| !events.resets.is_empty()).await;
    assert!(events.resets == [(beyond, REFUSED)] || events.closed, "{events:?}");
    assert!(rig.upstream.requests_with("/v1/one-more").is_empty());
    is_served(&other).await;
}

#[tokio::test]
async fn a_connection_that_resets_half_of_500_streams_early_is_closed() {
    let rig = Rig::start();
    let (sandbox, other) = (rig.registered(&[]), rig.registered(&[]));
    let mut connection = connection(&sandbox, STREAMS).await;
    for _ in 1..RESETS / 2 {
        let on = connection.request(&get(STREAMS, "/v1/stream"), false).await.unwrap();
        connection.reset(on).await.unwrap();
    }
    let on = connection.request(&get(STREAMS, "/v1/stream"), false).await.unwrap();
    let events = connection.events(SOON, |events| events.answered.contains(&on)).await;
    assert!(events.answered.contains(&on) && !events.closed, "{events:?}");
    // The last one has lasted as long as its response took. A stream of more than a second doesn't count.
    connection.reset(on).await.unwrap();
    for _ in 0..MORE_RESETS {
        // Envoy may have closed the connection.
        let Ok(on) = connection.request(&get(STREAMS, "/v1/stream"), false).await else { break };
        let _closed = connection.reset(on).await;
    }
    let events = connection.events(SOON, |_| false).await;
    assert!(events.closed, "{events:?}");
    assert_eq!(rig.gateway.envoy_stat("http.tunnel.downstream_rq_too_many_premature_resets"), 1);
    is_served(&other).await;
}

/// Sends `at` frames by `send`, after which the connection works, then `past` more, after which it is closed.
async fn assert_closes_past(
    sandbox: &Sandbox,
    what: &str,
    frames: (u32, u32),
    send: impl AsyncFn(&mut Connection<Tls>, u32),
) {
    for (count, closes) in [(frames.0, false), (frames.1, true)] {
        let mut connection = connection(sandbox, PLAIN).await;
        // The peer may close the connection before all is sent.
        send(&mut connection, count).await;
        let asked = connection.request(&get(PLAIN, "/after"), false).await;
        let answered = |events: &Events| asked.as_ref().is_ok_and(|on| events.answered.contains(on));
        let events = connection.events(SOON, answered).await;
        assert_eq!(events.closed, closes, "{what}: {count} frames: {events:?}");
        assert!(closes || answered(&events), "{what}: {count} frames: {events:?}");
    }
}

#[tokio::test]
async fn frames_without_work_are_limited() {
    let rig = Rig::start();
    let (sandbox, other) = (rig.registered(&[]), rig.registered(&[]));
    // One stream: 100 frames for each of it and of one more.
    assert_closes_past(&sandbox, "priority", (100, 300), async |connection, count| {
        let open = connection.request(&get(PLAIN, "/open"), true).await.unwrap();
        for _ in 0..count {
            let _ = connection.frame(PRIORITY, 0, open, &[0, 0, 0, 0, 16]).await;
        }
    })
    .await;
    assert_closes_past(&sandbox, "empty", (1, 3), async |connection, count| {
        let open = connection.request(&get(PLAIN, "/open"), true).await.unwrap();
        for _ in 0..count {
            let _ = connection.frame(DATA, 0, open, &[]).await;
        }
    })
    .await;
    // 5 + 2 * (streams + 10 for each DATA frame): Envoy's formula for WINDOW_UPDATE, without any DATA.
    assert_closes_past(&sandbox, "window", (5, 200), async |connection, count| {
        for _ in 0..count {
            let _ = connection.frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).await;
        }
    })
    .await;
    // The kernel's buffers take the first answers: Envoy counts those that wait behind them.
    assert_closes_past(&sandbox, "ping", (900, 4_000_000), async |connection, count| {
        let _ = connection.pings(count).await;
    })
    .await;
    is_served(&other).await;
}

#[tokio::test]
async fn a_request_has_100_header_fields_and_not_one_more() {
    let rig = Rig::start();
    let sandbox = rig.registered(&[]);
    let mut connection = connection(&sandbox, PLAIN).await;
    // Four of them are the pseudo-headers.
    let names: Vec<String> = (4..=HEADERS).map(|number| format!("x-field-{number}")).collect();
    let more: Vec<Field<'_>> = names.iter().map(|name| (name.as_bytes(), &b"1"[..])).collect();
    let path_at = [&get(PLAIN, "/hundred")[..], &more[..HEADERS - 4]].concat();
    let on = connection.request(&path_at, false).await.unwrap();
    let events = connection.events(SOON, |events| events.answered.contains(&on)).await;
    assert!(events.answered.contains(&on), "{events:?}");
    assert_eq!(rig.upstream.requests_with("/hundred").len(), 1);
    let past = [&get(PLAIN, "/one-more")[..], &more].concat();
    let on = connection.request(&past, false).await.unwrap();
    let ended = |events: &Events| events.answered.contains(&on) || events.resets.iter().any(|(reset, _)| *reset == on);
    let events = connection.events(SOON, |events| ended(events) || events.goaway.is_some()).await;
    assert!(ended(&events) || events.closed || events.goaway.is_some(), "{events:?}");
    assert!(rig.upstream.requests_with("/one-more").is_empty());
}

#[test]
fn an_envoy_at_the_end_of_its_heap_refuses_requests_with_a_reason() {
    let upstream = Upstream::start();
    for (mib, status, rule) in [(512, 200, None), (64, 503, Some("limit.overload"))] {
        let gateway = Gateway::before(&upstream).settings(&format!("limits: {{envoy_heap_mib: {mib}}}\n")).up();
        let sandbox = Sandbox::start().behind(&gateway);
        gateway.register(sandbox.address, &[]);
        let allocated = gateway.envoy_stat("server.memory_allocated") >> 20;
        // In absolute form, whose refusal curl prints. The monitor looks four times a second.
        let asked = eventually("Envoy's monitor has looked", SOON, || {
            let asked = sandbox.curl(&[&format!("http://{STREAMS}/v1/models")]);
            (asked.status == status).then_some(asked)
        });
        assert_eq!(asked.rule().as_deref(), rule, "{mib} MiB, of which {allocated} are used: {asked:?}");
    }
}

/// The clients that read nothing. Each one's response is 16 MiB.
const READERS: usize = 60;
/// The part of the heap, in MiB, that is left to an Envoy which does nothing. The readers' buffers need more.
const SPARE: u64 = 96;
/// Unread responses, and how many of them Envoy pauses at least. Their streams' windows are 4 MiB.
const UNREAD: usize = 24;
const PAUSED: usize = 4;
/// The timeout until another sandbox is served beside the readers. Their streams end 5 s after their last progress.
const SERVED: Duration = Duration::from_secs(60);

/// Requests the large response over HTTP/1.1, and reads nothing of it.
async fn read_nothing(sandbox: &Sandbox) -> io::Result<Tls> {
    let mut stream = tls(sandbox, sandbox.address, PLAIN, Http::One).await?;
    stream.write_all(format!("GET /large HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_lock_nobody_out_of_the_heap() {
    let upstream = Upstream::start();
    let idle = {
        let gateway = Gateway::before(&upstream).up();
        gateway.envoy_stat("server.memory_allocated") >> 20
    };
    let mib = idle + SPARE;
    let gateway = Gateway::before(&upstream).settings(&format!("limits: {{envoy_heap_mib: {mib}}}\n")).up();
    let (sandbox, other) = (Sandbox::start().behind(&gateway), Sandbox::start().behind(&gateway));
    for container in [&sandbox, &other] {
        gateway.register(container.address, &[]);
    }
    is_served(&other).await;
    let pressure = || gateway.envoy_stat("overload.envoy.resource_monitors.fixed_heap.pressure");
    let mut readers = Vec::new();
    let mut highest = pressure();
    for _ in 0..READERS {
        // At the end of the heap Envoy refuses more of them.
        readers.extend(timeout(SOON, read_nothing(&sandbox)).await.ok().and_then(Result::ok));
        highest = highest.max(pressure());
    }
    eventually("the readers fill the heap", SOON, || {
        highest = highest.max(pressure());
        (highest >= 75).then_some(())
    });
    eventually_async("another sandbox is served beside the readers", SERVED, async || {
        let served = async {
            let mut client = Client::connect(&other, other.address, PLAIN, Http::Two).await?;
            client.get("/beside").await?.ok()
        };
        timeout(SOON, served).await.map_err(io::Error::other)?
    })
    .await;
    println!("{mib} MiB, of which {idle} are used by an idle Envoy; {} readers, {highest} % at most", readers.len());
    // Until here the readers have closed nothing.
    drop(readers);
}

/// All requests of a worker to one host may share one HTTP/2 connection to it, whose window all of them use up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_take_no_window_from_another_one_s_responses() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).workers(1).up();
    let rig = Rig { upstream, gateway };
    let (sandbox, other) = (rig.registered(&[]), rig.registered(&[]));
    let mut readers = Vec::new();
    for _ in 0..UNREAD {
        readers.push(read_nothing(&sandbox).await.unwrap());
    }
    let paused = || {
        let stats = rig.gateway.envoy_admin("/stats?filter=upstream_flow_control_paused_reading_total");
        let counts = stats.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum::<usize>()
    };
    eventually("Envoy reads no more of the responses", SOON, || (paused() >= PAUSED).then_some(()));
    for _ in 0..4 {
        timeout(SOON, is_served(&other)).await.expect("served beside the readers");
    }
    drop(readers);
}
