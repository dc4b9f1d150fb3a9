//! The flow of a request to GitHub: whatever pieces its body comes in, whatever the answer about its node ids is, and
//! whichever effect fails, it passes as it was understood, or is refused, and never both.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use policy::InForce;
use policy::flow::github::{Confirm, Confirmed, Flow};
use policy::flow::{Broken, Effect, Paused, RequestHead, Step, Then};
use policy::github::{Exception, Judge, MAX_BODY, Purpose, Question, Rules};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

const ISSUE: &str = r#"{ "title": "a", "body": "b" }"#;
/// The form in which the request's body is forwarded.
const ISSUE_WRITTEN: &str = r#"{"title":"a","body":"b"}"#;
/// A comment on a node, which has to be confirmed.
const COMMENT: &str = r#"{"query": "mutation AddComment($input:AddCommentInput!){addComment(input: $input){commentEdge{node{url}}}}", "variables": {"input": {"subjectId": "PR_kwDOAWBuf84Bh4UQ", "body": "hello"}}}"#;

fn container() -> Vec<u8> {
    // The repository's number is the one that the node's id names.
    br#"{"container_ip":"172.18.0.5","container_id":"a","repos":[{"name":"o/r","id":23096959}],"expires_at":"2027-01-15T00:00:00Z"}"#.to_vec()
}

fn in_force(rules: &Rules) -> Rc<RefCell<InForce<Judge>>> {
    let mut in_force = InForce::default();
    in_force.set(1, Rc::new(Judge::new(rules).unwrap()));
    Rc::new(RefCell::new(in_force))
}

fn flow() -> Flow {
    Flow::new(in_force(&Rules::default()))
}

fn head(method: &str, authority: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let pseudo = [(":method", method), (":authority", authority), (":path", path)];
    let headers = pseudo.iter().chain(headers).map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    RequestHead {
        headers: headers.collect(),
        note: Some(br#"{"request_id":"7","container_id":"a","decided":{"stage":"identity","verdict":"allow","rule":"egress.host","reason":""},"policy_version":"p"}"#.to_vec()),
        container: Some(container()),
    }
}

fn issue() -> RequestHead {
    head("POST", "api.github.com", "/repos/o/r/issues", &[("x-stray", "1"), ("content-type", "text/plain")])
}

fn comment() -> RequestHead {
    head("POST", "api.github.com", "/graphql", &[("content-type", "application/json")])
}

/// A request on its way, with the body that waits in Envoy.
struct Stream {
    flow: Flow,
    waiting: Vec<u8>,
    /// The request's end has come.
    whole: bool,
    /// The names of the effects, and what was written with some of them.
    effects: Vec<String>,
    asked: Option<Confirm>,
    /// The body that has gone on; `None` before the headers have.
    sent: Option<Vec<u8>>,
    over: Option<String>,
    /// The effect that fails, counted from 0.
    fail: Option<usize>,
}

impl Stream {
    fn new(head: RequestHead, end: bool, fail: Option<usize>) -> Self {
        let mut stream = Self {
            flow: flow(),
            waiting: Vec::new(),
            whole: end,
            effects: Vec::new(),
            asked: None,
            sent: None,
            over: None,
            fail,
        };
        let step = stream.flow.request_headers(Ok(head), end);
        stream.carry_out(step);
        stream
    }

    fn body(&mut self, chunk: &[u8], end: bool) {
        self.waiting.extend(chunk);
        self.whole = end;
        let size = self.waiting.len();
        let unread = self.waiting[self.flow.unread(size, end)].to_vec();
        let step = self.flow.request_body(size, Ok(unread), end);
        self.carry_out(step);
    }

    fn confirmed(&mut self, answer: Option<Confirmed>) {
        let step = self.flow.confirmed(answer);
        self.carry_out(step);
    }

    fn carry_out(&mut self, mut step: Step<Confirm>) {
        while let Err(broken) = self.try_step(step) {
            step = self.flow.failed(broken);
        }
        assert!(self.over.is_none() || self.sent.is_none(), "it is sent and refused");
    }

    fn try_step(&mut self, step: Step<Confirm>) -> Result<(), Broken> {
        for effect in step.effects {
            if !matches!(effect, Effect::Log(_) | Effect::NoteRefusal(_)) {
                self.fail = self.fail.and_then(|left| left.checked_sub(1));
                if self.fail == Some(0) {
                    return Err(Broken::new("it is to fail"));
                }
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let rule = |bytes: Vec<u8>| {
                let note: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                note["decided"]["rule"].as_str().unwrap().to_owned()
            };
            self.effects.push(match effect {
                Effect::Log(_) => "log".into(),
                Effect::Note(note) => format!("note {}", rule(note.to_bytes())),
                Effect::NoteRefusal(note) => format!("refuse {}", rule(note.to_bytes())),
                Effect::Mark(mark) => format!("mark {}", text(&mark.value)),
                Effect::Unseal => panic!("the github stage unseals nothing"),
                Effect::Ask(confirm) => {
                    self.asked = Some(confirm);
                    "ask".into()
                }
                Effect::SetRequestHeader(name, value) => format!("{name}: {}", text(&value)),
                Effect::RemoveRequestHeader(name) => format!("no {name}"),
                Effect::ReplaceRequestBody { size, body } => {
                    assert_eq!(size, self.waiting.len(), "a part of the body is replaced");
                    self.waiting = body;
                    "body".into()
                }
                Effect::DropRequestBody { size } => {
                    assert_eq!(size, self.waiting.len(), "a part of the body is dropped");
                    self.waiting.clear();
                    "drop".into()
                }
                Effect::RemoveResponseHeader(_) | Effect::ReplaceResponseBody { .. } => panic!("there is no response"),
            });
        }
        match step.then {
            Then::Continue | Then::Resume(Paused::Request) => {
                self.sent.get_or_insert_default().append(&mut self.waiting);
            }
            Then::Pause => {}
            Then::Refuse(answer) => {
                assert!(self.over.is_none(), "it is answered twice");
                self.over = Some(format!("{} {}", answer.status, answer.rule.name()));
            }
            Then::Reset => self.over = Some("reset".into()),
            Then::Resume(Paused::Response | Paused::Both) => panic!("there is no response"),
        }
        Ok(())
    }
}

fn yes() -> Option<Confirmed> {
    Some(Confirmed { confirmed: true, reason: String::new() })
}

#[test]
fn a_body_passes_as_it_was_understood_in_whatever_pieces() {
    for piece in [1, 7, ISSUE.len()] {
        for end_alone in [false, true] {
            let mut stream = Stream::new(issue(), false, None);
            let pieces: Vec<_> = ISSUE.as_bytes().chunks(piece).collect();
            for (at, chunk) in pieces.iter().enumerate() {
                assert_eq!(stream.sent, None, "it goes on before it is judged");
                stream.body(chunk, !end_alone && at + 1 == pieces.len());
            }
            if end_alone {
                stream.body(&[], true);
            }
            assert_eq!(stream.sent.as_deref(), Some(ISSUE_WRITTEN.as_bytes()));
            let length = format!("content-length: {}", ISSUE_WRITTEN.len());
            assert_eq!(
                stream.effects,
                [
                    "note github.write-collab",
                    "mark 0 api.github.com POST /repos/o/r/issues",
                    "no x-stray",
                    "body",
                    &length,
                    "no transfer-encoding",
                    "content-type: application/json",
                ]
            );
        }
    }
}

#[test]
fn a_request_without_a_body_is_judged_at_once() {
    let stream = Stream::new(head("GET", "api.github.com", "/repos/o/r", &[]), true, None);
    assert_eq!(stream.sent, Some(vec![]));
    assert_eq!(stream.effects, ["note github.read-repo", "mark 0 api.github.com GET /repos/o/r"]);
    // A body that is not read flows on.
    let path = "/o/r.git/git-receive-pack";
    let mut stream = Stream::new(head("POST", "github.com", path, &[]), false, None);
    stream.body(b"0000", false);
    assert_eq!(stream.sent.as_deref(), Some(&b"0000"[..]));
}

#[test]
fn what_is_not_for_github_is_not_touched() {
    for head in [head("CONNECT", "github.com:443", "", &[]), head("GET", "example.com", "/", &[])] {
        let mut flow = Flow::new(Rc::default());
        let go_on = Step::only(Then::Continue);
        assert_eq!(flow.request_headers(Ok(head), false), go_on);
        assert!(flow.unread(7, true).is_empty());
        assert_eq!(flow.request_body(7, Ok(Vec::new()), true), go_on);
        assert_eq!(flow.request_trailers(), go_on);
    }
}

#[test]
fn a_node_passes_by_a_yes_alone() {
    let no = |reason: &str| Some(Confirmed { confirmed: false, reason: reason.into() });
    for (answer, over) in
        [(yes(), None), (no("it belongs to x/y"), Some("403 github.node")), (None, Some("503 github.unconfirmed"))]
    {
        let mut stream = Stream::new(comment(), false, None);
        stream.body(COMMENT.as_bytes(), true);
        let ip: IpAddr = "172.18.0.5".parse().unwrap();
        let questions = vec![Question::node("PR_kwDOAWBuf84Bh4UQ", Purpose::Write)];
        let confirm = Confirm { container: ip, questions };
        assert_eq!((&stream.asked, &stream.sent), (&Some(confirm), &None));
        stream.confirmed(answer);
        assert_eq!(stream.over.as_deref(), over);
        assert_eq!(stream.sent.is_some(), over.is_none());
        if over.is_none() {
            assert_eq!(stream.effects.last().map(String::as_str), Some("x-github-next-global-id: 1"));
            assert!(stream.effects.iter().any(|effect| effect == "body"));
        }
        // A second answer changes nothing.
        let before = (stream.sent.clone(), stream.over.clone());
        assert_eq!(stream.flow.confirmed(yes()), Step::only(Then::Continue));
        assert_eq!((stream.sent, stream.over), before);
    }
}

#[test]
fn what_is_refused_is_dropped_and_answered_at_its_end() {
    let refused = || head("PUT", "api.github.com", "/repos/o/r/pulls/1/merge", &[]);
    for trailers in [false, true] {
        let mut stream = Stream::new(refused(), false, None);
        assert_eq!((&stream.over, stream.effects.len()), (&None, 1));
        stream.body(b"{}", false);
        assert_eq!((&stream.over, stream.waiting.len()), (&None, 0));
        if trailers {
            let step = stream.flow.request_trailers();
            stream.carry_out(step);
        } else {
            stream.body(b"", true);
        }
        assert_eq!(stream.over.as_deref(), Some("403 github.merge"));
        assert_eq!(stream.flow.request_body(3, Ok(Vec::new()), true), Step::only(Then::Pause));
    }
    let stream = Stream::new(refused(), true, None);
    assert_eq!(stream.over.as_deref(), Some("403 github.merge"));
}

#[test]
fn a_body_has_a_limit() {
    let long = vec![b' '; MAX_BODY];
    let mut stream = Stream::new(issue(), false, None);
    stream.body(&long, false);
    stream.body(b"", true);
    assert_ne!(stream.over.as_deref(), None, "spaces are no JSON");
    let mut stream = Stream::new(issue(), false, None);
    stream.body(&long, false);
    assert_eq!((&stream.effects[..], stream.waiting.len()), (&[][..], MAX_BODY));
    stream.body(b" ", false);
    assert_eq!(stream.effects, ["refuse github.body", "drop"]);
    stream.body(b" ", true);
    assert_eq!(stream.over.as_deref(), Some("403 github.body"));
}

#[test]
fn trailers_are_refused_except_those_of_a_push() {
    let mut stream = Stream::new(issue(), false, None);
    stream.body(ISSUE.as_bytes(), false);
    let step = stream.flow.request_trailers();
    stream.carry_out(step);
    assert_eq!((stream.over.as_deref(), stream.sent), (Some("403 github.header"), None));
    // A body that passes unread is on its way when the trailers come.
    for (method, host, path) in [
        ("POST", "github.com", "/o/r.git/git-upload-pack"),
        ("GET", "github.com", "/o/r.git/info/refs?service=git-upload-pack"),
        ("GET", "github.com", "/o/r.git/info/lfs/locks"),
        ("PUT", "github-cloud.githubusercontent.com", "/alambic/media/1/o/r"),
        ("GET", "codeload.github.com", "/o/r/zip/refs/heads/main"),
        ("POST", "uploads.github.com", "/repos/o/r/releases/1/assets?name=a"),
    ] {
        let rules = Rules { operations: vec![everything()], ..Rules::default() };
        let mut flow = Flow::new(in_force(&rules));
        let step = flow.request_headers(Ok(head(method, host, path, &[])), false);
        assert_eq!(step.then, Then::Continue, "{method} {host}{path}: {step:?}");
        assert_eq!(flow.request_body(7, Ok(Vec::new()), false), Step::only(Then::Continue));
        let step = flow.request_trailers();
        assert!(matches!(step.effects[..], [Effect::NoteRefusal(_)]), "{method} {host}{path}: {step:?}");
        let refused = matches!(&step.then, Then::Refuse(answer) if answer.rule.name() == "github.header");
        assert!(refused, "{method} {host}{path}: {step:?}");
        assert_eq!(flow.request_body(7, Ok(Vec::new()), true), Step::only(Then::Pause), "{method} {host}{path}");
    }
    // The push stage judges these.
    for (method, path) in
        [("POST", "/o/r.git/git-receive-pack"), ("GET", "/o/r.git/info/refs?service=git-receive-pack")]
    {
        let mut stream = Stream::new(head(method, "github.com", path, &[]), false, None);
        assert_eq!(stream.flow.request_trailers(), Step::only(Then::Continue));
    }
}

/// Allows each operation of the requests above by its name.
fn everything() -> Exception {
    let allow = ["lfs/upload", "lfs/lock", "repos/upload-release-asset"].map(str::to_owned).into();
    Exception { labels: BTreeMap::new(), allow, deny: BTreeSet::new() }
}

#[test]
fn a_body_that_ends_under_other_rules_than_its_headers_is_refused() {
    let rules = in_force(&Rules::default());
    let narrow = || Rc::new(Judge::new(&Rules::deny_all()).unwrap());
    // Rules of an earlier revision do not come into force.
    for (revision, passes) in [(1, true), (2, false), (1, true)] {
        let rules = if passes { in_force(&Rules::default()) } else { Rc::clone(&rules) };
        let mut flow = Flow::new(Rc::clone(&rules));
        assert_eq!(flow.request_headers(Ok(issue()), false).then, Then::Pause);
        rules.borrow_mut().set(revision, narrow());
        let step = flow.request_body(ISSUE.len(), Ok(ISSUE.into()), true);
        match &step.then {
            Then::Continue => assert!(passes, "{step:?}"),
            Then::Refuse(answer) => {
                assert!(!passes && answer.rule.name() == "github.unavailable", "{step:?}");
                assert!(String::from_utf8_lossy(&answer.body).contains("the policy has changed"), "{step:?}");
            }
            _ => panic!("{step:?}"),
        }
    }
}

#[test]
fn without_rules_a_record_or_a_host_nothing_passes() {
    let unavailable = |mut flow: Flow, head: Result<RequestHead, Broken>| {
        let step = flow.request_headers(head, true);
        assert!(matches!(step.effects[..], [Effect::Log(_), Effect::NoteRefusal(_)]));
        matches!(step.then, Then::Refuse(answer) if (answer.status, answer.rule.name()) == (503, "github.unavailable"))
    };
    assert!(unavailable(Flow::new(Rc::default()), Ok(issue())));
    assert!(unavailable(flow(), Ok(RequestHead { container: None, ..issue() })));
    assert!(unavailable(flow(), Ok(RequestHead { container: Some(b"{".to_vec()), ..issue() })));
    assert!(unavailable(flow(), Ok(head("GET", "api.github.com:x", "/", &[]))));
    assert!(unavailable(flow(), Err(Broken::new("Envoy"))));
}

#[test]
fn whichever_effect_fails_the_request_is_refused() {
    for (head, body) in [(issue(), ISSUE), (comment(), COMMENT)] {
        // So many effects are there of the longer one, and none of them may fail unseen.
        let effects = |stream: &Stream| stream.effects.iter().filter(|effect| *effect != "log").count();
        let run = |fail| {
            let mut stream = Stream::new(head.clone(), false, fail);
            let (first, rest) = body.as_bytes().split_at(5);
            stream.body(first, false);
            stream.body(rest, true);
            if stream.over.is_none() {
                stream.confirmed(yes());
            }
            stream
        };
        let all = effects(&run(None));
        assert!(all > 4);
        for fail in 1..=all {
            let stream = run(Some(fail));
            assert_eq!((stream.over.as_deref(), stream.sent), (Some("503 github.unavailable"), None), "{fail}");
        }
    }
    // A refusal that can't be kept from the server ends the stream.
    let mut stream = Stream::new(head("PUT", "api.github.com", "/repos/o/r/pulls/1/merge", &[]), false, Some(1));
    stream.body(b"{}", false);
    assert_eq!((stream.over.as_deref(), stream.sent), (Some("reset"), None));
}

#[test]
fn a_body_that_cannot_be_read_is_refused() {
    let mut flow = flow();
    assert_eq!(flow.request_headers(Ok(issue()), false), Step::only(Then::Pause));
    let step = flow.request_body(7, Err(Broken::new("Envoy")), true);
    assert!(matches!(step.then, Then::Refuse(answer) if answer.rule.name() == "github.unavailable"));
}
