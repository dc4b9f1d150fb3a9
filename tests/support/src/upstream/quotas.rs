//! GitHub's primary rate limits: a number of calls for each resource, told in the headers of each answer.

use super::sites::{Body, json};
use hyper::Response;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The length of a window.
const WINDOW: Duration = Duration::from_secs(3_600);

/// The quotas that are set.
#[derive(Default)]
pub struct Quotas(Mutex<HashMap<&'static str, Quota>>);

struct Quota {
    limit: u64,
    remaining: u64,
    reset: u64,
}

impl Quotas {
    /// Begins a window with these numbers.
    pub fn set(&self, resource: &'static str, limit: u64, remaining: u64) {
        let reset = (SystemTime::now() + WINDOW).duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.0.lock().unwrap().insert(resource, Quota { limit, remaining, reset });
    }

    /// Counts a call to `path`. Returns the refusal if no call is left.
    pub fn spend(&self, path: &str) -> Option<Response<Body>> {
        let left = match self.0.lock().unwrap().get_mut(resource(path)) {
            Some(quota) if quota.remaining > 0 => {
                quota.remaining -= 1;
                true
            }
            Some(_) => false,
            None => true,
        };
        (!left).then(|| self.tell(path, json(403, &json!({"message": "API rate limit exceeded for user ID 1."}))))
    }

    /// `answer` with the headers about the quota of `path`.
    pub fn tell(&self, path: &str, mut answer: Response<Body>) -> Response<Body> {
        let name = resource(path);
        if let Some(Quota { limit, remaining, reset }) = self.0.lock().unwrap().get(name) {
            let headers = answer.headers_mut();
            for (header, value) in [("limit", limit), ("remaining", remaining), ("reset", reset)] {
                headers.insert(
                    format!("x-ratelimit-{header}").parse::<hyper::header::HeaderName>().unwrap(),
                    (*value).into(),
                );
            }
            headers.insert("x-ratelimit-resource", name.parse().unwrap());
        }
        answer
    }
}

fn resource(path: &str) -> &'static str {
    match path {
        "/graphql" => "graphql",
        _ => "core",
    }
}
