//! A change of the CA, as an operator makes it while sandboxes work. A sandbox that received the bundle in time is
//! never cut off, and open streams continue.

use serde_json::Value;
use std::io;
use std::time::Duration;
use test_support::client::Followed;
use test_support::{Client, Finished, Gateway, Http, Rig, Sandbox, Upstream, eventually_async};

/// The timeout of every step.
const WITHIN: Duration = Duration::from_secs(10);

/// Hosts whose leaves are requested before the change, during it, and after it.
const HOSTS: [&str; 3] = ["files.example.net", "api.github.com", "api.anthropic.com"];

fn sallyport(gateway: &Gateway, arguments: &[&str]) -> Finished {
    Finished::of(&mut gateway.operator(arguments))
}

/// The single certificates in `pem`.
fn certificates(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let begun = |part: &str| part.find("-----BEGIN").map(|at| format!("{}{END}\n", &part[at..]));
    pem.split(END).filter_map(begun).collect()
}

/// The output of `ca show`: whether each CA issues, and its fingerprint.
fn shown(gateway: &Gateway) -> Vec<(bool, String)> {
    let printed = sallyport(gateway, &["ca", "show", "--json"]).success().stdout;
    let rows: Vec<Value> = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // The text form for operators.
    let lines = sallyport(gateway, &["ca", "show"]).success().stdout;
    for row in &rows {
        assert!(lines.contains(&text(&row["sha256"])) && lines.contains(&text(&row["not_after"])), "{row}: {lines}");
    }
    assert_eq!((lines.matches("issues ").count(), lines.matches("trusted ").count()), (1, rows.len() - 1), "{lines}");
    rows.iter().map(|row| (row["issues"] == true, text(&row["sha256"]))).collect()
}

/// A request on its own connection. It fails if `sandbox` trusts no CA that has signed the leaf.
async fn ask(sandbox: &Sandbox, host: &str, path: &str) -> io::Result<()> {
    Client::connect(sandbox, sandbox.address, host, Http::Two).await?.get(path).await?.ok().map(drop)
}

/// Checks that `sandbox` reaches `host`.
async fn assert_trusts(sandbox: &Sandbox, host: &str) {
    ask(sandbox, host, "/repos/acme/app/commits/trusted").await.unwrap_or_else(|error| panic!("{host}: {error}"));
}

/// Checks that `sandbox` ends the handshake itself, and that no request arrives.
async fn assert_distrusts(rig: &Rig, sandbox: &Sandbox, host: &str) {
    let path = format!("/repos/acme/app/commits/distrusted/{}", sandbox.address);
    let error = ask(sandbox, host, &path).await.expect_err("the CA of the leaf is not trusted");
    assert!(error.to_string().contains("invalid peer certificate"), "{host}: {error}");
    assert!(rig.upstream.requests_with(&path).is_empty(), "{host}");
}

#[tokio::test]
async fn a_change_of_ca_cuts_off_nobody_who_was_given_the_bundle_in_time() {
    let upstream = Upstream::start();
    // With one worker, all leaves change at the same moment.
    let gateway = Gateway::before(&upstream).workers(1).build();
    gateway.up();
    let rig = Rig { upstream, gateway };
    let old = rig.registered(&["acme/app"]);
    let first = rig.gateway.ca_pem();
    assert_eq!(certificates(&first), [first.as_str()]);
    assert_trusts(&old, HOSTS[0]).await;
    let [before] = &shown(&rig.gateway)[..] else { panic!("not one CA") };
    assert!(before.0);
    let too_early = sallyport(&rig.gateway, &["ca", "rotate", "--finish"]);
    assert!(too_early.code != Some(0) && too_early.stderr.contains("no new CA is staged"), "{too_early:?}");
    let mut kept = Client::connect(&old, old.address, "api.anthropic.com", Http::Two).await.unwrap();
    let stream = kept.open("/v1/stream").await.unwrap();
    assert_eq!(stream.status(), 200);
    let stream = Followed::new(stream.into_body());

    // The overlap: both CAs are trusted, and the old one issues.
    sallyport(&rig.gateway, &["ca", "rotate"]).success();
    let again = sallyport(&rig.gateway, &["ca", "rotate"]);
    assert!(again.code != Some(0) && again.stderr.contains("staged already"), "{again:?}");
    let overlap = rig.gateway.ca_pem();
    let [issues, follows] = &certificates(&overlap)[..] else { panic!("not two CAs: {overlap}") };
    assert!(*issues == first && *follows != first, "{overlap}");
    assert_eq!(sallyport(&rig.gateway, &["ca", "export"]).success().stdout, overlap);
    let exported = sallyport(&rig.gateway, &["ca", "export", "--bundle"]).success().stdout;
    let written = std::fs::read_to_string(rig.gateway.state.join("ca-bundle.pem")).unwrap();
    for bundle in [&exported, &written] {
        assert!(bundle.ends_with(&overlap) && certificates(bundle).len() > 2, "{bundle}");
    }
    assert_eq!(certificates(&exported), certificates(&written));
    let [(true, fingerprint), (false, next)] = &shown(&rig.gateway)[..] else { panic!("the first one issues") };
    assert!(*fingerprint == before.1 && next != fingerprint);
    let both = rig.registered(&["acme/app"]);
    assert_eq!(both.ca_pem, overlap);
    let mut new = rig.registered(&["acme/app"]);
    new.ca_pem.clone_from(follows);
    for host in &HOSTS[..2] {
        assert_trusts(&old, host).await;
        assert_trusts(&both, host).await;
        assert_distrusts(&rig, &new, host).await;
    }

    // The new CA issues, and earlier leaves are issued anew.
    sallyport(&rig.gateway, &["ca", "rotate", "--finish"]).success();
    for host in HOSTS {
        eventually_async("the leaf is of the new CA", WITHIN, async || {
            // A sandbox that trusts both CAs is never cut off.
            assert_trusts(&both, host).await;
            ask(&new, host, "/repos/acme/app/commits/trusted").await
        })
        .await;
        assert_distrusts(&rig, &old, host).await;
    }
    let after = rig.gateway.ca_pem();
    assert_eq!(
        certificates(&after),
        [follows.as_str(), issues.as_str()],
        "the old one is trusted until the next change"
    );
    assert_eq!(shown(&rig.gateway), [(true, next.clone()), (false, before.1.clone())]);

    // Open streams are still open, and carry more data.
    let seen = stream.bytes();
    eventually_async("the stream carries more data", WITHIN, async || {
        assert!(!stream.ended(), "the stream has ended");
        if stream.bytes() > seen { Ok(()) } else { Err("silent") }
    })
    .await;
    kept.get("/v1/kept").await.unwrap().ok().unwrap();
}
