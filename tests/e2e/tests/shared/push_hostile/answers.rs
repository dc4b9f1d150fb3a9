//! GitHub's responses about refs and comparisons: missing, late or wrong. The trailer of a push waits for them.

use super::{BOTH, COULD_PASS, PATIENCE, Place, SOON, TRAILER, Waiting, X, Y, assert_done, assert_reported, rig, two};
use serde_json::json;
use std::time::{Duration, Instant};
use test_support::client::tls;
use test_support::process::{Signal, stopped};
use test_support::push::{CONTENT_TYPE, ZERO};
use test_support::raw::h2;
use test_support::upstream::pranks::Api;
use test_support::{Http, Rig, eventually, eventually_async, holds_async};
use tokio::sync::Notify;
use tokio::time::timeout;

#[tokio::test]
async fn where_a_ref_is_is_not_the_client_s_to_say() {
    let place = Place::new(rig(), "lies");
    let (work, seed) = (&place.work, &place.seed);
    let tip = work.commit(&[seed], "tip");
    let next = work.commit(&[&tip], "next");
    let aside = work.commit(&[seed], "aside");
    for (name, to) in [(X, &tip), (Y, &tip)] {
        work.deliver(to, name);
    }
    let stale = [
        // An ancestor from which the new commit descends, but not the ref's current value.
        ("an ancestor", place.body(&[(seed, &aside, X)], &[seed])),
        ("an ancestor, all in the pack", place.body(&[(seed, &aside, X)], &[])),
        ("what the pack itself brings", place.body(&[(&aside, &work.commit(&[&aside], "on"), X)], &[seed])),
        ("zero for what exists", place.body(&[(ZERO, &aside, X)], &[seed])),
        ("zero, and a fast-forward", place.body(&[(ZERO, &next, X)], &[&tip])),
        ("of what does not exist", place.body(&[(&tip, &next, "refs/heads/sandbox/none")], &[&tip])),
        ("one of two", place.body(&[(&tip, &next, Y), (seed, &aside, X)], &[&tip])),
    ];
    for http in BOTH {
        for (what, body) in &stale {
            let answer = place.push(http, body).await;
            assert_reported(&format!("{http:?} {what}"), &answer, "push.stale");
        }
        // The claimed old value is right, so this is a rewind. It is refused before its history is known.
        let answer = place.push(http, &place.body(&[(&tip, &aside, X)], &[seed])).await;
        assert_reported("a rewind", &answer, "push.force");
        let answer = place.push(http, &place.body(&[(&tip, seed, X)], &[seed])).await;
        assert_reported("to where it was", &answer, "push.force");
    }
    assert_eq!((place.at(X), place.at(Y)), (Some(tip.clone()), Some(tip.clone())));
    assert_eq!(place.at("refs/heads/sandbox/none"), None);
    // The innocent ref of the two has its own reason.
    let answer = place.push(Http::Two, &stale[6].1).await;
    assert!(answer.body.contains(&format!("ng {Y} not pushed, because {X} was refused")), "{answer:?}");
    assert_done("the truth", &place.push(Http::Two, &place.body(&[(&tip, &next, X)], &[&tip])).await, X);
    assert_eq!(place.at(X), Some(next));
}

#[tokio::test]
async fn a_comparison_is_asked_for_once_where_the_pack_does_not_say_it_and_never_where_it_does() {
    let place = Place::new(rig(), "compared");
    let (work, seed) = (&place.work, &place.seed);
    let between = work.commit(&[seed], "between");
    let [first, second] = ["1", "2"].map(|text| work.commit(&[&between], text));
    let aside = work.commit(&[seed], "aside");
    work.deliver(&between, "refs/heads/other");
    work.deliver(&aside, "refs/heads/sandbox/aside");
    for name in [X, Y] {
        work.deliver(seed, name);
    }
    // The pack has none of the commits between the two.
    assert_done("open", &place.push(Http::Two, &place.body(&[(seed, &first, X)], &[&between])).await, X);
    assert_eq!(place.compared(), 1);
    assert_done("the same", &place.push(Http::One, &place.body(&[(seed, &second, Y)], &[&between])).await, Y);
    assert_eq!(place.compared(), 1, "the comparison is cached");
    let third = work.commit(&[&second], "3");
    assert_done("a child", &place.push(Http::Two, &place.body(&[(&second, &third, Y)], &[&second])).await, Y);
    // The pack has all commits, those that GitHub has already included.
    let fourth = work.commit(&[&third], "4");
    assert_done("whole", &place.push(Http::Two, &place.body(&[(&third, &fourth, Y)], &[])).await, Y);
    assert_eq!(place.compared(), 1, "the pack proves the descent");
    // A negative result is not cached: each push is compared and refused.
    for asked in 2..4 {
        let body = place.body(&[(&aside, &first, "refs/heads/sandbox/aside")], &[&between]);
        assert_reported("diverged", &place.push(Http::Two, &body).await, "push.force");
        assert_eq!(place.compared(), asked);
    }
    // Back to the old value, with an empty pack as git sends it.
    assert_reported("back", &place.push(Http::Two, &place.body(&[(&fourth, seed, Y)], &[seed])).await, "push.force");
    assert_eq!(place.compared(), 4);
    // An unknown commit is no ancestor: 404.
    let unknown = work.commit(&[seed], "unknown");
    let child = work.commit(&[&unknown], "child");
    let body = place.body(&[(&fourth, &child, Y)], &[&unknown]);
    assert_reported("an unknown commit", &place.push(Http::Two, &body).await, "push.force");
    assert_eq!((place.at(X), place.at(Y)), (Some(first), Some(fourth)));
    assert_eq!(place.at("refs/heads/sandbox/aside"), Some(aside));
}

#[tokio::test]
async fn the_worst_push_costs_one_query_and_sixteen_comparisons() {
    let place = Place::new(rig(), "worst");
    let (work, seed) = (&place.work, &place.seed);
    let strangers: Vec<String> = (0..16).map(|number| work.commit(&[seed], &format!("stranger {number}"))).collect();
    let strangers: Vec<&str> = strangers.iter().map(String::as_str).collect();
    let branches: Vec<(String, String)> = (0..20)
        .map(|number| (format!("refs/heads/sandbox/r{number}"), work.commit(&strangers, &format!("merge {number}"))))
        .collect();
    let updates: Vec<_> = branches.iter().map(|(name, new)| (seed.as_str(), new.as_str(), name.as_str())).collect();
    branches.iter().for_each(|(name, _)| work.deliver(seed, name));
    let body = place.body(&updates, &strangers);
    for (pushes, http) in (1..).zip(BOTH) {
        let answer = place.push(http, &body).await;
        assert_reported("the worst", &answer, "push.limit");
        assert!(answer.body.contains("16 commits") && answer.body.contains("fewer branches"), "{answer:?}");
        assert_eq!((rig().upstream.refs_read(&place.repo), place.compared()), (pushes, 16 * pushes));
    }
    assert!(branches.iter().all(|(name, _)| place.at(name).as_ref() == Some(seed)));
}

#[tokio::test]
async fn while_github_cannot_be_asked_nothing_moves_and_the_next_try_works() {
    let rig = rig();
    let cases = [
        ("refs/", Api::Status(500), "push.unconfirmed"),
        ("refs/", Api::Status(403), "push.unconfirmed"),
        ("refs/", Api::Status(404), "push.unconfirmed"),
        ("refs/", Api::Garbage, "push.unconfirmed"),
        ("refs/", Api::Held, "push.unconfirmed"),
        ("compare/", Api::Status(500), "push.unconfirmed"),
        ("compare/", Api::Status(404), "push.force"),
        ("compare/", Api::Garbage, "push.unconfirmed"),
        ("compare/", Api::Held, "push.unconfirmed"),
    ];
    let one = async |number: usize, (below, api, rule): (&str, Api, &str)| {
        let place = Place::new(rig, &format!("unasked-{number}"));
        let (work, seed) = (&place.work, &place.seed);
        let between = work.commit(&[seed], "between");
        let new = work.commit(&[&between], "new");
        work.deliver(&between, "refs/heads/other");
        work.deliver(seed, X);
        let body = place.body(&[(seed, &new, X)], &[&between]);
        let path = format!("{}/{below}", place.repo);
        rig.upstream.set_api(&path, Some(api));
        let begun = Instant::now();
        let answer = place.push(if number.is_multiple_of(2) { Http::One } else { Http::Two }, &body).await;
        let what = format!("{below} {api:?} after {:?}", begun.elapsed());
        assert!(begun.elapsed() < PATIENCE, "{what}");
        assert_reported(&what, &answer, rule);
        if rule == "push.unconfirmed" {
            assert!(answer.body.contains("fetch, and push again"), "{what}: advice: {answer:?}");
        }
        let audit = rig
            .gateway
            .audit_line(&what, |line| line["container_ip"] == json!(place.sandbox.address) && line["method"] == "POST");
        assert_eq!((&audit["verdict"], &audit["rule"]), (&json!("deny"), &json!(rule)), "{audit}");
        let (came, length) = (place.bytes(), body.len() as u64);
        assert!(
            came + TRAILER <= length,
            "{what}: {came} of {length} bytes arrived, and the ref is at {:?}",
            place.at(X)
        );
        assert_eq!(place.at(X).as_ref(), Some(seed), "{what}");
        rig.upstream.set_api(&path, None);
        assert_done(&what, &place.push(Http::Two, &body).await, X);
        assert_eq!(place.at(X), Some(new), "{what}");
    };
    // Two of the cases last as long as the gateway's timeout.
    let (held, prompt): (Vec<_>, Vec<_>) = cases.into_iter().enumerate().partition(|(_, case)| case.1 == Api::Held);
    let held = async |at: usize| one(held[at].0, held[at].1).await;
    let prompt = async {
        for (number, case) in prompt {
            one(number, case).await;
        }
    };
    tokio::join!(held(0), held(1), prompt);
}

#[tokio::test]
async fn the_trailer_goes_on_when_the_answer_has_come_and_not_before() {
    for ended in [true, false] {
        let mut waiting = Waiting::begin(rig(), &format!("waits-{ended}")).await;
        if ended {
            waiting.upload.end().await.unwrap();
        }
        // No response comes, although it could.
        timeout(Duration::from_millis(300), waiting.upload.hear()).await.expect_err("no response yet");
        waiting.assert_nothing_moved();
        waiting.release();
        if !ended {
            waiting.upload.end().await.unwrap();
        }
        assert_done("released", &waiting.upload.hear().await.unwrap(), X);
        assert_eq!(waiting.place.at(X).as_ref(), Some(&waiting.new));
        assert_eq!(waiting.place.bytes(), waiting.body.len() as u64);
    }
}

/// A later stage may delay a request as well. When the stage continues, Envoy forwards all bytes that have arrived by
/// then.
#[tokio::test]
async fn a_push_of_megabytes_over_http_2_is_held_at_its_trailer_or_refused_with_its_reason() {
    const SIZE: u64 = 4 << 20;
    let place = Place::new(rig(), "megabytes");
    let (work, seed) = (&place.work, &place.seed);
    let new = work.commit_random(&[seed], SIZE);
    let body = place.body(&[(ZERO, &new, X)], &[seed]);
    assert!(body.len() as u64 > SIZE);
    // Its ref name is refused, so none of its bytes are forwarded.
    let wrong = place.body(&[(seed, &new, "refs/heads/main")], &[seed]);
    assert_reported("by its name", &place.push(Http::Two, &wrong).await, "push.protected");
    assert_eq!(place.bytes(), 0);

    let api = format!("{}/refs/", place.repo);
    rig().upstream.set_api(&api, Some(Api::Held));
    let all_but = body.len() as u64 - TRAILER;
    let held = async {
        // The bytes that came to the filter together with the trailer wait, too: at most Envoy's buffer.
        eventually_async("all but the end was forwarded", SOON, async || match place.bytes() {
            came if (all_but - (1 << 20)..=all_but).contains(&came) => Ok(()),
            came => Err(came),
        })
        .await;
        assert_eq!(place.at(X), None);
        rig().upstream.set_api(&api, None);
    };
    let (answer, ()) = tokio::join!(place.push(Http::Two, &body), held);
    assert_done("when it is allowed", &answer, X);
    assert_eq!(place.at(X), Some(new));

    // A push that is refused while it flows is dropped to its end, and then gets its report.
    let (before, tip) = (place.bytes(), work.commit(&[seed], "tip"));
    work.deliver(&tip, X);
    let aside = work.commit_random(&[seed], SIZE);
    let stale = place.body(&[(seed, &aside, X)], &[seed]);
    assert_reported("by its ref", &place.push(Http::Two, &stale).await, "push.stale");
    assert!(place.bytes() - before + TRAILER <= stale.len() as u64);
    assert_eq!(place.at(X), Some(tip));
}

#[tokio::test]
async fn a_push_that_ends_while_a_later_stage_waits_is_held_as_well() {
    let rig = Rig::start();
    for (number, refused) in [false, true].into_iter().enumerate() {
        let place = Place::new(&rig, &format!("credential-{number}"));
        let (work, seed) = (&place.work, &place.seed);
        let between = work.commit(&[seed], "between");
        let (new, aside) = (work.commit(&[&between], "new"), work.commit(&[seed], "aside"));
        let old = if refused { &aside } else { seed };
        work.deliver(&between, "refs/heads/other");
        work.deliver(old, X);
        // Afterwards both workers know the container.
        for _ in 0..8 {
            assert_eq!(place.push(Http::Two, b"0000").await.status, 200);
        }
        let before = place.bytes();
        let compare = format!("{}/compare/", place.repo);
        rig.upstream.set_api(&compare, Some(Api::Held));
        let body = place.body(&[(old, &new, X)], &[&between]);
        let path = place.path();
        let fields = two("POST", &path, &[("content-type", CONTENT_TYPE)]);
        let mut stream = tls(&place.sandbox, place.sandbox.address, "github.com", Http::Two).await.unwrap();
        rig.gateway.signal(Signal::STOP);
        eventually("the control plane is stopped", SOON, || stopped(rig.gateway.pid()).then_some(()));
        let pieces: [&[u8]; 3] = [&body[..100], &body[100..], b""];
        let read = Notify::new();
        let asked = h2::ask_in_pieces_with(&mut stream, &fields, &pieces, async |piece| {
            if piece + 1 == pieces.len() {
                read.notify_one();
            }
        });
        let released = async {
            timeout(SOON, read.notified()).await.expect("the gateway reads all of the push");
            rig.gateway.signal(Signal::CONT);
            eventually_async("the comparison is requested", SOON, async || match place.compared() {
                0 => Err(()),
                _ => Ok(()),
            })
            .await;
            let kept_back = || place.bytes() - before + TRAILER <= body.len() as u64;
            holds_async("the trailer waits for the comparison", COULD_PASS, kept_back).await;
            let (came, at) = (place.bytes() - before, place.at(X));
            rig.upstream.set_api(&compare, None);
            (came, at)
        };
        let (answer, (came, at)) = tokio::join!(asked, released);
        assert!(
            came + TRAILER <= body.len() as u64,
            "{came} of {} bytes arrived, and the ref is at {at:?}",
            body.len()
        );
        assert_eq!(at.as_ref(), Some(old));
        let answer = answer.unwrap().answer();
        match refused {
            true => assert_reported("diverged", &answer, "push.force"),
            false => assert_done("ahead", &answer, X),
        }
        assert_eq!(place.at(X).as_ref(), Some(if refused { old } else { &new }));
    }
}
