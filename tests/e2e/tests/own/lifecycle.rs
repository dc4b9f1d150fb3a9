//! The gateway is one unit: the end of one process ends the other, and Envoy gets its lost state back.

use std::time::{Duration, Instant};
use test_support::client::tls;
use test_support::process::{self, Signal};
use test_support::raw::hear;
use test_support::{Client, Http, Rig, Sandbox, eventually, eventually_async};
use tokio::io::AsyncWriteExt;

/// The timeout of the end of both processes.
const END: Duration = Duration::from_secs(10);

/// A path with a credential, so that all parts of the gateway take part in its requests.
const PATH: &str = "/repos/acme/app/commits/served";

/// Waits until a request from `sandbox` is served.
async fn served(sandbox: &Sandbox, within: Duration) {
    eventually_async("a request is served", within, async || {
        Client::connect(sandbox, sandbox.address, "api.github.com", Http::Two).await?.get(PATH).await?.ok()
    })
    .await;
}

#[tokio::test]
async fn kill_9_of_the_control_plane_takes_envoy_with_it() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    served(&sandbox, END).await;
    let envoy = rig.gateway.envoy_pid().expect("Envoy runs");
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(END);
    eventually("Envoy is gone", END, || (!process::alive(envoy)).then_some(()));
    let refused = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn sigterm_ends_both_and_is_no_error() {
    let rig = Rig::start();
    let envoy = rig.gateway.envoy_pid().expect("Envoy runs");
    rig.gateway.signal(Signal::TERM);
    let status = rig.gateway.ended(END);
    assert!(status.success(), "{status}");
    assert!(!process::alive(envoy), "Envoy outlived sallyport up");
}

#[tokio::test]
async fn sigterm_lets_what_is_under_way_end_and_waits_for_no_tunnel() {
    let rig = Rig::start();
    let sandbox = rig.registered(&[]);
    let _idle = tls(&sandbox, sandbox.address, "files.example.net", Http::One).await.unwrap();
    let mut upload = tls(&sandbox, sandbox.address, "files.example.net", Http::One).await.unwrap();
    let head = "POST /upload HTTP/1.1\r\nHost: files.example.net\r\nContent-Length: 8\r\n\r\nhalf";
    upload.write_all(head.as_bytes()).await.unwrap();
    upload.flush().await.unwrap();
    eventually("the upload is under way", END, || (rig.upstream.requests_with("/upload").len() == 1).then_some(()));
    rig.gateway.signal(Signal::TERM);
    eventually_async("new connections are refused", END, async || {
        match sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await {
            Err(_) => Ok(()),
            Ok(_) => Err("a connection was accepted"),
        }
    })
    .await;
    upload.write_all(b"half").await.unwrap();
    upload.flush().await.unwrap();
    assert_eq!(hear(&mut upload, true).await.unwrap().status, 200);
    let answered = Instant::now();
    assert!(rig.gateway.ended(END).success());
    assert!(answered.elapsed() < Duration::from_secs(4), "the idle tunnel was waited for: {:?}", answered.elapsed());
}

#[tokio::test]
async fn the_audit_is_kept_through_restarts_and_sigterm_loses_none_of_it() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    for (number, signal) in [Signal::TERM, Signal::KILL, Signal::TERM].into_iter().enumerate() {
        let path = format!("/repos/acme/app/commits/{number}");
        let mut client = Client::connect(&sandbox, sandbox.address, "api.github.com", Http::Two).await.unwrap();
        client.get(&path).await.unwrap().ok().unwrap();
        if signal == Signal::KILL {
            // kill -9 loses lines that are not on disk yet, so wait until this line is.
            rig.gateway.audit_line(&path, |line| line["path"] == path.as_str());
        }
        rig.gateway.signal(signal);
        rig.gateway.ended(END);
        rig.gateway.up();
        for earlier in 0..=number {
            let path = format!("/repos/acme/app/commits/{earlier}");
            assert!(rig.gateway.audit().iter().any(|line| line["path"] == path.as_str()), "{path} after {signal:?}");
        }
    }
}

#[tokio::test]
async fn a_second_start_on_the_same_state_has_the_same_ca_and_serves_at_once() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    let ca = rig.gateway.ca_pem();
    for signal in [Signal::TERM, Signal::KILL, Signal::INT] {
        rig.gateway.signal(signal);
        rig.gateway.ended(END);
        rig.gateway.up();
        assert_eq!(rig.gateway.ca_pem(), ca);
        // The sandbox still trusts the CA from before the restart. `/readyz` has promised that requests are served now.
        let mut client = Client::connect(&sandbox, sandbox.address, "api.github.com", Http::One).await.unwrap();
        assert_eq!(client.get(PATH).await.unwrap().status, 200);
    }
}
