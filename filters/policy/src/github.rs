//! The github stage: which operation a request to one of GitHub's hosts is, and whether the container may do it.
//!
//! A REST call's operation follows from its method and the most specific path template that matches (`rest`). A GraphQL
//! call is judged by every field of the one operation that its document executes (`graphql`). Each operation has a
//! [`Class`]. The class, the guards on the request's content and the container's record give the verdict. Unknown
//! operations are refused.
//!
//! **Invariant:** what was judged is what is sent. An allowed call is serialized anew from its parsed form
//! ([`Allowed::target`], [`Allowed::body`]); no unparsed part of the request is forwarded.
//!
//! The github filter calls this module for each request, by way of [`Flow`], and so does the CLI's `policy explain`.

mod class;
mod git_headers;
mod graphql;
mod guards;
mod headers;
mod hosts;
mod json;
mod lfs;
mod node_id;
mod patterns;
mod question;
mod rest;
mod rules;
mod scope;
mod search;
mod target;
mod words;

pub use class::Class;
pub(crate) use hosts::RECEIVE_PACK;
pub use hosts::{BELOW, Git, Kind, Service, closed, git, kind};
pub use json::Json;
pub use patterns::{InvalidPattern, Patterns};
pub use question::{About, Purpose, Question};
pub use rules::{Exception, Listed, Rules};
pub use scope::Scope;

use crate::{Container, Denial, HostName, Rule};
use serde::{Deserialize, Serialize};

/// The header by which the identity stage tells Envoy's router to send a request once more after a fault of the
/// upstream. The router takes it out. No route may remove it, because routes do so before the router reads it.
pub const RETRY_ON: &str = "x-envoy-retry-on";

/// The operation that a request would carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// A REST operation's id in GitHub's OpenAPI description (`pulls/merge`), a mutation's name (`mergePullRequest`),
    /// or a name of our own for operations that GitHub doesn't name (`git/upload-pack`).
    pub name: String,
    /// The kind of operation.
    pub class: Class,
}

/// A request that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The request's operation.
    pub operation: Operation,
    /// The rule that allowed it.
    pub rule: Rule,
    /// The target to send instead of the received one.
    pub target: Vec<u8>,
    /// The body to send instead of the received one. `None` if the body is forwarded unread.
    pub body: Option<Vec<u8>>,
    /// The questions to GitHub that have to be answered before the request passes. An id names its repository, but the
    /// client may have made it up, and it does not say what a label or a user is called.
    pub ask: Vec<Question>,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The request's operation, if it is known.
    pub operation: Option<Operation>,
    /// The reason.
    pub denial: Denial,
}

impl Allowed {
    /// Allows a request with its target unchanged and its body unread.
    fn as_is(operation: Operation, target: &[u8]) -> Self {
        let rule = operation.class.rule();
        Self { operation, rule, target: target.to_vec(), body: None, ask: Vec::new() }
    }

    /// Whether the request goes out without a credential, because it reads a repository that is not the container's.
    pub fn is_public(&self) -> bool {
        self.operation.class == Class::ReadPublic
    }

    /// Checks that a request whose body is forwarded unread has none, if it is a download. `body`: it has one.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn takes_body(&self, method: &[u8], body: bool) -> Result<(), Refused> {
        if self.is_public() && body && matches!(method, b"GET" | b"HEAD") {
            return Err(Refused::of(&self.operation, Rule::GithubBody, "a read takes no body"));
        }
        Ok(())
    }

    /// The `content-type` to send with the new body. `None` keeps the received header.
    pub fn content_type(&self) -> Option<&'static [u8]> {
        let body = self.body.as_ref()?;
        if lfs::OPERATIONS.contains(&self.operation.name.as_str()) {
            Some(lfs::CONTENT_TYPE)
        } else {
            Json::parse(body).is_ok().then_some(b"application/json")
        }
    }
}

impl Refused {
    /// A refusal of a malformed request or an unknown operation.
    pub fn unknown(rule: Rule, reason: impl Into<String>) -> Self {
        Self { operation: None, denial: Denial::new(rule, reason) }
    }

    /// A refusal of a known operation.
    pub fn of(operation: &Operation, rule: Rule, reason: impl Into<String>) -> Self {
        Self { operation: Some(operation.clone()), ..Self::unknown(rule, reason) }
    }
}

/// The longest body that is read, in bytes. GitHub's own limit is higher, but no call of an agent comes near this one.
pub const MAX_BODY: usize = 1 << 20;

/// The most questions to GitHub about one request ([`Allowed::ask`]). GitHub's `nodes` field accepts this many ids in
/// one call.
pub const MAX_ASK: usize = 100;

/// The head of a request: all but its body.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// `:method`, raw.
    pub method: &'a [u8],
    /// The host, in its canonical spelling.
    pub host: &'a HostName,
    /// `:path`, raw.
    pub target: &'a [u8],
    /// All headers.
    pub headers: &'a [(String, Vec<u8>)],
}

/// The verdict on the head of a request.
#[derive(Debug)]
pub enum Head {
    /// The host is not one of GitHub's.
    Elsewhere,
    /// The request may pass, with its body unread.
    Allowed(Allowed),
    /// The body has to be judged too.
    Body(Pending),
}

/// A request whose head was accepted and whose body is not judged yet.
#[derive(Clone, Debug)]
pub struct Pending(PendingKind);

#[derive(Clone, Debug)]
enum PendingKind {
    Rest(rest::Matched),
    Graphql,
    Lfs(lfs::LfsRequest, Vec<u8>),
}

/// The rules, with their regular expressions compiled once.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    patterns: Patterns,
}

impl Judge {
    /// Compiles the rules.
    ///
    /// # Errors
    /// If one of `blocked_api_patterns` is not a valid regular expression.
    pub fn new(rules: &Rules) -> Result<Self, InvalidPattern> {
        Ok(Self { rules: rules.clone(), patterns: Patterns::compile(&rules.blocked_api_patterns)? })
    }

    /// Whether every request of `container` to this host of GitHub's is refused.
    pub fn closes(&self, host: &HostName, container: &Container) -> bool {
        match kind(host) {
            Some(Kind::Closed) => true,
            Some(Kind::Raw) => !self.rules.allows(container, Class::ReadPublic),
            _ => false,
        }
    }

    /// Judges the head of a request.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn head(&self, call: Call<'_>, container: &Container) -> Result<Head, Refused> {
        let Some(kind) = kind(call.host) else { return Ok(Head::Elsewhere) };
        let scope = Scope { container, rules: &self.rules };
        let method = std::str::from_utf8(call.method).unwrap_or_default();
        if call.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade")) {
            let reason = "GitHub's hosts allow only HTTP; send the request without the header upgrade";
            return Err(Refused::unknown(Rule::GithubHeader, reason));
        }
        match kind {
            Kind::Closed => Err(hosts::closed(call.host)),
            Kind::Raw => hosts::raw(method, call.target, call.host, &scope).map(Head::Allowed),
            Kind::Web => {
                if git_headers::concern(call) {
                    git_headers::screen(call.headers)?;
                }
                hosts::web(method, call.target, &scope)
            }
            Kind::LfsStore => lfs::store(method, call.target, &scope).map(Head::Allowed),
            Kind::Codeload => hosts::codeload(method, call.target, &scope).map(Head::Allowed),
            Kind::Api | Kind::Uploads => self.api(call, method, kind == Kind::Uploads, &scope),
        }
    }

    /// Judges the complete body of a request whose head was accepted.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn body(&self, pending: Pending, body: &[u8], container: &Container) -> Result<Allowed, Refused> {
        let scope = Scope { container, rules: &self.rules };
        if body.len() > MAX_BODY {
            return Err(Refused::unknown(Rule::GithubBody, "the body is longer than 1 MiB"));
        }
        match pending.0 {
            PendingKind::Rest(matched) => matched.body(body, &scope),
            PendingKind::Graphql => graphql(body, &scope),
            PendingKind::Lfs(request, target) => {
                let (operation, body) = lfs::body(request, body, &scope)?;
                Ok(Allowed { body: Some(body), ..Allowed::as_is(operation, &target) })
            }
        }
    }

    fn api(&self, call: Call<'_>, method: &str, uploads: bool, scope: &Scope<'_>) -> Result<Head, Refused> {
        headers::screen(call.host.as_str(), call.headers)?;
        let target = rest::without_slash(method, call.target);
        self.patterns.judge(method, &target)?;
        let target = target::Target::parse(&target)
            .map_err(|why| Refused::unknown(Rule::GithubTarget, format!("invalid request target: {why}")))?;
        if !uploads && target.segments == ["graphql"] {
            let operation = Operation { name: "graphql".into(), class: Class::Graphql };
            return if method == "POST" && target.query.is_empty() {
                Ok(Head::Body(Pending(PendingKind::Graphql)))
            } else {
                Err(Refused::of(
                    &operation,
                    Class::Graphql.rule(),
                    "a GraphQL request has to be POST /graphql, without a query string",
                ))
            };
        }
        let matched = rest::head(method, &target, uploads, scope)?;
        if matched.is_opaque() {
            Ok(Head::Allowed(matched.unread()))
        } else {
            Ok(Head::Body(Pending(PendingKind::Rest(matched))))
        }
    }
}

/// Operations that are neither REST operations nor mutations: GraphQL queries, git, archives and downloads.
const OTHER_OPERATIONS: [&str; 6] =
    ["query", "git/upload-pack", RECEIVE_PACK, "codeload/archive", "web/download", "raw/file"];

/// Whether `name` is an operation that [`Rules::operations`] can list.
pub fn is_operation(name: &str) -> bool {
    rest::is_operation(name)
        || graphql::is_mutation(name)
        || OTHER_OPERATIONS.contains(&name)
        || lfs::OPERATIONS.contains(&name)
}

/// Whether this stage refuses requests to `host` with the header `name`. An earlier stage must not remove such a header
/// silently.
pub fn refuses_header(host: &HostName, name: &str) -> bool {
    matches!(kind(host), Some(Kind::Api | Kind::Uploads)) && headers::REFUSED.contains(&name)
}

/// The names of the headers to remove from a request: those that git's server needs not, or GitHub's API. Headers of
/// other requests are not read.
///
/// # Errors
/// If a header could make the server treat the request as a different one.
pub fn stray_headers(call: Call<'_>, body_is_read: bool) -> Result<Vec<String>, Refused> {
    if git_headers::concern(call) {
        git_headers::screen(call.headers)
    } else if body_is_read {
        headers::screen(call.host.as_str(), call.headers)
    } else {
        Ok(Vec::new())
    }
}

fn graphql(body: &[u8], scope: &Scope<'_>) -> Result<Allowed, Refused> {
    let json =
        Json::parse(body).map_err(|error| Refused::unknown(Rule::GithubBody, format!("invalid JSON body: {error}")))?;
    let graphql::Judged { operation, rule, body, ask } = graphql::judge(&json, scope)?;
    Ok(Allowed { operation, rule, target: b"/graphql".to_vec(), body: Some(body.to_bytes()), ask })
}
