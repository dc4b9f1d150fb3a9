//! The decision of the credential stage, pure: it checks the container, the endpoint and the query. The gateway's
//! ext_authz calls this function, and so does the CLI's `explain`.
//!
//! Every request to a host with a credential needs that credential: any other request to the host is refused.

use jiff::Timestamp;
use policy::endpoint::canonical;
use policy::{Container, Denial, Egress, HostName, Repo, Rule, Stage, Verdict, spelling};

use super::entry::Entry;
use super::foreign::query_credentials;
use super::scope::{Scope, github};
use super::within;

/// A request, as the credential stage sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The canonical host.
    pub host: &'a HostName,
    /// The method.
    pub method: &'a str,
    /// Path and query, raw.
    pub path: &'a [u8],
    /// Whether the request is an upgrade to another protocol, such as WebSocket.
    pub upgrade: bool,
}

/// The permission to send a request with its credential.
#[derive(Debug)]
pub struct Grant<'a, 'c> {
    /// The credential that is added.
    pub entry: &'a Entry,
    /// The container's repository that the request is about. `None` if the request is about no repository.
    pub repo: Option<&'c Repo>,
    /// The rule that allows the request.
    pub rule: Rule,
    /// The names of the query parameters to remove, as the query spells them.
    pub parameters: Vec<String>,
}

/// Decides whether the credential `entry` is added to a request of `container`. `entry` is the one for the request's
/// host, see [`crate::Credentials::entry`]. `egress` lists the hosts that every container may reach.
///
/// # Errors
/// If no container is registered, or its record is expired at `now` or blocked. If there is no credential for the host
/// or for the path. If the container may not use the credential, or a list allows the host by a suffix only. If the
/// query has a credential that cannot be removed.
pub fn decide<'a, 'c>(
    container: Option<&'c Container>,
    request: Request<'_>,
    egress: &Egress,
    entry: Option<&'a Entry>,
    now: Timestamp,
) -> Result<Grant<'a, 'c>, Denial> {
    // The rules of the identity stage are checked here again, at the last moment.
    let refuse = |rule, reason: String| Err(Denial { stage: Stage::Credentials, ..Denial::new(rule, reason) });
    // The container.
    let Some(container) = container else {
        return refuse(Rule::IdentityUnknown, "no container is registered at your address".into());
    };
    if container.expired(now) {
        return refuse(Rule::IdentityExpired, format!("the registration expired at {}", container.expires_at));
    }
    if let Some(why) = &container.blocked {
        let reason = format!("{} is blocked, {why}; its operator can register it again", container.container_id);
        return refuse(Rule::CredentialsBlocked, reason);
    }
    let Some(entry) = entry else {
        return refuse(Rule::CredentialsHost, format!("there is no credential for {}", request.host));
    };
    // The gateway itself responds for a token endpoint. The response has no secret, so every registered container may
    // have it.
    if !matches!(entry.scope, Scope::TokenEndpoint(_)) {
        if !entry.admits(container) {
            return refuse(
                Rule::CredentialsContainer,
                format!("this container may not use the credential {}", entry.name),
            );
        }
        named(container, request, egress, entry)?;
    }
    // The endpoint.
    let path = request.path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let plain = match &entry.scope {
        Scope::GitHubApi => github::canonical_api(path),
        Scope::GitHubGit | Scope::TokenEndpoint(_) => canonical(path),
        Scope::Endpoints(_) => true,
    };
    if !plain {
        return refuse(Rule::CredentialsPath, "the path is not in its canonical spelling".into());
    }
    if let Scope::Endpoints(_) = &entry.scope
        && let Err(reason) = spelling::check(path)
    {
        return refuse(Rule::CredentialsPath, reason.to_string());
    }
    let (rule, repo) = match &entry.scope {
        Scope::GitHubGit => (Rule::CredentialsGit, Some(github::git(container, request.method, path)?)),
        Scope::GitHubApi => (Rule::CredentialsApi, github::api(container, request.method, path)?),
        Scope::Endpoints(endpoints) if endpoints.iter().any(|e| e.allows(request.method.as_bytes(), path)) => {
            (Rule::CredentialsEndpoint, None)
        }
        Scope::TokenEndpoint(service) => {
            let own = service.endpoints().iter().find(|(host, _)| *host == request.host.as_str());
            match own {
                Some((_, own)) if request.method == "POST" && path == own.as_bytes() => (Rule::CredentialsStub, None),
                _ => {
                    let reason = format!(
                        "the gateway keeps the login: only the token endpoint of {} is available",
                        request.host
                    );
                    return refuse(Rule::CredentialsPath, reason);
                }
            }
        }
        Scope::Endpoints(endpoints) => {
            let known: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            let reason = format!("the credential {} is for {} only", entry.name, known.join(", "));
            let denial = Denial::new(Rule::CredentialsPath, reason);
            // Codex takes 426 for "not by WebSocket" and continues with a POST. After any other status, Codex retries
            // the WebSocket for seconds.
            return Err(if request.upgrade { Denial { status: 426, ..denial } } else { denial });
        }
    };
    // The query.
    let Some(parameters) = query_credentials(request.path, entry.parameter()) else {
        return refuse(Rule::CredentialsQuery, "a credential behind a ';' in the query cannot be removed".into());
    };
    Ok(Grant { entry, repo, rule, parameters })
}

/// Checks that a list has the host by a pattern within the host of `entry`. A suffix on a list does not permit the
/// credential of one of its hosts: another container's list may have that host by name.
///
/// # Errors
/// If no list has the host by a pattern within the host of `entry`. If the lists do not allow the request any more: this
/// worker of Envoy still has the old lists.
fn named(container: &Container, request: Request<'_>, egress: &Egress, entry: &Entry) -> Result<(), Denial> {
    let Request { host, method, path, .. } = request;
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    if let Verdict::Deny(denial) = egress.decide(&container.egress_allow, host, method.as_bytes(), path) {
        return Err(Denial { stage: Stage::Credentials, ..denial });
    }
    let own = container.egress_allow.iter().filter(|rules| rules.lists(host)).map(|rules| &rules.host);
    let by = egress.by(host);
    if own.chain(&by).any(|pattern| within(&entry.host, pattern)) {
        return Ok(());
    }
    let reason = format!(
        "{} is allowed only by a suffix; the credential {} requires the host's name on a list",
        request.host, entry.name
    );
    Err(Denial::new(Rule::CredentialsHost, reason))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::entry::{Admits, Injection, Location};
    use crate::format::Format;
    use crate::source::{Source, Subject};
    use crate::{Credentials, read};
    use policy::endpoint::Endpoint;
    use policy::{Access, AuthMode, HostPattern, HostRules};
    use secrecy::ExposeSecret;
    use std::collections::BTreeMap;
    use std::path::Path;

    const NOW: &str = "2026-12-01T00:00:00Z";

    /// The built-in credentials, with the variables `set`.
    fn built_in(set: &'static [&str]) -> Credentials {
        let get = |name: &str| set.contains(&name).then(|| format!("value-of-{name}").into());
        read(&BTreeMap::new(), Path::new(""), &get).unwrap_or_else(|at| unreachable!("{at:?}"))
    }

    /// An operator's entry for `host` and every path there, with a value.
    fn entry(name: &str, host: &str, location: Location) -> Entry {
        let format = match location {
            Location::Header(_) => Format::parse("Bearer {}").unwrap(),
            Location::Query(_) => Format::Query,
        };
        let source = Source::variables_of(vec!["OWN".into()], &format, &|_| Some("value-of-OWN".into()));
        Entry {
            name: name.into(),
            group: None,
            admits: Admits::default(),
            host: HostPattern::parse(host).unwrap(),
            scope: Scope::Endpoints(vec![Endpoint::everything(None)]),
            permits: None,
            injections: vec![Injection { source, location, format, variables: Vec::new() }],
        }
    }

    fn header() -> Location {
        Location::Header("authorization".into())
    }

    /// The built-in credentials, and three entries of an operator.
    fn all() -> Credentials {
        let mut all = built_in(&["GITHUB_TOKEN", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GOOGLE_API_KEY"]);
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let admits = Admits { labels, mode: Some(AuthMode::User), list: None };
        let list = Some(["abc".to_owned(), "d".to_owned()].into());
        let own = [
            Entry { admits, ..entry("own", "api.example.net", header()) },
            Entry { scope: Scope::Endpoints(Vec::new()), ..entry("none", "none.example.com", header()) },
            Entry {
                admits: Admits { list, ..Admits::default() },
                ..entry("listed", "*.example.org", Location::Query("sig".into()))
            },
        ];
        all.entries.extend(own.map(|entry| (entry.host.clone(), entry)));
        all
    }

    fn container() -> Container {
        serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"abc","repos":["acme/app"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap()
    }

    fn egress(pattern: &str) -> Egress {
        let mut egress = Egress::default();
        egress.add(HostPattern::parse(pattern).unwrap(), Access::full());
        egress
    }

    /// The header that is added, or the rule of the refusal.
    async fn run(container: Option<&Container>, target: &str, credentials: &Credentials) -> Result<String, Denial> {
        let (method, url) = target.split_once(' ').unwrap();
        let at = url.find('/').unwrap();
        let (host, path) = url.split_at(at);
        let host = HostName::parse(host.as_bytes()).unwrap();
        let request = Request { host: &host, method, path: path.as_bytes(), upgrade: false };
        let entry = credentials.entry(&host);
        let grant = decide(container, request, &egress(host.as_str()), entry, NOW.parse().unwrap())?;
        let subject = container.map(|container| Subject { container, repo: grant.repo });
        let (injection, value) = grant.entry.value(subject).await?;
        Ok(format!("{}: {}", location(injection), injection.format.fill(value.expose_secret())))
    }

    fn location(injection: &Injection) -> &str {
        match &injection.location {
            Location::Header(name) | Location::Query(name) => name,
        }
    }

    async fn rule(container: &Container, target: &str) -> &'static str {
        run(Some(container), target, &all()).await.map_or_else(|denial| denial.rule.name(), |_| "")
    }

    #[tokio::test]
    async fn each_provider_gets_its_credential_in_its_header_on_what_an_agent_needs() {
        let known = container();
        let git = "authorization: Basic eC1hY2Nlc3MtdG9rZW46dmFsdWUtb2YtR0lUSFVCX1RPS0VO";
        let cases = [
            ("GET github.com/acme/app/info/refs?service=git-upload-pack", git),
            ("GET github.com/acme/app.git/info/refs", git),
            ("POST github.com/ACME/App.git/git-upload-pack", git),
            ("POST github.com/acme/app.git/git-receive-pack", git),
            ("GET api.github.com/", "authorization: Bearer value-of-GITHUB_TOKEN"),
            ("GET api.github.com/user", "authorization: Bearer value-of-GITHUB_TOKEN"),
            ("GET api.github.com/repos/Acme/App/pulls?state=open", "authorization: Bearer value-of-GITHUB_TOKEN"),
            ("POST api.anthropic.com/v1/messages?beta=true", "x-api-key: value-of-ANTHROPIC_API_KEY"),
            ("POST api.anthropic.com/v1/messages/count_tokens", "x-api-key: value-of-ANTHROPIC_API_KEY"),
            ("GET api.anthropic.com/v1/models/claude-x", "x-api-key: value-of-ANTHROPIC_API_KEY"),
            ("GET api.anthropic.com/v1/models/a%20b%3A%C3%A9", "x-api-key: value-of-ANTHROPIC_API_KEY"),
            ("POST api.openai.com/v1/chat/completions", "authorization: Bearer value-of-OPENAI_API_KEY"),
            ("POST api.openai.com/v1/responses", "authorization: Bearer value-of-OPENAI_API_KEY"),
            ("POST api.openai.com/v1/embeddings", "authorization: Bearer value-of-OPENAI_API_KEY"),
            ("GET api.openai.com/v1/models", "authorization: Bearer value-of-OPENAI_API_KEY"),
            (
                "POST generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
                "x-goog-api-key: value-of-GOOGLE_API_KEY",
            ),
            ("GET generativelanguage.googleapis.com/v1/models", "x-goog-api-key: value-of-GOOGLE_API_KEY"),
        ];
        for (target, header) in cases {
            assert_eq!(run(Some(&known), target, &all()).await.unwrap(), header, "{target}");
        }
    }

    #[tokio::test]
    async fn the_other_providers_get_theirs() {
        let known = container();
        let set: &[&str] = &[
            "TAVILY_API_KEY",
            "PERPLEXITY_API_KEY",
            "SEMANTIC_SCHOLAR_API_KEY",
            "OPENROUTER_API_KEY",
            "GROQ_API_KEY",
            "MISTRAL_API_KEY",
            "XAI_API_KEY",
            "DEEPSEEK_API_KEY",
        ];
        let all = built_in(set);
        for (target, variable, off) in [
            ("POST api.tavily.com/search", "TAVILY_API_KEY", "GET /research/r_1"),
            ("POST api.perplexity.ai/chat/completions", "PERPLEXITY_API_KEY", "GET /async/chat/completions"),
            ("GET api.semanticscholar.org/graph/v1/paper/DOI:10.1/x", "", "GET /datasets/v1/release"),
            ("POST openrouter.ai/api/v1/chat/completions", "OPENROUTER_API_KEY", "GET /api/v1/keys"),
            ("POST api.groq.com/openai/v1/chat/completions", "GROQ_API_KEY", "GET /openai/v1/files"),
            ("POST api.mistral.ai/v1/fim/completions", "MISTRAL_API_KEY", "GET /v1/batch/jobs"),
            ("POST api.x.ai/v1/responses", "XAI_API_KEY", "GET /v1/responses/r_1"),
            ("POST api.deepseek.com/chat/completions", "DEEPSEEK_API_KEY", "GET /user/balance"),
        ] {
            let header = match variable {
                "" => "x-api-key: value-of-SEMANTIC_SCHOLAR_API_KEY".to_owned(),
                _ => format!("authorization: Bearer value-of-{variable}"),
            };
            assert_eq!(run(Some(&known), target, &all).await.unwrap(), header, "{target}");
            let (method, path) = off.split_once(' ').unwrap();
            let host = target.split_once(' ').unwrap().1.split_once('/').unwrap().0;
            let refused = run(Some(&known), &format!("{method} {host}{path}"), &all).await.unwrap_err();
            assert_eq!(refused.rule, "credentials.path", "{host} {off}");
        }
    }

    #[tokio::test]
    async fn nothing_else_gets_a_credential() {
        let known = container();
        let cases = [
            ("GET github.com/acme/secret/info/refs", "credentials.repo"),
            ("GET github.com/acme/app.git.git/info/refs", "credentials.repo"),
            ("POST github.com/acme/app/info/refs", "credentials.path"),
            ("TRACE github.com/acme/app/info/refs", "credentials.path"),
            ("DELETE github.com/acme/app/git-receive-pack", "credentials.path"),
            ("GET github.com/acme/app/settings", "credentials.path"),
            ("GET github.com/acme/app", "credentials.path"),
            ("GET github.com/acme/app.wiki/info/refs", "credentials.repo"),
            ("POST github.com/acme/app/git%2Dreceive%2Dpack", "credentials.path"),
            ("GET github.com/acme/app/../secret/info/refs", "credentials.path"),
            ("GET github.com//acme/app/info/refs", "credentials.path"),
            ("GET github.com/acme/app/info/refs/", "credentials.path"),
            ("GET github.com/acme/app;x/info/refs", "credentials.path"),
            ("GET api.github.com/repos/acme/secret", "credentials.repo"),
            ("GET api.github.com/repos/acme/app/../secret", "credentials.path"),
            ("GET api.github.com/repositories/20580498", "credentials.repo"),
            ("GET api.github.com/user/repos", "credentials.path"),
            ("PUT api.github.com/repos/acme/secret/pulls/1/merge", "credentials.repo"),
            ("POST api.github.com/user/repos", "credentials.path"),
            ("GET uploads.github.com/", "credentials.host"),
            ("GET api.anthropic.com/v1/messages", "credentials.path"),
            ("POST api.anthropic.com/v1/messages/batches", "credentials.path"),
            ("GET api.anthropic.com/v1/files", "credentials.path"),
            ("GET api.anthropic.com/v1/organizations/api_keys", "credentials.path"),
            ("POST api.anthropic.com/v1/messages/../files", "credentials.path"),
            ("POST api.anthropic.com/v1/m%65ssages", "credentials.path"),
            ("GET api.anthropic.com/v1/models/a%2fb", "credentials.path"),
            ("GET api.anthropic.com/v1/models/..%2ffiles", "credentials.path"),
            ("GET api.anthropic.com/v1/models/%c0%ae%c0%ae", "credentials.path"),
            ("GET api.anthropic.com/v1/models%2fa", "credentials.path"),
            ("POST generativelanguage.googleapis.com/v1beta/models/x%3AcountTokens", "credentials.path"),
            ("GET api.openai.com/v1/responses/resp_1", "credentials.path"),
            ("DELETE api.openai.com/v1/models/ft:x", "credentials.path"),
            ("GET api.openai.com/v1/files", "credentials.path"),
            ("POST api.openai.com/v1/batches", "credentials.path"),
            ("GET generativelanguage.googleapis.com/v1beta/files", "credentials.path"),
            ("POST generativelanguage.googleapis.com/v1beta/models/x:batchGenerateContent", "credentials.path"),
            ("POST generativelanguage.googleapis.com/v1beta/models/x:countTokens?a=1;key=K", "credentials.query"),
            ("GET none.example.com/", "credentials.path"),
        ];
        for (target, expected) in cases {
            assert_eq!(rule(&known, target).await, expected, "{target}");
        }
        let denial = run(Some(&known), "GET api.openai.com/v1/files", &all()).await.unwrap_err();
        assert!(denial.reason.contains("POST /v1/chat/completions"), "{}", denial.reason);
    }

    #[test]
    fn of_a_login_s_hosts_the_token_endpoint_is_answered_and_nothing_else_passes() {
        let credentials = built_in(&["CODEX_AUTH_FILE"]);
        let known = container();
        let judge = |method, host: &str, path: &str| {
            let host = HostName::parse(host.as_bytes()).unwrap();
            let request = Request { host: &host, method, path: path.as_bytes(), upgrade: false };
            let (egress, entry) = (egress(host.as_str()), credentials.entry(&host));
            let decided = decide(Some(&known), request, &egress, entry, NOW.parse().unwrap());
            decided.map_or_else(|denial| denial.rule.name(), |grant| grant.rule.name())
        };
        assert_eq!(judge("POST", "auth.openai.com", "/oauth/token"), "credentials.stub");
        assert_eq!(judge("POST", "auth.openai.com", "/oauth/token?x=1"), "credentials.stub");
        for (method, path) in [
            ("GET", "/oauth/token"),
            ("POST", "/oauth/token/"),
            ("POST", "/oauth/revoke"),
            ("POST", "/oauth/%74oken"),
            ("POST", "/api/accounts/deviceauth/usercode"),
            ("GET", "/oauth/authorize"),
        ] {
            assert_eq!(judge(method, "auth.openai.com", path), "credentials.path", "{method} {path}");
        }
        assert_eq!(judge("POST", "oauth2.googleapis.com", "/token"), "credentials.host", "there is no such login");
    }

    #[test]
    fn a_refused_web_socket_is_told_so_by_a_status_of_its_own() {
        let (credentials, known) = (all(), container());
        let host = HostName::parse(b"api.openai.com").unwrap();
        let status = |path: &str, upgrade| {
            let request = Request { host: &host, method: "GET", path: path.as_bytes(), upgrade };
            decide(Some(&known), request, &egress(host.as_str()), credentials.entry(&host), NOW.parse().unwrap())
                .map(drop)
                .map_err(|denial| denial.status)
        };
        assert_eq!(status("/v1/responses", true), Err(426));
        assert_eq!(status("/v1/responses", false), Err(403));
        assert_eq!(status("/v1/models", true), Ok(()));
    }

    #[tokio::test]
    async fn nobody_and_the_expired_and_the_narrowed_get_nothing() {
        for target in ["GET github.com/acme/app/info/refs", "POST api.openai.com/v1/responses"] {
            let refused = run(None, target, &all()).await.unwrap_err();
            assert_eq!(refused.rule, "identity.unknown");
            let mut expired = container();
            expired.expires_at = NOW.parse().unwrap();
            assert_eq!(rule(&expired, target).await, "identity.expired");
            let mut narrowed = container();
            narrowed.credentials = Some(vec![]);
            assert_eq!(rule(&narrowed, target).await, "credentials.container");
            narrowed.credentials = Some(vec!["gemini".into()]);
            assert_eq!(rule(&narrowed, target).await, "credentials.container");
            narrowed.credentials = Some(vec!["openai".into(), "github".into()]);
            assert_eq!(rule(&narrowed, target).await, "");
            narrowed.credentials = Some(vec!["openai".into(), "github-git".into()]);
            assert_eq!(rule(&narrowed, target).await, "");
            assert_eq!(rule(&narrowed, "GET api.github.com/user").await, "credentials.container");
        }
    }

    #[tokio::test]
    async fn a_blocked_container_gets_nothing() {
        let mut blocked = container();
        blocked.blocked = Some("a filter panicked".into());
        for target in ["GET github.com/acme/app/info/refs", "POST api.openai.com/v1/responses"] {
            let denial = run(Some(&blocked), target, &all()).await.unwrap_err();
            assert_eq!((denial.status, denial.rule), (403, Rule::CredentialsBlocked), "{target}");
            assert!(denial.reason.contains("a filter panicked"), "{}", denial.reason);
        }
    }

    #[tokio::test]
    async fn an_entry_may_be_for_some_containers_only() {
        let target = "POST api.example.net/search";
        let mut known = container();
        assert_eq!(rule(&known, target).await, "credentials.container");
        known.labels.insert("team".into(), "a".into());
        assert_eq!(rule(&known, target).await, "credentials.container");
        known.auth_mode = AuthMode::User;
        assert_eq!(rule(&known, target).await, "");
        known.credentials = Some(vec![]);
        assert_eq!(rule(&known, target).await, "credentials.container");
        known.credentials = None;
        known.labels.insert("team".into(), "b".into());
        assert_eq!(rule(&known, target).await, "credentials.container");
        let listed = "GET a.example.org/";
        assert_eq!(rule(&known, listed).await, "");
        known.container_id = "abcd".into();
        assert_eq!(rule(&known, listed).await, "credentials.container");
    }

    #[tokio::test]
    async fn an_oauth_token_counts_before_a_key_and_stands_in_its_own_header() {
        let both = built_in(&["CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_API_KEY"]);
        let header = run(Some(&container()), "POST api.anthropic.com/v1/messages", &both).await.unwrap();
        assert_eq!(header, "authorization: Bearer value-of-CLAUDE_CODE_OAUTH_TOKEN");
        assert!(both.placeholders().contains(&"CLAUDE_CODE_OAUTH_TOKEN"));
        assert!(!both.placeholders().contains(&"ANTHROPIC_API_KEY"), "a client would send the wrong one");
    }

    #[tokio::test]
    async fn a_missing_value_says_which_variable_to_set() {
        let mut none = built_in(&[]);
        let mut own = entry("own", "api.example.com", header());
        own.injections.iter_mut().for_each(|injection| injection.source = Source::file("/nonexistent/key".into()));
        none.entries.insert(own.host.clone(), own);
        let cases = [
            ("GET github.com/acme/app/info/refs", "GITHUB_TOKEN or GH_TOKEN"),
            ("POST api.anthropic.com/v1/messages", "CLAUDE_CODE_OAUTH_TOKEN or ANTHROPIC_API_KEY"),
            ("POST api.openai.com/v1/responses", "OPENAI_API_KEY"),
            ("GET generativelanguage.googleapis.com/v1/models", "GEMINI_API_KEY or GOOGLE_API_KEY"),
            ("GET api.example.com/", "credentials.own"),
        ];
        for (target, hint) in cases {
            let denial = run(Some(&container()), target, &none).await.unwrap_err();
            assert_eq!((denial.status, denial.rule), (502, Rule::CredentialsMissing), "{target}");
            assert!(denial.reason.contains(hint) && !denial.reason.contains("nonexistent"), "{}", denial.reason);
        }
        // A request that is refused anyway does not learn which variable is missing.
        let refused = run(Some(&container()), "GET api.openai.com/v1/files", &none).await.unwrap_err();
        assert_eq!(refused.rule, "credentials.path");
    }

    #[test]
    fn the_rules_of_a_host_hold_at_this_stage_too() {
        let (credentials, mut known) = (all(), container());
        let host = HostName::parse(b"api.openai.com").unwrap();
        let rules = |text| serde_json::from_str::<HostRules>(text).unwrap();
        let rule = |known: &Container, path: &str| {
            let request = Request { host: &host, method: "GET", path: path.as_bytes(), upgrade: false };
            let decided =
                decide(Some(known), request, &Egress::default(), credentials.entry(&host), NOW.parse().unwrap());
            decided.map_or_else(|d| (d.rule.name(), d.stage), |g| (g.rule.name(), Stage::Credentials))
        };
        known.egress_allow = vec![rules(r#"{"host":"api.openai.com","allow":["GET /v1/models/a*"]}"#)];
        assert_eq!(rule(&known, "/v1/models/a1?x=1"), ("credentials.endpoint", Stage::Credentials));
        assert_eq!(rule(&known, "/v1/models/b"), ("egress.path", Stage::Credentials));
        known.egress_allow.push(rules(r#"{"host":"*.openai.com","deny":["/v1/models/a1"]}"#));
        assert_eq!(rule(&known, "/v1/models/a1?x=1"), ("egress.path", Stage::Credentials));
    }

    #[test]
    fn a_host_that_is_allowed_by_a_suffix_has_no_credential_of_its_name() {
        let credentials = all();
        let rule = |own: &[&str], egress: &Egress, host: &str| {
            let entry = |pattern: &&str| HostRules::all(HostPattern::parse(pattern).unwrap());
            let egress_allow = own.iter().map(entry).collect();
            let container = Container { egress_allow, ..container() };
            let host = HostName::parse(host.as_bytes()).unwrap();
            let request = Request { host: &host, method: "GET", path: b"/v1/models", upgrade: false };
            decide(Some(&container), request, egress, credentials.entry(&host), NOW.parse().unwrap())
                .map_or_else(|d| d.rule.name(), |g| g.rule.name())
        };
        let (named, below, none) = (egress("api.openai.com"), egress("*.openai.com"), Egress::default());
        let (host, granted) = ("api.openai.com", "credentials.endpoint");
        assert_eq!(rule(&[], &named, host), granted);
        assert_eq!(rule(&["api.openai.com"], &below, host), granted);
        assert_eq!(rule(&["*.openai.com"], &named, host), granted);
        for (own, egress) in [(&[][..], &below), (&["*.openai.com"], &none), (&["*.openai.com"], &below)] {
            assert_eq!(rule(own, egress, host), "credentials.host", "{own:?}");
        }
        assert_eq!(rule(&[], &none, host), "egress.host", "it is on no list any more");
        // An entry for a suffix is for each host that a list allows by this suffix, by a longer one, or by name.
        for pattern in ["*.example.org", "*.b.example.org", "a.b.example.org"] {
            assert_eq!(rule(&[pattern], &none, "a.b.example.org"), granted, "{pattern}");
        }
    }
}
