//! The gateway's own credentials, GitHub's first.

use std::sync::Arc;

use super::{Context, Finding};
use base::telemetry::GithubCall;
use credentials::placeholder;
use github::client;

/// The variables of the built-in GitHub credential, in this order.
const GITHUB_VARIABLES: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

/// Whether the configured sources work, and a GitHub token is set in this shell.
pub fn credentials(context: &Context) -> Vec<Finding> {
    let config = &context.config;
    let mut problems = config.credentials.problems();
    problems.extend(config.credentials.logins_that_fail());
    if !problems.is_empty() {
        return vec![Finding::warn(
            "credentials",
            problems.join("; "),
            "correct `credentials:` in the configuration, or the source",
        )];
    }
    let app = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let names = GITHUB_VARIABLES.join(" or ");
    let set = GITHUB_VARIABLES.iter().find_map(|name| std::env::var(name).ok().map(|value| (name, value)));
    vec![match set {
        Some((name, value)) if placeholder::is_in(&value) => {
            let found = format!("{name} holds the placeholder of a sandbox");
            Finding::warn("credentials", found, "this shell has a sandbox's variables; set the token itself")
        }
        Some((name, value)) if !value.trim().is_empty() => Finding::ok("credentials", format!("{name} is set here")),
        _ if app("GITHUB_APP_ID") => Finding::ok("credentials", "GITHUB_APP_ID is set here"),
        _ => Finding::warn(
            "credentials",
            "no GitHub token in this shell",
            format!(
                "set {names}, or name another source in `credentials:`; else a gateway started from here adds no token"
            ),
        ),
    }]
}

/// Checks the token with GitHub. Returns no finding if there is no token, because [`credentials`] reports that.
pub fn token(context: &Context) -> Vec<Finding> {
    let config = &context.config;
    let upstreams = config.upstreams_of_a_command();
    let request = || {
        let client = client::Client::of_command(&upstreams, Arc::clone(&config.credentials))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let response = runtime.block_on(client.get(GithubCall::Repository, None, "/"));
        // A shutdown in the background doesn't wait for a DNS lookup under way.
        runtime.shutdown_background();
        response
    };
    match request() {
        Ok(response) => vec![judge(response.status, response.scopes.as_deref())],
        Err(client::Error::NoCredential(_)) => Vec::new(),
        Err(error) => {
            vec![Finding::warn("github", format!("the token cannot be checked: {error}"), "check the network")]
        }
    }
}

/// The finding from GitHub's response to `GET /` with the token. `scopes` are the scopes of a classic token. A response
/// to another token has no scopes.
fn judge(status: u16, scopes: Option<&str>) -> Finding {
    let scopes: Option<Vec<&str>> = scopes.map(|scopes| scopes.split(',').map(str::trim).collect());
    // `admin:org`, `admin:repo_hook` and the like are rights over settings, keys and hooks.
    let wide = |scope: &&str| *scope == "workflow" || scope.starts_with("admin:");
    let wide = scopes.as_ref().map(|scopes| scopes.iter().copied().filter(wide).collect::<Vec<_>>().join(", "));
    match (status, wide) {
        (401, _) => Finding::fail("github", "GitHub rejects the token", "create a new token"),
        (200, Some(wide)) if !wide.is_empty() => Finding::fail(
            "github",
            format!(
                "the token has {wide}: with `workflow` a push can add a workflow, which runs with the repository's secrets; with `admin:…` the token changes settings"
            ),
            "use a GitHub App or a token without these scopes, so that the gateway is not the only lock",
        ),
        (200, Some(_)) => Finding::ok("github", "the token may not write workflows or change settings"),
        (200, None) => Finding::ok(
            "github",
            "GitHub accepts the token; whether a fine-grained token may write workflows is unknown here, see the token's page on GitHub",
        ),
        (status, _) => Finding::warn("github", format!("api.github.com returned status {status}"), "try again later"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_token_that_may_write_workflows_or_settings_is_a_failure() {
        for (status, scopes, state, word) in [
            (200, Some("repo, workflow"), State::Fail, "has workflow:"),
            (200, Some("workflow"), State::Fail, "has workflow:"),
            (
                200,
                Some("admin:org, repo, workflow, admin:repo_hook"),
                State::Fail,
                "has admin:org, workflow, admin:repo_hook:",
            ),
            (200, Some("repo,admin:public_key"), State::Fail, "has admin:public_key:"),
            (200, Some("repo, workflows:read, write:org"), State::Ok, "may not write workflows"),
            (200, Some(""), State::Ok, "may not"),
            (200, None, State::Ok, "is unknown here"),
            (401, None, State::Fail, "rejects"),
            (503, None, State::Warn, "503"),
        ] {
            let finding = judge(status, scopes);
            assert!(finding.state == state && finding.found.contains(word), "{finding:?}");
        }
    }
}
