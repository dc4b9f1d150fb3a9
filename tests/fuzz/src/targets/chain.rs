//! One stream through all filters, natively, with its events in the fuzzer's order: parts of bodies, early responses,
//! gRPC answers, trailers, resets, a policy that narrows. No order makes a filter panic. The end of a refused push never
//! reaches the upstream, the upstream gets the bytes that were judged, the client gets no success of a push of which a
//! part is held, and every stream ends with a response or a reset.

use crate::Choices;
use crate::chain_support::{self, body_of_a_push, config, push_request, push_to};
use crate::pack;
use envoy_stand_in::{Arrived, Call, Credential, Envoy, Reply, Request, Stage, StreamId};
use model::Guard;
use policy::{BranchGlob, Egress};
use registry_proto::WatchResponse;
use registry_proto::github::{self, ConfirmResponse};
use registry_proto::push::{self as wire, DescendsResponse, ReadRefsResponse, Ref};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

/// The bytes at the end of a pack: its hash.
const TRAILER: usize = 20;
/// A push without ref updates.
const NO_UPDATES: &[u8] = b"0000";
/// The credential that the credential stage adds.
const SECRET: &str = "ghs_0123456789abcdefghijklmnopqrstuvwxyz";
/// The limit for events. After them, the target completes the stream.
const MOST_EVENTS: usize = 48;

/// A request, and the part that may arrive upstream.
struct Case {
    request: Request,
    body: Vec<u8>,
    expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The request may arrive, with an unchanged body.
    Same,
    /// The request may arrive, with a body of the same meaning.
    Json,
    /// A push that may pass.
    Push,
    /// A push whose last bytes may never arrive.
    Refused,
    /// A model request that may pass.
    Model,
    /// A model request whose end may never arrive.
    RefusedModel,
    /// A compressed model request, which may arrive as it was before.
    Inflated,
    /// No byte may arrive.
    Nothing,
}

fn api(method: &str, path: &str) -> Request {
    Request::new(method, "api.github.com", path).with("content-type", "application/json")
}

fn model() -> Request {
    Request::new("POST", chain_support::MODEL, "/v1/messages").with("content-type", "application/json")
}

fn model_body(more: &str) -> String {
    let text = "words ".repeat(40);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#)
}

/// The guard of [`chain_support::MODEL`], which permits nothing further.
fn guard() -> Option<String> {
    let guard = Guard {
        credential: "model".into(),
        also: BTreeSet::new(),
        egress: Egress::default(),
        own: Vec::new(),
        except: Vec::new(),
    };
    serde_json::to_string(&guard).ok()
}

fn case(kind: usize) -> Case {
    let text = |request: Request, text: &str, expect| Case { request, body: text.into(), expect };
    let push = |body: Vec<u8>, expect| Case { request: push_request(), body, expect };
    let issue = r#"{ "title" : "a" , "body":"two"}"#;
    let comment = r#"{"query":"mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}",
        "variables":{"i":{"subjectId":"I_kwDOAAAAB84AAAAB","body":"hello"}}}"#;
    match kind % 16 {
        0 | 1 => push(body_of_a_push(), Expect::Push),
        2 => push(push_to("refs/heads/main"), Expect::Refused),
        3 => {
            let mut body = body_of_a_push();
            let at = body.len() - TRAILER - 3;
            body[at] ^= 0x55;
            push(body, Expect::Refused)
        }
        4 => push(NO_UPDATES.to_vec(), Expect::Push),
        5 => text(api("POST", "/repos/acme/app/issues"), issue, Expect::Json),
        6 => text(api("POST", "/repos/acme/other/issues"), issue, Expect::Nothing),
        7 => text(api("POST", "/graphql"), comment, Expect::Json),
        8 => text(Request::new("PUT", "files.example", "/a"), "anything at all", Expect::Same),
        9 => text(Request::new("PUT", "elsewhere.example", "/a"), "anything at all", Expect::Nothing),
        10 => {
            let request = Request { source: "172.18.0.6:1".into(), ..Request::new("PUT", "files.example", "/a") };
            text(request, "anything at all", Expect::Nothing)
        }
        11 | 12 => text(model(), &model_body(""), Expect::Model),
        13 => text(model(), &model_body(r#","mcp_servers":[{"type":"url","url":"https://evil.test/"}]"#), Expect::RefusedModel),
        14 => {
            let body = compress_to_vec(model_body("").as_bytes(), CompressionLevel::Fastest);
            Case { request: model().with("content-encoding", "zstd"), body, expect: Expect::Inflated }
        }
        _ => {
            let request = Request::new("GET", "github.com", "/acme/app.git/info/refs?service=git-receive-pack");
            text(request.whole(), "", Expect::Same)
        }
    }
}

fn reply(call: &Call, choice: usize) -> Reply {
    match (choice % 8, call) {
        (6, _) => Reply::Status(14),
        (7, _) => Reply::Bytes(b"\xff\xff".to_vec()),
        (5, Call::Confirm(_)) => {
            let limited = Some(github::Limited { reason: "too much".into(), retry_after: 60 });
            Reply::Confirm(ConfirmResponse { limited, ..Default::default() })
        }
        (5, Call::ReadRefs(_)) => {
            let limited = Some(wire::Limited { reason: "too much".into(), retry_after: 60 });
            Reply::ReadRefs(ReadRefsResponse { limited, ..Default::default() })
        }
        (5, Call::Descends(_)) => Reply::Descends(DescendsResponse { exhausted: true, ..Default::default() }),
        (choice, Call::Confirm(_)) => {
            Reply::Confirm(ConfirmResponse { confirmed: choice < 4, reason: "not yours".into(), limited: None })
        }
        (choice, Call::ReadRefs(asked)) => {
            let other = |at: &Ref| Ref { name: at.name.clone(), object: vec![7; 20] };
            let others = if choice < 4 { vec![] } else { asked.refs.iter().map(other).collect() };
            Reply::ReadRefs(ReadRefsResponse { others, limited: None })
        }
        (choice, Call::Descends(asked)) => {
            Reply::Descends(DescendsResponse {
                descends: vec![choice < 4; asked.descents.len()],
                ..Default::default()
            })
        }
        (_, call) => chain_support::github(call),
    }
}

fn advertisement() -> Vec<u8> {
    let old = pack::hex(&[9; 20]);
    let first = format!("{old} refs/heads/main\0report-status delete-refs side-band-64k ofs-delta push-cert=x\n");
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    [line("# service=git-receive-pack\n"), "0000".into(), line(&first), "0000".into()].concat().into_bytes()
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let Case { mut request, body, expect } = case(usize::from(choices.byte()));
    let setting = usize::from(choices.byte());
    if setting & 1 != 0 {
        request.waiting.push(Stage::Credentials);
    }
    if setting & 2 != 0 {
        request.waiting.push(Stage::ForwardProxy);
    }
    if setting & 4 != 0 && !request.end {
        request = request.with("content-length", &body.len().to_string());
    }
    let (at_once, wish) = (setting & 8 != 0, setting >> 4);
    let advertises = request.end;
    let answers = move |call: &Call| if at_once { reply(call, wish) } else { Reply::Later };
    let mut envoy = Envoy::start(config(), answers);
    if setting & 0x80 != 0 {
        envoy.unreachable(["ReadRefs", "Descends", "Confirm", "Lookup"][wish % 4]);
    }
    let guarded = matches!(expect, Expect::Model | Expect::RefusedModel | Expect::Inflated);
    envoy.credentials(move |_| Credential::Put {
        name: "authorization".into(),
        value: format!("Bearer {SECRET}").into_bytes(),
        place: "header authorization 7 0".into(),
        guard: if guarded { guard() } else { Some("off".into()) },
    });
    let (ended, narrowed) = (request.end, false);
    let id = envoy.open(request);
    let mut drive = Drive { sent: 0, ended, body, advertises, narrowed, succeeded: Cell::new(false), id };
    for _ in 0..MOST_EVENTS {
        if choices.0.is_empty() || envoy.over(drive.id) {
            break;
        }
        let (event, how) = (usize::from(choices.byte()), usize::from(choices.byte()));
        drive.event(&mut envoy, event, how);
        drive.promises(&envoy, expect);
    }
    drive.finish(&mut envoy);
    drive.promises(&envoy, expect);
    let client = envoy.client(drive.id);
    assert!(envoy.over(drive.id) && (client.ended || client.reset), "it hangs: {}", drive.told(&envoy));
}

struct Drive {
    id: StreamId,
    body: Vec<u8>,
    sent: usize,
    ended: bool,
    advertises: bool,
    /// The policy protects the push's branch since before the push's end had arrived.
    narrowed: bool,
    /// The client has got a success. The server gets nothing after that.
    succeeded: Cell<bool>,
}

impl Drive {
    fn event(&mut self, envoy: &mut Envoy, event: usize, how: usize) {
        match event % 16 {
            0..=3 => self.send(envoy, how % 64, event & 0x10 != 0),
            4 => self.send(envoy, self.body.len().saturating_sub(self.sent + how % 32), event & 0x10 != 0),
            5 => self.send(envoy, 0, true),
            6 if how & 7 == 0 && !self.ended => {
                self.ended = true;
                envoy.client_trailers(self.id, vec![("x-end".into(), b"1".to_vec())]);
            }
            7 => self.response(envoy, [200, 200, 200, 404, 500][how % 5], how & 0x80 != 0),
            8 => self.respond(envoy, how, event & 0x10 != 0),
            9 => {
                let trailers = vec![("x-echo".into(), SECRET.as_bytes().to_vec())];
                envoy.upstream_trailers(self.id, trailers);
            }
            10 | 11 => {
                let calls = envoy.calls();
                if let Some((token, call)) = calls.get(how % calls.len().max(1)) {
                    envoy.answer(*token, reply(call, event >> 4));
                }
            }
            12 => envoy.goes_on(self.id, [Stage::Credentials, Stage::ForwardProxy][how % 2]),
            13 if how == 0xff => envoy.pass(Duration::from_secs(31)),
            13 => envoy.pass(Duration::from_millis(100 * u64::try_from(how % 8).unwrap_or(0))),
            14 if how & 3 == 0 => envoy.upstream_resets(self.id),
            15 if how & 7 == 0 => envoy.client_resets(self.id),
            15 if how & 7 == 2 => {
                // Rules about branches refuse no push without updates.
                self.narrowed |= !envoy.upstream(self.id).ended && self.body != NO_UPDATES;
                let mut policy = chain_support::policy();
                policy.github.branches.protected = vec![BranchGlob::parse("sandbox/*").expect("a glob")];
                envoy.put_policy(policy);
            }
            15 if how & 7 == 1 => {
                let removals = vec![vec![172, 18, 0, 5]];
                envoy.registry(&WatchResponse { version: 2, removals, ..WatchResponse::default() });
            }
            _ => {}
        }
    }

    fn send(&mut self, envoy: &mut Envoy, count: usize, end: bool) {
        let to = self.body.len().min(self.sent + count);
        if !self.ended {
            let end = end && to == self.body.len();
            self.ended = end;
            envoy.client_sends(self.id, &self.body[self.sent..to], end);
            self.sent = to;
        }
    }

    fn response(&self, envoy: &mut Envoy, status: u16, end: bool) {
        let kind = if self.advertises {
            "application/x-git-receive-pack-advertisement"
        } else {
            "application/x-git-receive-pack-result"
        };
        envoy.upstream_headers(self.id, status, &[("content-type", kind), ("x-echo", SECRET)], end);
    }

    fn respond(&self, envoy: &mut Envoy, how: usize, end: bool) {
        let all = if self.advertises { advertisement() } else { chain_support::report() };
        let part = if how & 1 == 0 { &all[..] } else { &all[..how.min(all.len())] };
        envoy.upstream_sends(self.id, part, end);
    }

    /// Completes the stream, as a well-behaved client, upstream and control plane do.
    fn finish(&mut self, envoy: &mut Envoy) {
        envoy.goes_on(self.id, Stage::Credentials);
        envoy.goes_on(self.id, Stage::ForwardProxy);
        self.send(envoy, self.body.len(), true);
        for _ in 0..8 {
            for (token, call) in envoy.calls() {
                envoy.answer(token, reply(&call, 0));
            }
        }
        envoy.pass(Duration::from_secs(40));
        if !envoy.over(self.id) {
            self.response(envoy, 200, false);
            self.respond(envoy, 0, true);
            envoy.upstream_sends(self.id, &[], true);
        }
        envoy.pass(Duration::from_secs(1));
    }

    fn told(&self, envoy: &Envoy) -> String {
        let (upstream, client) = (envoy.upstream(self.id), envoy.client(self.id));
        let brief = |arrived: &Arrived| {
            let (status, bytes) = (arrived.status(), arrived.body.len());
            format!("status {status}, {bytes} bytes, ended {}, reset {}", arrived.ended, arrived.reset)
        };
        format!(
            "rule {:?}, {} of {} bytes sent, ended {}; upstream: {}; client: {}; stopped: {:?}; log: {:?}",
            envoy.rule(self.id),
            self.sent,
            self.body.len(),
            self.ended,
            brief(&upstream),
            brief(&client),
            envoy.stopped(self.id),
            envoy.lines(3),
        )
    }

    fn promises(&self, envoy: &Envoy, expect: Expect) {
        let (upstream, client) = (envoy.upstream(self.id), envoy.client(self.id));
        let told = || self.told(envoy);
        let whole = upstream.ended && !upstream.reset;
        let rule = envoy.rule(self.id);
        match expect {
            Expect::Nothing => assert!(upstream.headers.is_empty(), "a refused request has arrived: {}", told()),
            Expect::RefusedModel => assert!(!whole, "the end of a refused request has arrived: {}", told()),
            Expect::Inflated => {
                let sent = model_body("");
                assert!(sent.as_bytes().starts_with(&upstream.body), "another body has arrived: {}", told());
                assert!(!whole || upstream.body == sent.as_bytes(), "a part has arrived as the whole: {}", told());
            }
            Expect::Model if whole => assert_eq!(upstream.body, self.body, "{}", told()),
            Expect::Same | Expect::Model => assert!(self.body.starts_with(&upstream.body), "another body has arrived: {}", told()),
            Expect::Json if upstream.ended => {
                let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
                let query = |mut value: serde_json::Value| {
                    // The gateway serializes the query anew.
                    value["query"] = serde_json::Value::Null;
                    value
                };
                let (have, sent) = (query(json(&upstream.body)), query(json(&self.body)));
                assert_eq!(have, sent, "another body has arrived: {}", told());
                let length = upstream.header("content-length");
                assert!(length.is_none_or(|length| length == upstream.body.len().to_string()), "{}", told());
            }
            Expect::Json => assert!(upstream.body.is_empty(), "a part has arrived: {}", told()),
            Expect::Push | Expect::Refused => {
                assert!(self.body.starts_with(&upstream.body), "another push has arrived: {}", told());
                let late = !upstream.body.is_empty() && upstream.body.len() + TRAILER > self.body.len();
                assert!(!(late && expect == Expect::Refused), "the end of a refused push has arrived: {}", told());
                assert!(
                    !whole || rule == "push.allowed",
                    "the end of a push has arrived without a verdict: {}",
                    told()
                );
                assert!(!(whole && self.narrowed), "a push has ended under rules that refuse it: {}", told());
                let success = client.status() == 200 && client.header("x-sallyport-rule").is_none();
                // An allowed push may pass unread: the server then has all that was sent, and may answer before the end.
                let arrived = upstream.ended || upstream.body.len() == self.sent;
                assert!(
                    !success || self.succeeded.get() || rule == "push.allowed" && arrived,
                    "a success of an unfinished push has arrived: {}",
                    told()
                );
                self.succeeded.set(success);
                // Git rejects a pack without its hash.
                let early = whole && upstream.body != self.body;
                assert!(!early || rule != "push.allowed", "a push has ended early: {}", told());
            }
        }
        let holds = |fields: &[(String, Vec<u8>)]| {
            fields.iter().any(|(_, value)| value.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()))
        };
        let trailers = client.trailers.as_deref().unwrap_or_default();
        assert!(!holds(&client.headers) && !holds(trailers), "the client got the credential: {}", told());
    }
}
