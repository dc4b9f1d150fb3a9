//! The chain of stages for one request, as `policy explain` and `push explain` run it: identity and github by the code
//! of the filters, then credentials by the function that ext_authz calls.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use config::policy_file;
use credentials::decide::{Grant, Request, decide};
use credentials::{Credentials, Entry, Location};
use jiff::Timestamp;
use policy::github::Judge;
use policy::{Container, Explained, Policy, Rule, Whole};
use serde::{Deserialize, Serialize};

use super::{Common, Error};

/// GitHub's answer to the gateway's questions, as `explain` supposes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// GitHub confirms.
    Yes,
    /// GitHub does not confirm.
    No,
}

impl Answer {
    /// Whether GitHub confirms.
    pub(super) fn confirmed(self) -> bool {
        self == Self::Yes
    }
}

/// The policy and the credentials of a gateway with this configuration.
#[derive(Debug)]
pub(super) struct Chain {
    /// The policy.
    pub(super) policy: Policy,
    judge: Judge,
    credentials: Arc<Credentials>,
    /// The sources by the credential's name: a batch reads each file once.
    sources: RefCell<BTreeMap<String, Source>>,
}

/// The verdict on one request.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    /// The verdict.
    #[serde(flatten)]
    pub(super) explained: Explained,
    /// The credential that the gateway adds. `None` if the request is refused, or the host has no credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) credential: Option<Credential>,
}

/// A credential that the gateway adds.
#[derive(Debug, Serialize)]
pub(super) struct Credential {
    /// The credential's name.
    name: String,
    /// The rule of the credential stage that adds it. The gateway's audit line names this rule.
    rule: Rule,
    #[serde(flatten)]
    source: Source,
}

#[derive(Clone, Debug, Serialize)]
struct Source {
    /// The place in the request. `None` if the gateway answers the request itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    added_as: Option<String>,
    /// This process finds a value. A gateway without one refuses the request with `credentials.missing`.
    has_value: bool,
}

impl Chain {
    /// The chain with the policy in `file`. Without a file: the policy of this directory, or else the built-in one.
    ///
    /// # Errors
    /// If the configuration or the policy can't be read.
    pub(super) fn load(common: &Common, file: Option<&Path>) -> Result<Self, Error> {
        let config = common.config()?;
        let here = Path::new("config/policy.yaml");
        let policy = match file {
            Some(file) if !file.exists() => {
                return Err(Error::Usage(format!("--policy {}: the file does not exist", file.display())));
            }
            Some(file) => policy_file::load(file, &config.credentials)?,
            None if here.exists() => policy_file::load(here, &config.credentials)?,
            None => policy_file::read("", Path::new("the built-in policy"), &config.credentials)?,
        };
        Self::new(policy, config.credentials)
    }

    fn new(policy: Policy, credentials: Arc<Credentials>) -> Result<Self, Error> {
        let judge = Judge::new(&policy.github).map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self { policy, judge, credentials, sources: RefCell::default() })
    }

    /// Judges a request of `container` by the stages identity, github and credentials, with the guard of model requests. A
    /// refusal of the credential stage wins over the verdict `ask`.
    pub(super) fn judge(
        &self,
        whole: Whole<'_>,
        container: &Container,
        answer: Option<Answer>,
        now: Timestamp,
    ) -> Judged {
        let answer = answer.map(Answer::confirmed);
        let explained = policy::explain(whole, container, &self.policy, &self.judge, answer, now);
        let egress = &self.policy.egress;
        let concerned = |host| self.credentials.concern_host(host, egress, &container.egress_allow);
        let Some(onward) = explained.onward.as_ref().filter(|onward| concerned(&onward.host)) else {
            return explained.into();
        };
        let request = Request {
            host: &onward.host,
            method: std::str::from_utf8(whole.method).unwrap_or_default(),
            path: &onward.target,
            upgrade: whole.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade")),
        };
        match decide(Some(container), request, egress, self.credentials.entry(&onward.host), now) {
            Ok(grant) => {
                let guard = self.credentials.guard(grant.entry, container, egress, (request.method, request.path));
                let judged =
                    guard.map_or(Ok(()), |guard| model::judge(&guard, whole.headers, request.path, &[whole.body]));
                match judged {
                    Ok(()) => Judged { credential: Some(self.credential(&grant)), explained },
                    Err(denial) => explained.refused_behind(denial).into(),
                }
            }
            Err(denial) => explained.refused_behind(denial).into(),
        }
    }

    fn credential(&self, grant: &Grant<'_, '_>) -> Credential {
        let name = &grant.entry.name;
        let mut sources = self.sources.borrow_mut();
        let source = sources.entry(name.clone()).or_insert_with(|| Source::of(grant.entry)).clone();
        Credential { name: name.clone(), rule: grant.rule, source }
    }
}

impl Source {
    fn of(entry: &Entry) -> Self {
        let places: Vec<_> = entry.locations().into_iter().map(Location::to_string).collect();
        Self { added_as: (!places.is_empty()).then(|| places.join(" or ")), has_value: entry.has_value() }
    }
}

impl From<Explained> for Judged {
    fn from(explained: Explained) -> Self {
        Self { explained, credential: None }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-12-01T00:00:00Z";

    /// The chain of `policy.yaml` with the built-in credentials and the variables `set`.
    pub fn chain(yaml: &str, set: &'static [&str]) -> Chain {
        let get = |name: &str| set.contains(&name).then(|| "the-value".into());
        let credentials = Arc::new(credentials::read(&BTreeMap::new(), Path::new(""), &get).unwrap());
        let policy = policy_file::read(yaml, Path::new("policy.yaml"), &credentials).unwrap();
        Chain::new(policy, credentials).unwrap()
    }

    /// A container with the repository `acme/app`, and the members `more`.
    pub fn container(more: Value) -> Container {
        let mut record = json!({
            "container_ip": "172.18.0.5", "container_id": "box", "expires_at": "2100-01-01T00:00:00Z",
            "repos": [{"name": "acme/app", "id": 23_096_959, "default_branch": "main"}],
            "allowed_branches": ["sandbox/*"],
        });
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(record).unwrap()
    }

    /// The printed verdict on `request`, a method and a URL without the scheme.
    fn printed(
        chain: &Chain,
        container: &Container,
        request: &str,
        (headers, body): (&[(String, Vec<u8>)], &str),
        answer: Option<Answer>,
    ) -> Value {
        let (method, url) = request.split_once(' ').unwrap();
        let (authority, target) = url.split_at(url.find('/').unwrap_or(url.len()));
        let whole = Whole {
            method: method.as_bytes(),
            authority: authority.as_bytes(),
            target: target.as_bytes(),
            headers,
            body: body.as_bytes(),
        };
        let text = serde_json::to_string(&chain.judge(whole, container, answer, NOW.parse().unwrap())).unwrap();
        assert!(!text.contains("the-value"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn rule(chain: &Chain, container: &Container, request: &str) -> String {
        let said = printed(chain, container, request, (&[], ""), None);
        format!("{} {}", said["verdict"].as_str().unwrap(), said["rule"].as_str().unwrap())
    }

    #[test]
    fn the_credential_stage_refuses_what_the_gateway_would() {
        let container = container(json!({"egress_allow": ["api.openai.com", "example.com"]}));
        for set in [&[][..], &["OPENAI_API_KEY"]] {
            let chain = chain("", set);
            let rule = |request| rule(&chain, &container, request);
            assert_eq!(rule("GET api.openai.com/v1/files"), "deny credentials.path");
            assert_eq!(rule("POST api.openai.com/v1/responses"), "allow egress.container");
            assert_eq!(rule("GET example.com/v1/files"), "allow egress.container");
            assert_eq!(rule("CONNECT api.openai.com:443"), "allow request.connect");
            let said = printed(&chain, &container, "POST api.openai.com/v1/responses", (&[], ""), None);
            let expected = json!({
                "name": "openai", "rule": "credentials.endpoint", "added_as": "header authorization",
                "has_value": !set.is_empty(),
            });
            assert_eq!(said["credential"], expected);
            let upgrade = [("Upgrade".to_owned(), b"websocket".to_vec())];
            let said = printed(&chain, &container, "GET api.openai.com/v1/responses", (&upgrade, ""), None);
            assert_eq!((&said["stage"], &said["status"]), (&json!("credentials"), &json!(426)));
            assert!(said.get("credential").is_none());
        }
    }

    #[test]
    fn the_rules_of_a_host_come_before_the_paths_of_its_credential() {
        let policy = "egress: [{host: api.openai.com, allow: [POST /v1/responses, GET /v1/files]}]";
        let (chain, container) = (chain(policy, &["OPENAI_API_KEY"]), container(json!({})));
        for (request, expected) in [
            ("POST api.openai.com/v1/responses", "allow egress.host"),
            ("POST api.openai.com/v1/chat/completions", "deny egress.path"),
            ("GET api.openai.com/v1/files", "deny credentials.path"),
            // A tunnel has no path.
            ("CONNECT api.openai.com:443", "allow request.connect"),
            ("CONNECT example.com:443", "deny egress.host"),
        ] {
            assert_eq!(rule(&chain, &container, request), expected, "{request}");
        }
        let said = printed(&chain, &container, "POST api.openai.com/v1/chat/completions", (&[], ""), None);
        let hint = r#""POST /v1/chat/completions" under allow would allow it"#;
        assert!(said["reason"].as_str().unwrap().contains(hint), "{said}");
    }

    #[test]
    fn a_host_of_a_suffix_goes_where_its_route_goes() {
        let files = "GET api.openai.com/v1/files";
        let below = container(json!({"egress_allow": ["*.openai.com"]}));
        assert_eq!(rule(&chain("", &[]), &below, files), "allow egress.container");
        assert_eq!(
            rule(&chain("", &["OPENAI_API_KEY"]), &below, files),
            "deny credentials.path",
            "the policy lists it"
        );
        let none = container(json!({}));
        assert_eq!(rule(&chain("egress: ['*.openai.com']", &[]), &none, files), "allow egress.host");
    }

    #[test]
    fn a_call_to_github_is_refused_by_the_credential_stage_with_its_operation() {
        let chain = chain("", &[]);
        let pulls = "GET api.github.com/repos/acme/app/pulls";
        let said = printed(&chain, &container(json!({})), pulls, (&[], ""), None);
        assert_eq!((&said["rule"], &said["credential"]["name"]), (&json!("github.read-repo"), &json!("github-api")));
        let narrowed = container(json!({"credentials": ["openai"]}));
        let said = printed(&chain, &narrowed, pulls, (&[], ""), None);
        let expected = (&json!("deny"), &json!("credentials.container"), &json!("pulls/list"), &json!("read-repo"));
        assert_eq!((&said["verdict"], &said["rule"], &said["operation"], &said["class"]), expected);
    }

    #[test]
    fn a_question_is_answered_and_a_refusal_behind_it_wins() {
        let (chain, own) = (chain("", &[]), container(json!({})));
        let narrowed = container(json!({"credentials": []}));
        let query = "mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}";
        let input = json!({"subjectId": "PR_kwDOAWBuf84Bh4UQ", "body": "a comment"});
        let body = json!({"query": query, "variables": {"i": input}}).to_string();
        let headers = [("content-type".to_owned(), b"application/json".to_vec())];
        let rule = |container: &Container, answer| {
            let said = printed(&chain, container, "POST api.github.com/graphql", (&headers, &body), answer);
            format!("{} {} {}", said["verdict"].as_str().unwrap(), said["rule"].as_str().unwrap(), said["ask"])
        };
        let ask = r#"[{"node_id":"PR_kwDOAWBuf84Bh4UQ","purpose":"write"}]"#;
        assert_eq!(rule(&own, None), format!("ask github.write-collab {ask}"));
        assert_eq!(rule(&own, Some(Answer::Yes)), "allow github.write-collab null");
        assert_eq!(rule(&own, Some(Answer::No)), "deny github.node null");
        assert_eq!(rule(&narrowed, None), "deny credentials.container null");
        assert_eq!(rule(&narrowed, Some(Answer::Yes)), "deny credentials.container null");
        assert_eq!(rule(&narrowed, Some(Answer::No)), "deny github.node null");
    }
}
