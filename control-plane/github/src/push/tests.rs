//! Tests of the service, with a stand-in for GitHub.

use super::super::testing::Rig;
use super::*;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::net::IpAddr;
use tonic::Code;

const ADDRESS: [u8; 4] = [10, 0, 0, 1];

fn record(repos: Value) -> Container {
    serde_json::from_value(json!({
        "container_ip": "10.0.0.1", "container_id": "a", "repos": repos, "expires_at": "2100-01-01T00:00:00Z",
    }))
    .unwrap()
}

async fn service(rig: &Rig) -> Push {
    rig.registry.put(record(json!([{"name": "Acme/App", "id": 7}, "acme/new"]))).await.unwrap();
    Push { registry: Arc::clone(&rig.registry), client: Arc::clone(&rig.client), descents: Mutex::default() }
}

fn object(byte: u8) -> Vec<u8> {
    vec![byte; 20]
}

fn sha(byte: u8) -> String {
    format!("{byte:02x}").repeat(20)
}

fn wanted(refs: &[(&str, Vec<u8>)]) -> Vec<Ref> {
    refs.iter().map(|(name, object)| Ref { name: (*name).to_owned(), object: object.clone() }).collect()
}

async fn read(push: &Push, repo: &str, refs: Vec<Ref>) -> Result<Vec<Ref>, Code> {
    let request = ReadRefsRequest { address: ADDRESS.to_vec(), repo: repo.to_owned(), refs };
    let answer = Service::read_refs(push, Request::new(request)).await;
    answer.map(|answer| answer.into_inner().others).map_err(|status| status.code())
}

async fn descends(push: &Push, repo: &str, descents: &[(u8, &[u8])]) -> Result<Vec<bool>, Code> {
    let descents = descents
        .iter()
        .map(|(ancestor, commits)| Descent {
            ancestor: object(*ancestor),
            commits: commits.iter().map(|commit| object(*commit)).collect(),
        })
        .collect();
    let request = DescendsRequest { address: ADDRESS.to_vec(), repo: repo.to_owned(), descents };
    let answer = Service::descends(push, Request::new(request)).await;
    answer.map(|answer| answer.into_inner().descends).map_err(|status| status.code())
}

/// The answer to a query for refs that each point to their own object: `refs/heads/at-5` to 05…, and `refs/tags/`
/// likewise. No other ref exists.
fn refs(line: &str, body: &str) -> (u16, String) {
    assert_eq!(line, "POST /graphql");
    let body: Value = serde_json::from_str(body).unwrap();
    let variables = &body["variables"];
    let repo = ["owner", "name"].map(|part| variables[part].as_str().unwrap()).join("/");
    assert!(["Acme/App", "acme/new"].contains(&repo.as_str()), "{repo}");
    let mut shown = json!({"nameWithOwner": repo});
    for at in 0.. {
        let Some(name) = variables[format!("r{at}")].as_str() else { break };
        shown[format!("r{at}")] = match name.split_once("/at-") {
            Some((kind, number)) => {
                let oid = sha(number.trim_start_matches('+').parse().unwrap());
                json!({"prefix": format!("{kind}/"), "name": format!("at-{number}"), "target": {"oid": oid}})
            }
            None => Value::Null,
        };
    }
    (200, json!({"data": {"repository": shown}}).to_string())
}

#[tokio::test]
async fn refs_that_are_elsewhere_are_named_with_where_they_are() {
    let rig = Rig::start(refs).await;
    let push = service(&rig).await;
    for right in [
        &[("refs/heads/at-5", object(5)), ("refs/tags/at-6", object(6)), ("refs/heads/none", vec![])][..],
        &[("refs/heads/at-+7", object(7))],
    ] {
        assert_eq!(read(&push, "acme/APP", wanted(right)).await, Ok(vec![]), "{right:?}");
    }
    let wrong = [("refs/heads/at-5", object(4)), ("refs/tags/at-6", vec![]), ("refs/heads/none", object(1))];
    let are = [("refs/heads/at-5", object(5)), ("refs/tags/at-6", object(6)), ("refs/heads/none", vec![])];
    let mixed = [&wrong[..], &[("refs/heads/at-9", object(9))]].concat();
    assert_eq!(read(&push, "acme/app", wanted(&mixed)).await, Ok(wanted(&are)));
    read(&push, "acme/app", wanted(&wrong)).await.unwrap();
    let asked = rig.asked.lock().unwrap().clone();
    assert_eq!(asked, ["POST /graphql"; 4], "one query for all refs, each time anew");
}

#[tokio::test]
async fn a_ref_is_absent_only_where_its_repository_is_visible() {
    let absent = || wanted(&[("refs/heads/none", vec![]), ("refs/heads/neither", vec![])]);
    let errors = json!([{"type": "NOT_FOUND", "path": ["repository"], "message": "Could not resolve"}]);
    let visible = |name: &str| json!({"nameWithOwner": name, "r0": null, "r1": null});
    for name in ["Acme/App", "acme/new"] {
        let hidden = [
            json!({"data": {"repository": null}, "errors": errors}),
            json!({"data": {"repository": null}}),
            json!({"data": null}),
            json!({}),
            // A ref with an error is null as well.
            json!({"data": {"repository": visible(name)}, "errors": errors}),
            json!({"data": {"repository": visible("acme/renamed")}}),
            json!({"data": {"repository": {"nameWithOwner": name, "r0": null}}}),
            json!({"data": {"repository": {"r0": null, "r1": null}}}),
        ];
        for answer in hidden {
            let told = answer.to_string();
            let rig = Rig::start(move |_, _| (200, answer.to_string())).await;
            let push = service(&rig).await;
            assert_eq!(read(&push, name, absent()).await, Err(Code::Unavailable), "{told}");
        }
        let shown = json!({"data": {"repository": visible(&name.to_lowercase())}}).to_string();
        let rig = Rig::start(move |_, _| (200, shown.clone())).await;
        let push = service(&rig).await;
        assert_eq!(read(&push, name, absent()).await, Ok(vec![]));
        // An empty repository looks the same.
        let there = wanted(&[("refs/heads/none", object(1)), ("refs/heads/neither", vec![])]);
        assert_eq!(read(&push, name, there).await, Ok(wanted(&[("refs/heads/none", vec![])])));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_say_where_a_ref_is_fails_the_call() {
    let at = |name: &str, oid: &str| {
        let (prefix, name) = name.split_at(name.rfind('/').unwrap() + 1);
        let found = json!({"prefix": prefix, "name": name, "target": {"oid": oid}});
        json!({"data": {"repository": {"nameWithOwner": "Acme/App", "r0": found}}})
    };
    let good = at("refs/heads/x", &sha(1));
    let without = |part: &str| {
        let mut odd = good.clone();
        odd["data"]["repository"]["r0"].as_object_mut().unwrap().remove(part);
        odd
    };
    let mut dangling = good.clone();
    dangling["data"]["repository"]["r0"]["target"] = Value::Null;
    for (status, body) in [
        (500, good.to_string()),
        (403, good.to_string()),
        (404, good.to_string()),
        (301, good.to_string()),
        (200, "{}".into()),
        (200, "not JSON".into()),
        (200, json!([good]).to_string()),
        (200, dangling.to_string()),
        (200, without("name").to_string()),
        (200, without("prefix").to_string()),
        (200, without("target").to_string()),
        // GitHub falls back to other refs with a name that ends the same.
        (200, at("refs/heads/refs/heads/x", &sha(1)).to_string()),
        (200, at("refs/tags/x", &sha(1)).to_string()),
        (200, at("refs/heads/X", &sha(1)).to_string()),
        (200, at("refs/heads/x-and-more", &sha(1)).to_string()),
        (200, at("refs/heads/x", "").to_string()),
        (200, at("refs/heads/x", &sha(1)[1..]).to_string()),
        (200, at("refs/heads/x", &(sha(1) + "0")).to_string()),
        (200, at("refs/heads/x", &sha(0xab).to_uppercase()).to_string()),
    ] {
        let told = body.clone();
        let rig = Rig::start(move |_, _| (status, body.clone())).await;
        let push = service(&rig).await;
        for object in [vec![], object(1), object(0xab)] {
            let refs = wanted(&[("refs/heads/x", object)]);
            assert_eq!(read(&push, "acme/app", refs).await, Err(Code::Unavailable), "{status} {told}");
        }
    }
    let rig = Rig::start(move |_, _| (200, good.to_string())).await;
    let push = service(&rig).await;
    assert_eq!(read(&push, "acme/app", wanted(&[("refs/heads/x", object(1))])).await, Ok(vec![]));
}

#[tokio::test]
async fn a_request_has_no_more_refs_than_a_push_and_they_are_branches_and_tags() {
    let rig = Rig::start(refs).await;
    let push = service(&rig).await;
    let many = |count: usize| -> Vec<Ref> {
        (0..count).map(|number| Ref { name: format!("refs/heads/{number}"), object: vec![] }).collect()
    };
    assert_eq!(read(&push, "acme/app", many(MAX_REFS)).await, Ok(vec![]));
    let asked = rig.asked.lock().unwrap().len();
    for bad in [
        many(0),
        many(MAX_REFS + 1),
        wanted(&[("refs/heads/x", vec![]), ("refs/heads/x", object(1))]),
        wanted(&[("refs/heads/x", vec![1; 19])]),
        wanted(&[("refs/heads/x", vec![1; 21])]),
        wanted(&[("refs/pull/1/head", vec![])]),
        wanted(&[("heads/x", vec![])]),
        wanted(&[("refs/heads/", vec![])]),
        wanted(&[("refs/heads/a b", vec![])]),
        wanted(&[("refs/heads/../../..", vec![])]),
    ] {
        assert_eq!(read(&push, "acme/app", bad.clone()).await, Err(Code::InvalidArgument), "{bad:?}");
    }
    assert_eq!(rig.asked.lock().unwrap().len(), asked);
}

#[tokio::test]
async fn nothing_is_asked_for_another_repository_or_for_nobody() {
    let rig = Rig::start(refs).await;
    let push = service(&rig).await;
    let one = || wanted(&[("refs/heads/at-5", object(5))]);
    let both = async |repo: &str| {
        let (read, descends) = (read(&push, repo, one()).await, descends(&push, repo, &[(1, &[1])]).await);
        (read.unwrap_err(), descends.unwrap_err())
    };
    let refused = (Code::PermissionDenied, Code::PermissionDenied);
    assert_eq!(both("acme/other").await, refused);
    for odd in ["acme", "acme/app/x", "acme/app.git", "", "acme/.."] {
        assert_eq!(both(odd).await, (Code::InvalidArgument, Code::InvalidArgument), "{odd}");
    }
    let odd = ReadRefsRequest { address: vec![1], repo: "acme/app".into(), refs: one() };
    let odd = Service::read_refs(&push, Request::new(odd)).await.unwrap_err();
    assert_eq!(odd.code(), Code::InvalidArgument);
    let good = record(json!([{"name": "acme/app", "id": 7}]));
    for bad in [
        Container { blocked: Some("x".into()), ..good.clone() },
        Container { expires_at: "2020-01-01T00:00:00Z".parse().unwrap(), ..good },
    ] {
        rig.registry.put(bad).await.unwrap();
        assert_eq!(both("acme/app").await, refused);
    }
    rig.registry.remove(IpAddr::from(ADDRESS)).await.unwrap();
    assert_eq!(both("acme/app").await, refused);
    assert!(rig.asked.lock().unwrap().is_empty());
}

fn comparison(status: &str, base: u8) -> String {
    json!({"status": status, "merge_base_commit": {"sha": sha(base)}}).to_string()
}

fn line(ancestor: u8, commit: u8) -> String {
    format!("GET /repos/Acme/App/compare/{}...{}?per_page=1&page=2", sha(ancestor), sha(commit))
}

/// 2 and 3 descend from 1, and 9 gives an error. No other commit descends from another.
fn comparisons(asked: &str, _: &str) -> (u16, String) {
    let (_, rest) = asked.split_once("/compare/").unwrap();
    let byte = |at: usize| u8::from_str_radix(&rest[at..at + 2], 16).unwrap();
    match (byte(0), byte(43)) {
        (1, 2 | 3) => (200, comparison("ahead", 1)),
        (_, 9) => (500, "{}".into()),
        (_, 0x40) => (404, "{}".into()),
        _ => (200, comparison("diverged", 0)),
    }
}

#[tokio::test]
async fn one_commit_that_descends_is_enough_and_the_rest_is_not_asked_for() {
    let rig = Rig::start(comparisons).await;
    let push = service(&rig).await;
    assert_eq!(descends(&push, "acme/app", &[(5, &[6, 5])]).await, Ok(vec![true]));
    assert!(rig.asked.lock().unwrap().is_empty(), "a commit is its own");
    let answers = descends(&push, "acme/app", &[(1, &[6, 2, 9]), (4, &[6, 0x40]), (1, &[3])]).await;
    assert_eq!(answers, Ok(vec![true, false, true]));
    assert_eq!(rig.asked(&line(1, 9)), 0);
    assert_eq!(descends(&push, "acme/app", &[(1, &[3]), (1, &[9])]).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn a_yes_is_remembered_and_a_no_is_not() {
    let rig = Rig::start(comparisons).await;
    let push = service(&rig).await;
    for repo in ["acme/app", "ACME/APP", "Acme/App"] {
        assert_eq!(descends(&push, repo, &[(1, &[2])]).await, Ok(vec![true]));
        assert_eq!(descends(&push, repo, &[(1, &[5, 2])]).await, Ok(vec![true]));
        assert_eq!(descends(&push, repo, &[(2, &[1])]).await, Ok(vec![false]), "not the other way round");
    }
    assert_eq!((rig.asked(&line(1, 2)), rig.asked(&line(1, 5)), rig.asked(&line(2, 1))), (1, 0, 3));
    assert_eq!(descends(&push, "acme/new", &[(1, &[2])]).await, Ok(vec![true]));
    assert_eq!(rig.asked.lock().unwrap().last().unwrap().replace("acme/new", "Acme/App"), line(1, 2));
}

#[tokio::test]
async fn a_record_that_is_replaced_during_the_call_gets_no_facts() {
    let registry = Arc::<std::sync::OnceLock<Arc<Registry>>>::default();
    let shared = Arc::clone(&registry);
    let rig = Rig::start(move |line, body| {
        let registry = Arc::clone(shared.get().unwrap());
        // This runtime's one thread is in this callback.
        let replaced = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(registry.put(record(json!(["acme/new"])))).unwrap();
        });
        replaced.join().unwrap();
        if line.starts_with("POST") { refs(line, body) } else { comparisons(line, body) }
    })
    .await;
    registry.set(Arc::clone(&rig.registry)).unwrap();
    let push = service(&rig).await;
    let claims = || wanted(&[("refs/heads/at-5", object(5))]);
    assert_eq!(read(&push, "acme/app", claims()).await, Err(Code::Unavailable));
    assert_eq!(read(&push, "acme/app", claims()).await, Err(Code::PermissionDenied), "the next time");
    let push = service(&rig).await;
    assert_eq!(descends(&push, "acme/app", &[(1, &[2])]).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn a_comparison_is_understood_or_fails_the_call() {
    let yes = Ok(vec![true]);
    let no = Ok(vec![false]);
    let not_now = Err(Code::Unavailable);
    for (status, body, answer) in [
        (200, comparison("ahead", 1), &yes),
        (200, comparison("identical", 1), &yes),
        (200, comparison("ahead", 7), &no),
        (200, comparison("identical", 7), &no),
        (200, comparison("behind", 1), &no),
        (200, comparison("diverged", 1), &no),
        (404, "{}".into(), &no),
        (200, comparison("AHEAD", 1), &not_now),
        (200, comparison("new", 1), &not_now),
        (200, json!({"status": "ahead"}).to_string(), &not_now),
        (200, "{}".into(), &not_now),
        (200, "not JSON".into(), &not_now),
        (301, comparison("ahead", 1), &not_now),
        (403, "{}".into(), &not_now),
        (422, "{}".into(), &not_now),
        (500, comparison("ahead", 1), &not_now),
    ] {
        let told = format!("{status} {body}");
        let rig = Rig::start(move |_, _| (status, body.clone())).await;
        let push = service(&rig).await;
        assert_eq!(&descends(&push, "acme/app", &[(1, &[2])]).await, answer, "{told}");
    }
}

#[tokio::test]
async fn a_request_has_no_more_descents_and_commits_than_are_asked_for() {
    let rig = Rig::start(comparisons).await;
    let push = service(&rig).await;
    let most = vec![(5, &[6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5][..]); MAX_REFS];
    assert_eq!(most.first().map(|(_, commits)| commits.len()), Some(MAX_BOUNDARY));
    assert_eq!(descends(&push, "acme/app", &most).await, Ok(vec![true; MAX_REFS]));
    let invalid = Err(Code::InvalidArgument);
    assert_eq!(descends(&push, "acme/app", &[]).await, invalid);
    assert_eq!(descends(&push, "acme/app", &[&most[..], &[(1, &[1])]].concat()).await, invalid);
    assert_eq!(descends(&push, "acme/app", &[(1, &[1]), (1, &[])]).await, invalid);
    assert_eq!(descends(&push, "acme/app", &[(1, &[1; MAX_BOUNDARY + 1])]).await, invalid);
    for length in [0, 19, 21] {
        for (ancestor, commit) in [(length, 20), (20, length)] {
            let descents = vec![Descent { ancestor: vec![1; ancestor], commits: vec![vec![1; commit]] }];
            let request = DescendsRequest { address: ADDRESS.to_vec(), repo: "acme/app".into(), descents };
            let status = Service::descends(&push, Request::new(request)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
    }
}

/// A push that asks about `refs` refs with `commits` commits each, of which the comparison says no. Returns the response,
/// and the number of comparisons.
async fn denied(refs: u8, commits: usize) -> (DescendsResponse, usize) {
    let rig = Rig::start(|_, _| (404, "{}".into())).await;
    let push = service(&rig).await;
    let descents = (0..refs).map(|number| Descent {
        ancestor: object(number),
        commits: (0..commits).map(|commit| [0x80 | number, commit as u8].repeat(10)).collect(),
    });
    let request = DescendsRequest { address: ADDRESS.to_vec(), repo: "acme/app".into(), descents: descents.collect() };
    let response = Service::descends(&push, Request::new(request)).await.unwrap().into_inner();
    let compared = rig.asked.lock().unwrap().iter().filter(|line| line.contains("/compare/")).count();
    (response, compared)
}

#[tokio::test]
async fn a_push_has_sixteen_comparisons_that_say_no_over_all_its_refs() {
    let no = |refs: usize| DescendsResponse { descends: vec![false; refs], ..Default::default() };
    let exhausted = DescendsResponse { exhausted: true, ..Default::default() };
    assert_eq!(denied(1, MAX_NO).await, (no(1), MAX_NO));
    assert_eq!(denied(2, MAX_NO / 2).await, (no(2), MAX_NO));
    assert_eq!(denied(16, 1).await, (no(16), MAX_NO));
    for (refs, commits) in [(17, 1), (2, MAX_NO), (20, MAX_BOUNDARY)] {
        assert_eq!(denied(refs, commits).await, (exhausted.clone(), MAX_NO), "{refs} refs");
    }
}

#[tokio::test]
async fn comparisons_that_say_yes_cost_no_doubt() {
    let rig = Rig::start(|line, _| {
        let (_, rest) = line.split_once("/compare/").unwrap();
        (200, comparison("ahead", u8::from_str_radix(&rest[..2], 16).unwrap()))
    })
    .await;
    let push = service(&rig).await;
    let many: Vec<(u8, &[u8])> = (0..20).map(|number| (number, &[0x80, 0x81][..])).collect();
    assert_eq!(descends(&push, "acme/app", &many).await, Ok(vec![true; 20]));
    assert_eq!(rig.asked.lock().unwrap().len(), 20);
}

#[tokio::test]
async fn a_container_without_calls_left_is_told_so_and_when_to_try_again() {
    let rig = Rig::start(|line, body| match line {
        "POST /graphql" => refs(line, body),
        _ => (404, "{}".into()),
    })
    .await;
    let push = service(&rig).await;
    let reset = Timestamp::now().as_second() + 1_000;
    let set = |resource: &str| {
        let values = ["5000".to_owned(), "0".to_owned(), reset.to_string(), resource.to_owned()];
        *rig.headers.lock().unwrap() = base::quota::HEADERS.into_iter().zip(values).collect();
    };
    let asked = || ReadRefsRequest {
        address: ADDRESS.to_vec(),
        repo: "acme/app".into(),
        refs: wanted(&[("refs/heads/at-5", object(5))]),
    };
    let descents = || DescendsRequest {
        address: ADDRESS.to_vec(),
        repo: "acme/app".into(),
        descents: vec![Descent { ancestor: object(1), commits: vec![object(2)] }],
    };
    set("graphql");
    let first = Service::read_refs(&push, Request::new(asked())).await.unwrap().into_inner();
    assert_eq!(first, ReadRefsResponse::default(), "the last call is still good");
    let second = Service::read_refs(&push, Request::new(asked())).await.unwrap().into_inner();
    let limited = second.limited.unwrap();
    assert!(limited.reason.contains("0 of 5000 calls") && limited.reason.contains("(graphql)"), "{}", limited.reason);
    assert!((990..=1_000).contains(&limited.retry_after), "{}", limited.retry_after);
    assert_eq!(rig.asked("POST /graphql"), 1);
    // REST has a quota of its own.
    set("core");
    let first = Service::descends(&push, Request::new(descents())).await.unwrap().into_inner();
    assert_eq!((first.descends, first.limited), (vec![false], None));
    let second = Service::descends(&push, Request::new(descents())).await.unwrap().into_inner();
    assert!(second.limited.is_some() && second.descends.is_empty() && !second.exhausted);
}
