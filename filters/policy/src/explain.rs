//! The stages identity and github for one request, as the filters run them: for `policy explain` and `push explain`,
//! which add the stages behind, and for the tests of the corpus.

use crate::flow::github::Confirmed;
use crate::github::{About, Allowed, Call, Head, Judge, Operation, Purpose, Question, Refused};
use crate::identity::{decide_connect, decide_request, decide_tunnel};
use crate::{Container, Denial, HostName, Policy, Request, Rule, Stage, Verdict};
use jiff::Timestamp;
use serde::Serialize;

/// A whole request.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The authority, as it stands in the URL.
    pub authority: &'a [u8],
    /// Path and query, raw. Ignored for a CONNECT.
    pub target: &'a [u8],
    /// The headers.
    pub headers: &'a [(String, Vec<u8>)],
    /// The body.
    pub body: &'a [u8],
}

/// The output of `policy explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `allow`, `deny` or `ask`.
    pub verdict: &'static str,
    /// The stage that decided.
    pub stage: Stage,
    /// The rule that decided.
    pub rule: Rule,
    /// The HTTP status of a refusal.
    pub status: u16,
    /// The reason of a refusal. Empty if the request is not refused.
    pub reason: String,
    /// The operation on GitHub. `None` if the github stage named no operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The class of the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'static str>,
    /// The questions that GitHub has to answer first. Empty unless the verdict is `ask`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ask: Vec<Ask>,
    /// The request that the next stage gets. `None` if the request is refused, or is a CONNECT.
    #[serde(skip)]
    pub onward: Option<Onward>,
}

/// A request as it leaves the github stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onward {
    /// The host, in its canonical spelling.
    pub host: HostName,
    /// Path and query, as the gateway sends them.
    pub target: Vec<u8>,
}

/// One question to GitHub. One of `node_id` and `issue` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ask {
    /// The id of a GraphQL node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// An issue or a pull request, as `owner/name#number`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issue: Option<String>,
    /// The use of the object in the request.
    pub purpose: Purpose,
}

impl From<Question> for Ask {
    fn from(Question { about, purpose }: Question) -> Self {
        match about {
            About::Node(id) => Self { node_id: Some(id), issue: None, purpose },
            about @ About::Issue { .. } => Self { node_id: None, issue: Some(about.to_string()), purpose },
        }
    }
}

/// Judges a request of `container` by the stages identity and github. `answer` says whether GitHub confirms the node ids
/// that the gateway would ask about. With `None` the verdict on a request with node ids stays `ask`.
pub fn explain(
    whole: Whole<'_>,
    container: &Container,
    policy: &Policy,
    judge: &Judge,
    answer: Option<bool>,
    now: Timestamp,
) -> Explained {
    let request = Request { method: whole.method, path: whole.target, authority: whole.authority, sni: None };
    if whole.method == b"CONNECT" {
        // Envoy may open a tunnel in which every request is refused. The verdict counts this refusal.
        return match decide_connect(whole.authority) {
            Verdict::Deny(denial) => Explained::denied(denial, None),
            Verdict::Allow(by) => match decide_tunnel(Some(container), request, policy, now) {
                Ok(host) if matches!(crate::github::kind(&host), Some(crate::github::Kind::Closed)) => {
                    Explained::refused(crate::github::closed(&host))
                }
                Ok(_) => Explained::allowed(Stage::Request, by.rule),
                Err(denial) => Explained::denied(denial, None),
            },
        };
    }
    let (host, by) = match decide_request(Some(container), request, policy, now) {
        Ok(allowed) => allowed,
        Err(denial) => return Explained::denied(denial, None),
    };
    let call = Call { method: whole.method, host: &host, target: whole.target, headers: whole.headers };
    let allowed = match judge.head(call, container) {
        Ok(Head::Elsewhere) => {
            let onward = Some(Onward { host, target: whole.target.to_vec() });
            return Explained { onward, ..Explained::allowed(Stage::Identity, by.rule) };
        }
        Ok(Head::Allowed(allowed)) => Ok(allowed),
        Ok(Head::Body(pending)) => judge.body(pending, whole.body, container),
        Err(refused) => Err(refused),
    };
    let answered = allowed.and_then(|allowed| match answer {
        Some(confirmed) if !allowed.ask.is_empty() => {
            let reason = if confirmed { "" } else { "GitHub does not confirm what the ids stand for" }.to_owned();
            allowed.confirmed(Some(Confirmed { confirmed, reason }))?;
            Ok(Allowed { ask: Vec::new(), ..allowed })
        }
        _ => Ok(allowed),
    });
    match answered {
        Ok(allowed) => {
            let ask: Vec<_> = allowed.ask.into_iter().map(Ask::from).collect();
            let verdict = if ask.is_empty() { "allow" } else { "ask" };
            let onward = Some(Onward { host, target: allowed.target });
            Explained { verdict, ask, onward, ..Explained::allowed(Stage::Github, allowed.rule) }
                .about(Some(allowed.operation))
        }
        Err(refused) => Explained::refused(refused),
    }
}

impl Explained {
    fn allowed(stage: Stage, rule: Rule) -> Self {
        Self {
            verdict: "allow",
            stage,
            rule,
            status: 200,
            reason: String::new(),
            operation: None,
            class: None,
            ask: Vec::new(),
            onward: None,
        }
    }

    /// The same request, refused by a later stage. A refusal wins over `ask`: the request passes with no answer.
    #[must_use]
    pub fn refused_behind(self, denial: Denial) -> Self {
        Self { operation: self.operation, class: self.class, ..Self::denied(denial, None) }
    }

    fn refused(refused: Refused) -> Self {
        Self::denied(refused.denial, refused.operation)
    }

    /// A refusal.
    pub fn denied(denial: Denial, operation: Option<Operation>) -> Self {
        let Denial { stage, rule, status, reason, .. } = denial;
        Self { verdict: "deny", status, reason, ..Self::allowed(stage, rule) }.about(operation)
    }

    fn about(self, operation: Option<Operation>) -> Self {
        let class = operation.as_ref().map(|operation| operation.class.name());
        Self { operation: operation.map(|operation| operation.name), class, ..self }
    }
}
