//! Stage 3: what a request to one of GitHub's hosts does, and whether that container may do it.
//!
//! A REST call becomes an operation by its method and the most specific template of its path (`rest`), a GraphQL
//! document by every field of the one operation that it executes (`graphql`). An operation has a [`Class`], and the
//! class, the guards on what the request says, and the container's record give the verdict. What isn't known is
//! refused.
//!
//! **Invariant:** what was judged is what is sent. An allowed call is written anew from what was understood of it
//! ([`Allowed::target`], [`Allowed::body`]); nothing that was not understood goes along.
//!
//! Called by the github filter with each request, by way of [`Flow`], and by the CLI's `policy explain`.

mod class;
mod flow;
mod graphql;
mod guards;
mod headers;
mod hosts;
mod json;
mod lfs;
mod node_id;
mod patterns;
mod rest;
mod rules;
mod scope;
mod search;
mod target;

pub use class::Class;
pub use flow::{Confirm, Confirmed, Flow};
pub use hosts::{BELOW, Git, Kind, Service, closed, git, kind};
pub use json::Json;
pub use patterns::{InvalidPattern, Patterns};
pub use rules::{Exception, Listed, Rules};
pub use scope::Scope;

use crate::{Container, Denial, HostName, Stage};

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// A REST operation's id in GitHub's own description (`pulls/merge`), a mutation's name (`mergePullRequest`), or
    /// another word for what has no such name.
    pub name: String,
    /// What it does.
    pub class: Class,
}

/// A request that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What it does.
    pub operation: Operation,
    /// The rule that allowed it.
    pub rule: &'static str,
    /// The target to send in place of the one that came.
    pub target: Vec<u8>,
    /// The body to send in place of the one that came; `None` where that is not read.
    pub body: Option<Vec<u8>>,
    /// Node ids whose repository has to be confirmed with GitHub before: what they say of it is the client's word.
    pub ask: Vec<String>,
}

/// A request that ends here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it would do, as far as that is known.
    pub operation: Option<Operation>,
    /// Why not.
    pub denial: Denial,
}

impl Allowed {
    /// The value of `content-type` that its body, if it is read, is sent with; `None` for that which came.
    pub fn content_type(&self) -> Option<&'static [u8]> {
        let body = self.body.as_ref()?;
        match lfs::OPERATIONS.contains(&self.operation.name.as_str()) {
            true => Some(lfs::CONTENT_TYPE),
            false => Json::parse(body).is_ok().then_some(b"application/json"),
        }
    }
}

impl Refused {
    /// A refusal of what is not understood, or not known.
    pub fn unknown(rule: &'static str, reason: impl Into<String>) -> Self {
        Self { operation: None, denial: Denial::forbidden(Stage::Github, rule, reason) }
    }

    /// A refusal of a known operation.
    pub fn of(operation: &Operation, rule: &'static str, reason: impl Into<String>) -> Self {
        Self { operation: Some(operation.clone()), ..Self::unknown(rule, reason) }
    }
}

/// How much of a body is read: GitHub's own limit for a body is higher, but no call of an agent's comes near this.
pub const MAX_BODY: usize = 1 << 20;

/// The most node ids of one request that are confirmed with GitHub ([`Allowed::ask`]): what its `nodes` takes in one
/// call.
pub const MAX_ASK: usize = 100;

/// A request, as far as its headers say.
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

/// What the headers of a request tell.
#[derive(Debug)]
pub enum Head {
    /// It is none of GitHub's hosts.
    Elsewhere,
    /// It may go on as it is, with its body unread.
    Allowed(Allowed),
    /// Its body decides.
    Body(Pending),
}

/// A request that is good so far, before its body is judged.
#[derive(Clone, Debug)]
pub struct Pending(Kinds);

#[derive(Clone, Debug)]
enum Kinds {
    Rest(rest::Matched),
    Graphql,
    Lfs(lfs::Ask, Vec<u8>),
}

/// The rules, with what is made of them once.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    patterns: Patterns,
}

impl Judge {
    /// For these rules.
    ///
    /// # Errors
    /// One of `blocked_api_patterns` is no regular expression.
    pub fn new(rules: &Rules) -> Result<Self, InvalidPattern> {
        Ok(Self { rules: rules.clone(), patterns: Patterns::compile(&rules.blocked_api_patterns)? })
    }

    /// Judges a request by its headers.
    ///
    /// # Errors
    /// The refusal.
    pub fn head(&self, call: Call<'_>, container: &Container) -> Result<Head, Refused> {
        let Some(kind) = kind(call.host) else { return Ok(Head::Elsewhere) };
        let scope = Scope { container, rules: &self.rules };
        let method = std::str::from_utf8(call.method).unwrap_or_default();
        if call.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade")) {
            let reason = "nothing that GitHub is asked is another protocol than HTTP";
            return Err(Refused::unknown("github.header", reason));
        }
        match kind {
            Kind::Closed => Err(hosts::closed(call.host)),
            Kind::Web => hosts::web(method, call.target, &scope),
            Kind::LfsStore => lfs::store(method, call.target, &scope).map(Head::Allowed),
            Kind::Codeload => hosts::codeload(method, call.target, &scope).map(Head::Allowed),
            Kind::Api | Kind::Uploads => self.api(call, method, kind == Kind::Uploads, &scope),
        }
    }

    /// Judges the whole body of a request whose headers were good.
    ///
    /// # Errors
    /// The refusal.
    pub fn body(&self, pending: Pending, body: &[u8], container: &Container) -> Result<Allowed, Refused> {
        let scope = Scope { container, rules: &self.rules };
        if body.len() > MAX_BODY {
            return Err(Refused::unknown("github.body", "the body is longer than 1 MiB"));
        }
        match pending.0 {
            Kinds::Rest(matched) => matched.body(body, &scope),
            Kinds::Graphql => graphql(body, &scope),
            Kinds::Lfs(ask, target) => {
                let (operation, body) = lfs::body(ask, body, &scope)?;
                Ok(Allowed { body: Some(body), ..hosts::passed(operation, &target) })
            }
        }
    }

    fn api(&self, call: Call<'_>, method: &str, uploads: bool, scope: &Scope<'_>) -> Result<Head, Refused> {
        headers::screen(call.host.as_str(), call.headers)?;
        let target = target::Target::parse(call.target)
            .map_err(|why| Refused::unknown("github.target", format!("the target is not spelled plainly: {why}")))?;
        self.patterns.judge(method, call.target)?;
        if !uploads && target.segments == ["graphql"] {
            let operation = Operation { name: "graphql".into(), class: Class::Graphql };
            return match method == "POST" && target.query.is_empty() {
                true => Ok(Head::Body(Pending(Kinds::Graphql))),
                false => Err(Refused::of(&operation, Class::Graphql.rule(), "GraphQL is spoken by POST /graphql only")),
            };
        }
        let matched = rest::head(method, &target, uploads, scope)?;
        match matched.is_opaque() {
            true => Ok(Head::Allowed(matched.unread())),
            false => Ok(Head::Body(Pending(Kinds::Rest(matched)))),
        }
    }
}

/// Operations that are neither REST's nor mutations: a query, git, and archives.
const OTHER_OPERATIONS: [&str; 4] = ["query", "git/upload-pack", "git/receive-pack", "codeload/archive"];

/// Whether there is an operation called `name`, so that [`Rules::operations`] can speak of it.
pub fn is_operation(name: &str) -> bool {
    rest::is_operation(name)
        || graphql::is_mutation(name)
        || OTHER_OPERATIONS.contains(&name)
        || lfs::OPERATIONS.contains(&name)
}

/// Whether this stage makes a refusal of the header `name` of a request to `host`, so that no stage before may remove it
/// in silence.
pub fn refuses_header(host: &HostName, name: &str) -> bool {
    matches!(kind(host), Some(Kind::Api | Kind::Uploads)) && headers::REFUSED.contains(&name)
}

/// The names of the headers that a request to GitHub's API leaves behind, so that nothing goes along that was not
/// understood.
///
/// # Errors
/// The refusal of those that make another request of it.
pub fn stray_headers(host: &HostName, headers: &[(String, Vec<u8>)]) -> Result<Vec<String>, Refused> {
    headers::screen(host.as_str(), headers)
}

fn graphql(body: &[u8], scope: &Scope<'_>) -> Result<Allowed, Refused> {
    let json = Json::parse(body)
        .map_err(|error| Refused::unknown("github.body", format!("the body is no plain JSON: {error}")))?;
    let graphql::Judged { operation, rule, body, ask } = graphql::judge(&json, scope)?;
    Ok(Allowed { operation, rule, target: b"/graphql".to_vec(), body: Some(body.to_bytes()), ask })
}
