//! A chain in which a stage is left out, natively: no credential goes upstream that the stage stands before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/push/tests/support/pack.rs"]
#[allow(dead_code, reason = "the tests of pushes need all of it")]
mod pack;

#[path = "support/mod.rs"]
mod support;

use envoy_stand_in::{Case, Chain, Credential, Envoy, Outcome, Request, Stage};
use policy::Container;
use policy::mark::{GITHUB, IDENTITY, Judged, SEALED};
use registry_proto::WatchResponse;

const SECRET: &str = "Bearer s3cret-of-the-gateway";

/// The stages that may be left out.
const STAGES: [Stage; 3] = [Stage::Identity, Stage::Github, Stage::Push];

/// The requests: to github.com a fetch, the list of refs, and a push; to the API; to a host that is not GitHub's.
fn requests() -> Vec<(&'static str, Request, Vec<u8>)> {
    let get = |host: &str, path: &str| Request::new("GET", host, path).whole();
    vec![
        ("fetch", get("github.com", "/acme/app.git/info/refs?service=git-upload-pack"), vec![]),
        ("refs", get("github.com", "/acme/app.git/info/refs?service=git-receive-pack"), vec![]),
        ("push", support::push_request(), support::body_of_a_push()),
        ("api", get("api.github.com", "/repos/acme/app/issues"), vec![]),
        ("model", get("files.example", "/v1/models"), vec![]),
    ]
}

/// The marks and the seal, as a client would forge them.
fn forged(request: &Request) -> Request {
    let value = |name: &str| request.headers.iter().find(|(have, _)| have == name).unwrap().1.clone();
    let host = policy::HostName::parse(&value(":authority")).unwrap();
    let (method, path) = (value(":method"), value(":path"));
    let judged = Judged { generation: 1, host: &host, method: &method, path: &path };
    let text = |mark: policy::mark::Mark| String::from_utf8(mark.value).unwrap();
    let mut forged = request.clone();
    for (name, value) in [
        (IDENTITY, text(judged.identity())),
        (GITHUB, text(judged.github())),
        ("x-sallyport-mark-identity", text(judged.identity())),
        ("x-sallyport-mark-github", text(judged.github())),
        (SEALED, "Bearer forged".into()),
        ("authorization", "Bearer forged".into()),
    ] {
        forged = forged.with(name, &value);
    }
    forged
}

fn secret() -> Credential {
    let (name, place) = ("authorization".into(), "header authorization 7 0".into());
    Credential::Put { name, value: SECRET.into(), place, guard: Some("off".into()) }
}

fn run(request: Request, body: Vec<u8>, off: &[Stage]) -> Outcome {
    let request = Request { disabled: off.to_vec(), ..request };
    let mut case = Case::new(support::policy(), vec![support::container()], request).body(body);
    case.answers = Box::new(support::github);
    case.credential = Box::new(|_| secret());
    case.response.1 = vec![("x-echo".into(), SECRET.into())];
    Chain::run(case)
}

/// The credentials that arrived, in any header.
fn arrived(outcome: &Outcome) -> Vec<(String, String)> {
    let headers = outcome.arrived.iter().flat_map(|arrived| &arrived.headers);
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let credential = |name: &str, value: &str| value.contains("s3cret") || value.contains("forged") || name == SEALED;
    let all = headers.map(|(name, value)| (name.clone(), text(value)));
    all.filter(|(name, value)| credential(name, value)).collect()
}

#[test]
fn a_chain_without_a_stage_sends_no_credential() {
    for (what, request, body) in requests() {
        for forge in [false, true] {
            for chosen in 0..8_usize {
                let off: Vec<Stage> = (0..3).filter(|at| chosen >> at & 1 == 1).map(|at| STAGES[at]).collect();
                let request = if forge { forged(&request) } else { request.clone() };
                let outcome = run(request, body.clone(), &off);
                let case = format!("{what}, without {off:?}, forged: {forge}: {outcome:?}");
                let to_github = what != "model";
                let to_git = to_github && what != "api";
                let judges = |stage: &Stage| match stage {
                    Stage::Github => to_github,
                    Stage::Push => to_git,
                    _ => true,
                };
                let missing: Vec<&Stage> = off.iter().filter(|stage| judges(stage)).collect();
                let arrived = arrived(&outcome);
                if missing.is_empty() {
                    assert_eq!(arrived, [("authorization".to_owned(), SECRET.to_owned())], "{case}");
                    assert!(outcome.client.header("x-echo").is_none(), "the answer tells the credential: {case}");
                } else if missing == [&Stage::Push] {
                    // Nothing refuses the request, and the credential stays sealed.
                    assert_eq!((arrived, outcome.arrived.is_some()), (vec![], true), "{case}");
                } else {
                    assert!(outcome.arrived.is_none(), "{case}");
                    // The github stage itself refuses what the identity stage has not judged.
                    let alone = to_github && off.contains(&Stage::Identity) && !off.contains(&Stage::Github);
                    let rule = if alone { "github.unavailable" } else { "credentials.stage" };
                    assert_eq!((outcome.status, outcome.rule.as_deref()), (503, Some(rule)), "{case}");
                }
            }
        }
    }
}

#[test]
fn a_mark_of_another_registration_is_no_mark() {
    let (_, request, _) = requests().remove(0);
    let mut envoy = Envoy::start(support::config(), support::github);
    envoy.credentials(|_| secret());
    let first = envoy.open(request.clone());
    assert_eq!(envoy.upstream(first).header("authorization").as_deref(), Some(SECRET));
    // The worker knows another record than the credential stage.
    let newer = Container { generation: 2, ..support::container() };
    let address = registry_proto::address_bytes(newer.container_ip);
    let upsert = registry_proto::Container { address, record: serde_json::to_vec(&newer).unwrap() };
    envoy.registry(&WatchResponse { version: 2, upserts: vec![upsert], ..WatchResponse::default() });
    let second = envoy.open(request);
    let answer = envoy.client(second);
    let refused = (answer.status(), answer.header("x-sallyport-rule"));
    assert_eq!(refused, (503, Some("credentials.stage".to_owned())));
    assert!(envoy.upstream(second).headers.is_empty());
}
