//! Changes while a push is under way, of refs, records, policy, filter and control plane, and clients that leave.

use super::{BOTH, PATIENCE, Place, SOON, TRAILER, Waiting, X, Y, assert_done, assert_refused, assert_reported, rig};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};
use test_support::filters::Filters;
use test_support::gateway::policy;
use test_support::process::{Signal, stopped};
use test_support::push::{Upload, ZERO};
use test_support::upstream::HOSTS;
use test_support::upstream::pranks::Api;
use test_support::{Gateway, Http, Rig, Upstream, eventually, eventually_async, scratch};

#[tokio::test]
async fn a_ref_that_moves_meanwhile_stays_where_it_was_moved() {
    let place = Place::new(rig(), "meanwhile");
    let (work, seed) = (&place.work, &place.seed);
    let between = work.commit(&[seed], "between");
    let (new, theirs) = (work.commit(&[&between], "new"), work.commit(&[seed], "theirs"));
    work.deliver(&between, "refs/heads/other");
    work.deliver(seed, X);
    // The gateway has read the ref, and waits for the comparison.
    let compare = format!("{}/compare/", place.repo);
    rig().upstream.set_api(&compare, Some(Api::Held));
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    upload.send(&place.body(&[(seed, &new, X)], &[&between])).await.unwrap();
    upload.end().await.unwrap();
    eventually("the comparison is requested", SOON, || (place.compared() == 1).then_some(()));
    work.deliver(&theirs, X);
    rig().upstream.set_api(&compare, None);
    let answer = upload.hear().await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{answer:?}");
    assert!(answer.body.contains(&format!("ng {X}")), "git's own refusal: {answer:?}");
    assert_eq!(place.at(X), Some(theirs.clone()));
    // Now the gateway knows the new value.
    let again = place.push(Http::Two, &place.body(&[(seed, &new, X)], &[&between])).await;
    assert_reported("again", &again, "push.stale");
    assert!(again.body.contains(&theirs), "the refusal names the current value: {again:?}");
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

/// The limit of pushes of one container that a worker inspects at a time.
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
        // In order: another push before the fourth is under way would take its place.
        eventually("the push is under way", SOON, || (place.arrived().len() == uploads.len()).then_some(()));
    }
    assert_eq!(uploads.len(), PUSHES);
    for http in BOTH {
        let answer = place.push(http, &body).await;
        assert_refused("the fifth", &answer, 429, "limit.pushes");
        assert!(answer.body.contains("try again"), "{answer:?}");
    }
    // Clones and reads of refs still work, and another container is unaffected.
    place.sandbox.git(&place.sandbox.home, &["clone", "-q", &format!("https://github.com/{}", place.repo)]).success();
    let (_, others) = other.new_branch("beside");
    assert_done("another container's", &other.push(Http::Two, &others).await, X);
    assert_eq!(place.arrived().len(), PUSHES);
    // One client leaves.
    drop(uploads.pop());
    eventually_async("the place of the push is free", SOON, async || {
        let answer = place.push(Http::Two, &body).await;
        if answer.rule.is_none() && answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(place.at(X), Some(new.clone()));
    // One push is refused: its place is free with the response.
    let mut fourth = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    fourth.send(b"zzzz").await.unwrap();
    fourth.end().await.unwrap();
    assert_refused("nonsense", &fourth.hear().await.unwrap(), 403, "push.malformed");
    let answer = place.push(Http::Two, b"0000").await;
    assert_eq!((answer.status, answer.rule), (200, None));
    // The other three pushes are unaffected.
    for (mut upload, rest, name) in uploads {
        upload.send(&rest).await.unwrap();
        upload.end().await.unwrap();
        assert_done("one that waited", &upload.hear().await.unwrap(), &name);
        assert_eq!(place.at(&name).as_ref(), Some(&new));
    }
}

#[tokio::test]
async fn while_the_control_plane_stands_still_a_push_is_refused_in_time_and_the_next_try_works() {
    let rig = Rig::start();
    let mut waiting = Waiting::begin(&rig, "stopped").await;
    rig.gateway.signal(Signal::STOP);
    eventually("the control plane is stopped", SOON, || stopped(rig.gateway.pid()).then_some(()));
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
    gateway.up_apart();
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
        // Without the control plane no push passes.
        let answer = waiting.place.push(Http::Two, &waiting.body).await;
        assert!(answer.rule.is_some() || answer.status == 503, "{answer:?}");
        waiting.assert_nothing_moved();
        waiting.release();
        rig.gateway.serve();
        waiting.again().await;
    }
}

#[tokio::test]
async fn a_push_goes_by_the_rules_in_force_at_its_end() {
    let rig = Rig::start();
    let mut waiting = Waiting::begin(&rig, "policy").await;
    let text = policy(&HOSTS) + "policy: {protected_branches: [main, 'sandbox/*']}\n";
    let beside = rig.gateway.policy_file().with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, rig.gateway.policy_file()).unwrap();
    let place = &waiting.place;
    let body = place.body(&[(ZERO, &waiting.new, Y)], &[&place.seed]);
    rig.upstream.set_api(&format!("{}/refs/{Y}", place.repo), Some(Api::Status(500)));
    eventually_async("the new rules are in force", Duration::from_secs(5), async || {
        let answer = place.push(Http::Two, &body).await;
        if answer.rule.as_deref() == Some("push.protected") { Ok(()) } else { Err(answer) }
    })
    .await;
    waiting.assert_nothing_moved();
    waiting.release();
    waiting.upload.end().await.unwrap();
    let answer = waiting.upload.hear().await.unwrap();
    assert_eq!(answer.rule.as_deref(), Some("push.protected"), "{answer:?}");
    waiting.assert_nothing_moved();
    assert_eq!(waiting.place.at(Y), None);
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
    // One container pushes hundreds of times.
    let builder = Gateway::before(&upstream).settings("github_calls_per_hour: 100000\n");
    let gateway = builder.env("SALLYPORT_FILTERS", filters.directory()).build();
    gateway.up();
    let rig = Rig { upstream, gateway };
    let place = Place::new(&rig, "exchanged");
    let (work, seed) = (&place.work, &place.seed);
    let (tip, aside) = (work.commit(&[seed], "tip"), work.commit(&[seed], "aside"));
    work.deliver(&tip, X);
    let body = place.body(&[(&tip, &aside, X)], &[seed]);
    let in_force = || rig.gateway.envoy_stat("extension_config_discovery.http_filter.push.config_reload");
    let (mut exchanges, mut pushes, mut went_on) = (0, 0, 0);
    // Five exchanges, and more where Envoy compiled for longer than a push waits for GitHub.
    for number in 0..15 {
        if number >= 5 && went_on > 0 {
            break;
        }
        exchanges += 1;
        // The push's question to GitHub is later than this.
        let begun = Instant::now();
        let waiting = Waiting::begin(&rig, &format!("exchanged-{number}")).await;
        let reloads = in_force();
        filters.exchange(number);
        // During the whole exchange, and a little beyond it.
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
            // Envoy compiles the new code while the pushes and other tests use the processors.
            assert!(begun.elapsed() < SOON * 6, "Envoy runs the new code");
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
        let answer = waiting.upload.hear().await.unwrap();
        if begun.elapsed() < SOON {
            assert_done("a push from before", &answer, X);
            assert_eq!(waiting.place.at(X).as_ref(), Some(&waiting.new));
            went_on += 1;
        } else {
            // A push waits for GitHub no longer than that, and other tests may slow Envoy's compiler down.
            assert!(answer.rule.is_none() || answer.rule.as_deref() == Some("push.unconfirmed"), "{answer:?}");
        }
    }
    println!("{pushes} refused pushes over {exchanges} exchanges, {went_on} of which a push survived");
    assert!(went_on > 0, "no exchange was soon enough");
    assert_eq!(place.at(X), Some(tip));
    assert!(place.arrived().iter().all(|push| push.body_bytes + TRAILER <= body.len() as u64), "{:?}", place.arrived());
}
