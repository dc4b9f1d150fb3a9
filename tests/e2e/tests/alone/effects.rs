//! Many streams that one callback of a filter could end or answer at once. Envoy's stack and V8's would hold all of them,
//! one inside the other; a stack that is too deep ends the filters of the worker, and with them every stream.

use std::time::Duration;
use test_support::client::{Followed, tunnel};
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually_async};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A host whose `/v1/stream` never ends.
const STREAMS: &str = "api.anthropic.com";
/// The timeout of a wait whose length is not tested.
const SOON: Duration = Duration::from_secs(20);
/// The burst of tunnels of an address.
const BURST: usize = 256;
/// Refusals that are due at one time.
const REFUSED: usize = 1_000;
/// Requests of one record.
const OPEN: usize = 256;

/// A gateway with one worker, whose filters see every request.
fn rig() -> Rig {
    let upstream = Upstream::start();
    let settings = "limits: {container_connections: 4096}\n";
    let gateway = Gateway::before(&upstream).workers(1).settings(settings).up();
    Rig { upstream, gateway }
}

/// A stream of another sandbox, which ends if the filters of the worker do.
async fn beside(sandbox: &Sandbox) -> Followed {
    let mut client = Client::connect(sandbox, sandbox.address, STREAMS, Http::Two).await.unwrap();
    Followed::new(client.open("/v1/stream").await.unwrap().into_body())
}

#[tokio::test]
async fn a_thousand_refusals_that_are_due_at_once_end_no_worker() {
    let rig = rig();
    let (flooder, other) = (rig.registered(&[]), rig.registered(&[]));
    let beside = beside(&other).await;
    let request = format!("CONNECT {STREAMS}:443 HTTP/1.1\r\nHost: {STREAMS}:443\r\n\r\n");
    let mut streams = Vec::new();
    // The burst of the address is used up, and no tunnel is open.
    for _ in 0..BURST {
        drop(tunnel(&flooder, flooder.address, STREAMS).await.unwrap());
    }
    // Each of them has ten seconds for its request.
    for _ in 0..REFUSED {
        streams.push(flooder.socket(flooder.address).connect(flooder.proxy.unwrap()).await.unwrap());
    }
    // The refusals are due three seconds after their requests, which all arrive within a short time.
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mut refusals = 0;
    for stream in &mut streams {
        let mut head = [0; 12];
        timeout(SOON, stream.read_exact(&mut head)).await.expect("an answer").unwrap();
        refusals += usize::from(&head == b"HTTP/1.1 429");
    }
    println!("{refusals} refusals");
    assert!(refusals >= REFUSED / 2, "only {refusals} refusals");
    assert!(!beside.ended(), "the filters of the worker have ended");
    let failed = rig.gateway.audit().into_iter().find(|line| line["rule"] == "listener.filter-failed");
    assert_eq!(failed, None);
}

#[tokio::test]
async fn the_end_of_256_requests_of_one_record_ends_no_worker() {
    let rig = rig();
    let (gone, other) = (rig.registered(&[]), rig.registered(&[]));
    let beside = beside(&other).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(&gone, gone.address, STREAMS, Http::Two).await.unwrap());
    }
    let mut streams = Vec::new();
    for number in 0..OPEN {
        let response = clients[number % 4].open("/v1/stream").await.unwrap();
        assert_eq!(response.status(), 200, "request {number}");
        streams.push(Followed::new(response.into_body()));
    }
    rig.gateway.remove(gone.address);
    eventually_async("all requests have ended", SOON, async || {
        let open = streams.iter().filter(|stream| !stream.ended()).count();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    assert!(!beside.ended(), "the filters of the worker have ended");
    let failed = rig.gateway.audit().into_iter().find(|line| line["rule"] == "listener.filter-failed");
    assert_eq!(failed, None);
}
