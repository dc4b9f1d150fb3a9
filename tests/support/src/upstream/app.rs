//! A GitHub App at this GitHub, installed for every owner. A request with a token of the form of its JWT gets tokens.
//! Each token is valid only for the requested repositories.

use super::sites::{self, Body, number};
use super::{Shared, Upstream};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Response;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// An issued token.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token.
    pub token: String,
    /// The installation that issued it.
    pub installation: u32,
    /// The request, unchanged.
    pub asked: Value,
    /// The repositories for which it is valid.
    pub repos: Vec<String>,
}

/// The issued tokens, and the deviations that a test has set.
#[derive(Default)]
pub(super) struct App {
    minted: Mutex<Vec<Minted>>,
    /// Repositories that every token has beside the requested ones.
    beside: Mutex<Vec<String>>,
}

impl Upstream {
    /// Every token of an App so far.
    pub fn minted(&self) -> Vec<Minted> {
        self.shared.app.minted.lock().unwrap().clone()
    }

    /// Adds these repositories to every later token of an App.
    pub fn set_minted_beside(&self, repos: &[&str]) {
        *self.shared.app.beside.lock().unwrap() = repos.iter().map(|repo| (*repo).to_owned()).collect();
    }
}

impl App {
    /// Whether `authorization`, Bearer or Basic, has a token that is valid for `repo`. Without `repo`, any issued token
    /// counts.
    pub(super) fn admits(&self, authorization: &[u8], repo: Option<&str>) -> bool {
        let shown = |token: &str| {
            let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{token}")));
            authorization == format!("Bearer {token}").as_bytes() || authorization == basic.as_bytes()
        };
        let good = |minted: &Minted| {
            repo.is_none_or(|repo| minted.repos.iter().any(|own| own.eq_ignore_ascii_case(repo)))
                && shown(&minted.token)
        };
        self.minted.lock().unwrap().iter().any(good)
    }
}

/// The response to one of the App's own calls. `None` without a JWT, or for other paths.
pub(super) fn answer(shared: &Shared, path: &str, authorization: &[u8], body: &[u8]) -> Option<Response<Body>> {
    let jwt = authorization.starts_with(b"Bearer eyJ") && authorization.iter().filter(|b| **b == b'.').count() == 2;
    if !jwt {
        return None;
    }
    if let Some(owner) = path.strip_prefix("/repos/").and_then(|rest| rest.strip_suffix("/installation")) {
        let owner = owner.split('/').next().unwrap();
        return Some(sites::json(200, &json!({"id": number(owner), "account": {"login": owner}})));
    }
    let installation = path.strip_prefix("/app/installations/")?.strip_suffix("/access_tokens")?;
    let installation: u32 = installation.parse().ok()?;
    let asked: Value = serde_json::from_slice(body).ok()?;
    let known = shared.repositories.lock().unwrap();
    let own = known.keys().filter(|name| number(name.split('/').next().unwrap()) == installation);
    let wanted = |name: &&String| {
        let name = name.split_once('/').unwrap().1;
        let names = asked["repositories"].as_array();
        // Without a list GitHub's token is valid for all repositories.
        names.is_none_or(|names| names.iter().any(|wanted| wanted.as_str() == Some(name)))
    };
    let mut repos: Vec<String> = own.filter(wanted).cloned().collect();
    repos.sort();
    repos.extend(shared.app.beside.lock().unwrap().iter().cloned());
    let mut minted = shared.app.minted.lock().unwrap();
    let token = format!("ghs_fixture_{}_w8Rq5Tz1", minted.len());
    let until = jiff::Timestamp::try_from(SystemTime::now() + Duration::from_secs(3_599)).unwrap();
    let repositories: Vec<Value> = repos.iter().map(|name| json!({"full_name": name, "id": number(name)})).collect();
    let body = json!({
        "token": token, "expires_at": until, "permissions": asked["permissions"], "repositories": repositories,
        "repository_selection": if asked["repositories"].is_array() { "selected" } else { "all" },
    });
    minted.push(Minted { token, installation, asked, repos });
    Some(sites::json(201, &body))
}
