//! The request to a token endpoint, and the meaning of the response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use policy::HostName;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::provider::Service;
use super::tokens::Renewed;
use base::percent;
use outbound::dns::Resolver;
use outbound::https::{self, Limits, Place};
use outbound::upstreams::Upstreams;

/// The time limit for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The time limit for a request, including the connection. The limit is long, because a lost response may hold the only
/// valid refresh token.
const DEADLINE: Duration = Duration::from_secs(70);

/// The longest response, in bytes. A response has some KiB.
const MAX_ANSWER: usize = 256 << 10;

const LIMITS: Limits = Limits { at_a_time: 1, connect: CONNECT, deadline: DEADLINE, max_answer: MAX_ANSWER };

/// Errors (RFC 6749 section 5.2, and OpenAI's own) after which a retry is useless.
const FINAL: [&str; 12] = [
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_refresh_token",
    "token_expired",
    "refresh_token_expired",
    "refresh_token_reused",
    "refresh_token_invalidated",
    "refresh_token_revoked",
    "app_session_terminated",
];

/// The OAuth client that the gateway is to a token endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret, if any.
    #[serde(serialize_with = "exposed_where_there_is_one")]
    pub secret: Option<SecretString>,
}

/// Serializes a secret in plain text. Only for the pipes of the process that refreshes a login.
pub(super) fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

fn exposed_where_there_is_one<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => exposed(secret, serializer),
        None => serializer.serialize_none(),
    }
}

/// The reason why there is no new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshError {
    /// The request can be retried.
    ForNow(String),
    /// A retry is useless. The user must log in again.
    ForGood(String),
}

/// A token endpoint and the gateway's OAuth client there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    service: Service,
    client: Client,
    host: HostName,
    place: Place,
    roots_pem: String,
}

impl Endpoint {
    /// The endpoint of `service`.
    ///
    /// # Errors
    /// If the CA certificates can't be read.
    pub fn of(
        service: Service,
        client: Client,
        upstreams: &Upstreams,
        resolver: Arc<Resolver>,
    ) -> anyhow::Result<Self> {
        let host = HostName::parse(service.endpoint().0.as_bytes())?;
        let (place, roots) = upstreams.place(&host, Place::Public(resolver));
        // This check reports unusable CA certificates at start, before the first refresh.
        https::Client::new(host.clone(), place.clone(), roots, LIMITS)?;
        Ok(Self { service, client, host, place, roots_pem: roots.to_owned() })
    }

    /// The data for a request to the endpoint, with addresses resolved now.
    ///
    /// # Errors
    /// If the endpoint's name can't be resolved: [`RefreshError::ForNow`].
    pub async fn question(&self) -> Result<Question, RefreshError> {
        let (service, client, roots_pem) = (self.service, self.client.clone(), self.roots_pem.clone());
        match self.place.addresses(&self.host).await {
            Ok(addresses) => Ok(Question { service, client, addresses, proxied: self.place.is_proxied(), roots_pem }),
            Err(error) => Err(RefreshError::ForNow(format!("{} cannot be resolved: {error}", self.host))),
        }
    }
}

/// The data for a request to a token endpoint, except the refresh token.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    service: Service,
    client: Client,
    /// The addresses of the service's endpoint, or of the proxy that leads to it.
    addresses: Vec<SocketAddr>,
    /// The addresses are the proxy's.
    proxied: bool,
    /// The CA certificates that the endpoint's certificate must chain to.
    roots_pem: String,
}

impl Question {
    /// Requests a new token.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn ask(&self, token: &SecretString) -> Result<Renewed, RefreshError> {
        let (name, path) = self.service.endpoint();
        let (kind, body) = body(self.service, &self.client, token);
        let host = HostName::parse(name.as_bytes()).map_err(|error| RefreshError::ForNow(error.to_string()))?;
        let place = Place::Known { addresses: self.addresses.clone(), proxied: self.proxied };
        let headers =
            [(ACCEPT, HeaderValue::from_static("application/json")), (CONTENT_TYPE, HeaderValue::from_static(kind))];
        let answered = async {
            let client = https::Client::new(host, place, &self.roots_pem, LIMITS)?;
            // Without retry: the token endpoint may already have invalidated the refresh token.
            client.call_once(Method::POST, path, headers, body).await
        };
        let answer = answered.await.map_err(|error| RefreshError::ForNow(error.to_string()))?;
        read(name, answer.status, &answer.body)
    }
}

/// The content type and the body of the request. Three places in this directory expose a secret: this function,
/// [`exposed`] and [`super::home::Room::fill`].
fn body(service: Service, client: &Client, token: &SecretString) -> (&'static str, Bytes) {
    let mut fields = vec![
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose_secret()),
        ("client_id", client.id.as_str()),
    ];
    if let Some(secret) = &client.secret {
        fields.push(("client_secret", secret.expose_secret()));
    }
    match service {
        Service::Google => {
            let pairs: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}={}", percent::encode(value))).collect();
            ("application/x-www-form-urlencoded", pairs.join("&").into())
        }
        Service::OpenAi | Service::Anthropic => {
            let fields: Value = fields.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
            ("application/json", fields.to_string().into())
        }
    }
}

/// Reads a response. The error message quotes only error codes that are in [`FINAL`], and no other part of the body.
fn read(host: &str, status: u16, body: &[u8]) -> Result<Renewed, RefreshError> {
    if status == 200 {
        return Renewed::read(body)
            .ok_or_else(|| RefreshError::ForNow(format!("{host} returned status 200 without a token")));
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    // {"error": "code"} is RFC 6749's, {"error": {"code": …}} and {"code": …} are OpenAI's.
    let told = [&body["error"], &body["error"]["code"], &body["error"]["type"], &body["code"]];
    let known = FINAL.iter().find(|code| told.iter().any(|told| told.as_str() == Some(code)));
    match known {
        Some(code) if matches!(status, 400 | 401 | 403) => {
            Err(RefreshError::ForGood(format!("{host} returned {status} {code}")))
        }
        _ => Err(RefreshError::ForNow(format!("{host} returned status {status}"))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_asked_in_its_own_form() {
        let client = Client { id: "id".into(), secret: Some("s/1".into()) };
        let asked = |service| {
            let (kind, body) = body(service, &client, &"1//r+t".into());
            (kind, String::from_utf8(body.to_vec()).unwrap())
        };
        let (kind, text) = asked(Service::Google);
        assert_eq!(kind, "application/x-www-form-urlencoded");
        assert_eq!(text, "grant_type=refresh_token&refresh_token=1%2F%2Fr%2Bt&client_id=id&client_secret=s%2F1");
        for service in [Service::OpenAi, Service::Anthropic] {
            let (kind, text) = asked(service);
            assert_eq!(kind, "application/json");
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&body["grant_type"], &body["refresh_token"]), (&"refresh_token".into(), &"1//r+t".into()));
        }
    }

    #[test]
    fn only_an_error_on_our_list_is_final_and_nothing_else_of_an_answer_is_told() {
        for (status, body, expected) in [
            (400, r#"{"error": "invalid_grant", "error_description": "secret"}"#, "good invalid_grant"),
            (401, r#"{"error": {"code": "refresh_token_reused", "message": "secret"}}"#, "good refresh_token_reused"),
            (401, r#"{"code": "refresh_token_expired"}"#, "good refresh_token_expired"),
            (401, r#"{"error": "invalid_client"}"#, "good invalid_client"),
            (400, r#"{"error": "secret"}"#, "now 400"),
            (401, "secret", "now 401"),
            (500, r#"{"error": "invalid_grant"}"#, "now 500"),
            (429, r#"{"error": "rate_limit"}"#, "now 429"),
            (200, r#"{"secret": 1}"#, "now 200"),
        ] {
            let (kind, text) = match read("h", status, body.as_bytes()).unwrap_err() {
                RefreshError::ForGood(text) => ("good", text),
                RefreshError::ForNow(text) => ("now", text),
            };
            let (expected, what) = expected.split_once(' ').unwrap();
            assert!(kind == expected && text.contains(what) && !text.contains("secret"), "{status} {body}: {text}");
        }
    }
}
