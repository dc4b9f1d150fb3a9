//! A filter that panics, in a separate build that does so for `/panic`: the request is refused, the filter starts
//! again, and the audit names the container. A container that causes three panics is blocked, and no other container
//! is.

use std::time::Duration;
use test_support::client::Followed;
use test_support::gateway::{NO_CREDENTIAL_BUT_GITHUB, container_id, policy};
use test_support::upstream::Visibility;
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async};
use tokio::io::AsyncReadExt;

const HOST: &str = "api.anthropic.com";
const WITHIN: Duration = Duration::from_secs(20);

/// In absolute form: a tunnel is a stream of the same VM, and would end with it before the response has come through.
fn ask(sandbox: &Sandbox, path: &str) -> (u16, Option<String>) {
    let curled = sandbox.curl(&[&format!("http://{HOST}{path}")]);
    (curled.status, curled.rule())
}

fn refused(status: u16, rule: &str) -> (u16, Option<String>) {
    (status, Some(rule.to_owned()))
}

/// Waits until `sandbox` is served. A filter that has started again knows no containers at first.
fn served(sandbox: &Sandbox) {
    eventually("served", WITHIN, || (ask(sandbox, "/after").0 == 200).then_some(()));
}

/// Waits until `/metrics` has this line. A block is counted when it is in force.
fn assert_counted(rig: &Rig, counted: &str) {
    eventually(counted, WITHIN, || {
        let (_, metrics) = rig.gateway.call("GET", "/metrics", None);
        metrics.lines().any(|line| line == counted).then_some(())
    });
}

#[tokio::test]
async fn whoever_makes_a_filter_panic_is_named_and_blocked_at_the_third_time() {
    let filters = std::env::var("SALLYPORT_FILTERS_PANIC").expect("SALLYPORT_FILTERS_PANIC is set by run-e2e.sh");
    let upstream = Upstream::start();
    // With one worker there is one VM, which serves all containers and panics next.
    let builder = Gateway::with(&policy(&[HOST])).settings(NO_CREDENTIAL_BUT_GITHUB).upstream(&upstream);
    let gateway = builder.env("SALLYPORT_FILTERS", &filters).workers(1).up();
    let rig = Rig { upstream, gateway };
    let (culprit, bystander) = (rig.registered(&[]), rig.registered(&[]));
    served(&culprit);
    for time in 1..=3 {
        // An open stream of another container in the same VM. A panic that ends it does not count against its
        // container.
        let stream = eventually_async("a stream", WITHIN, async || {
            let mut client = Client::connect(&bystander, bystander.address, HOST, Http::Two).await?;
            client.open("/v1/stream").await
        })
        .await;
        // The crash ends all TCP connections of the worker. The response may have come before.
        let asked = ask(&culprit, "/panic");
        assert!([(0, None), refused(503, "listener.filter-failed")].contains(&asked), "time {time}: {asked:?}");
        let lines = eventually("the audit's lines", WITHIN, || {
            let lines: Vec<_> = rig.gateway.audit().into_iter().filter(|line| line["path"] == "/panic").collect();
            (lines.len() == time).then_some(lines)
        });
        let line = lines.last().unwrap();
        assert_eq!(
            (&line["rule"], &line["panicked"]),
            (&"listener.filter-failed".into(), &"identity on_request_headers".into()),
            "{line}"
        );
        assert_eq!(line["container_id"], container_id(culprit.address));
        drop(stream);
        served(&bystander);
        if time < 3 {
            served(&culprit);
        }
    }
    eventually("blocked", WITHIN, || (ask(&culprit, "/once-more") == refused(403, "identity.blocked")).then_some(()));
    served(&bystander);
    let (_, record) = rig.gateway.call("GET", &format!("/internal/containers/{}", culprit.address), None);
    assert!(record.contains("3 times within a minute"), "{record}");
    assert!(rig.upstream.requests_with("/panic").is_empty());
    for counted in ["sallyport_filter_panics_total 3", "sallyport_containers_blocked_total 1"] {
        assert_counted(&rig, counted);
    }

    rig.gateway.register(culprit.address, &[]);
    served(&culprit);
}

/// The filter of connections panics before any request, so there is only the line of the connection.
#[tokio::test]
async fn a_panic_over_a_connection_is_named_and_counted() {
    let filters = std::env::var("SALLYPORT_FILTERS_PANIC").expect("SALLYPORT_FILTERS_PANIC is set by run-e2e.sh");
    let upstream = Upstream::start();
    let builder = Gateway::with(&policy(&[HOST])).settings(NO_CREDENTIAL_BUT_GITHUB).upstream(&upstream);
    let gateway = builder.env("SALLYPORT_FILTERS", &filters).workers(1).up();
    let rig = Rig { upstream, gateway };
    let (culprit, bystander) = (rig.registered(&[]), rig.registered(&[]));
    served(&culprit);
    for (time, port) in [(1, 6_661), (2, 6_662), (3, 6_663)] {
        let socket = culprit.socket_at((culprit.address, port).into());
        let mut stream = socket.connect(culprit.proxy.unwrap()).await.unwrap();
        let read = tokio::time::timeout(WITHIN, stream.read(&mut [0])).await.expect("the connection is closed");
        assert!(matches!(read, Ok(0) | Err(_)), "time {time}: {read:?}");
        let lines = eventually("the audit's lines", WITHIN, || {
            let of_connections = |line: &serde_json::Value| line["panicked"] == "connections on_new_connection";
            let lines: Vec<_> = rig.gateway.audit().into_iter().filter(of_connections).collect();
            (lines.len() == time).then_some(lines)
        });
        let line = lines.last().unwrap();
        assert_eq!((&line["verdict"], &line["rule"]), (&"deny".into(), &"listener.filter-failed".into()), "{line}");
        assert_eq!(line["container_id"], container_id(culprit.address), "{line}");
        served(&bystander);
    }
    eventually("blocked", WITHIN, || (ask(&culprit, "/once-more") == refused(403, "identity.blocked")).then_some(()));
    served(&bystander);
    for counted in ["sallyport_filter_panics_total 3", "sallyport_containers_blocked_total 1"] {
        assert_counted(&rig, counted);
    }
}

/// The push filter has a VM of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_over_a_push_ends_no_other_stream_of_its_worker() {
    let filters = std::env::var("SALLYPORT_FILTERS_PANIC").expect("SALLYPORT_FILTERS_PANIC is set by run-e2e.sh");
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).env("SALLYPORT_FILTERS", &filters).workers(1).up();
    let rig = Rig { upstream, gateway };
    rig.upstream.create_repo("acme/app", Visibility::Private);
    let (culprit, bystander) = (rig.registered(&["acme/app"]), rig.registered(&[]));
    served(&bystander);
    let mut client = Client::connect(&bystander, bystander.address, HOST, Http::Two).await.unwrap();
    let stream = Followed::new(client.open("/v1/stream").await.unwrap().into_body());
    let refs = "https://github.com/acme/app/info/refs?service=git-receive-pack";
    // Once the container is known, so that the request gets to the push filter.
    eventually("the refs are served", WITHIN, || (culprit.curl(&[refs]).status == 200).then_some(()));
    let crashed = culprit.curl(&["-A", "panic", refs]);
    assert_eq!((crashed.status, crashed.rule()), refused(503, "listener.filter-failed"), "{crashed:?}");
    let line = eventually("the audit's line", WITHIN, || {
        rig.gateway.audit().into_iter().find(|line| line["panicked"] == "push on_request_headers")
    });
    assert_eq!(line["container_id"], container_id(culprit.address));
    // The push filter has started again.
    eventually("the refs are served", WITHIN, || (culprit.curl(&[refs]).status == 200).then_some(()));
    let before = stream.bytes();
    eventually("the stream of another container goes on", WITHIN, || (stream.bytes() > before).then_some(()));
}
