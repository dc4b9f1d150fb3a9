//! The time until Envoy serves again after kill -9. Other work on the machine would lengthen it.

use std::time::{Duration, Instant};
use test_support::process::{self, Signal};
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async};

/// The repository of every registered container here.
const REPO: &str = "acme/app";
/// A host with a credential.
const API: &str = "api.github.com";
/// The longest wait for a condition that is not measured.
const SOON: Duration = Duration::from_secs(10);

/// Sends a GET for `https://host/path` on a connection of its own, and expects a 200.
async fn served(sandbox: &Sandbox, host: &str, path: &str) -> std::io::Result<()> {
    Client::connect(sandbox, sandbox.address, host, Http::Two).await?.get(path).await?.ok().map(drop)
}

#[tokio::test]
async fn envoy_is_back_and_serves_within_two_seconds_of_kill_9() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    let begun = Instant::now();
    gateway.up();
    // A busy machine lengthens every start. A restart takes hardly more time than the first start.
    let within = Duration::from_secs(2).max(begun.elapsed() + Duration::from_millis(500));
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[REPO]);
    served(&sandbox, API, "/repos/acme/app/commits/before").await.unwrap();
    // Other work on the machine only delays a restart, so the best of three is the gateway's own time.
    let mut took = Vec::new();
    for _ in 0..3 {
        let envoy = rig.gateway.envoy_pid().expect("Envoy runs");
        process::signal(envoy, Signal::KILL);
        let killed = Instant::now();
        eventually_async("a request is served", SOON.max(2 * within), async || {
            served(&sandbox, API, "/repos/acme/app/commits/killed").await
        })
        .await;
        took.push(killed.elapsed());
        assert_ne!(rig.gateway.envoy_pid(), Some(envoy));
        eventually("ready", SOON, || rig.gateway.ready().then_some(()));
    }
    println!("served again {took:?} after kill -9 of Envoy, {within:?} were allowed");
    assert!(took.iter().any(|took| *took < within), "{took:?}, {within:?} were allowed");
}
