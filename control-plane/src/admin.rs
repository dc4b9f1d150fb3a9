//! Access to the admin API: decided for each request before any route handles the request.
//!
//! Without a token, every program of this machine has access: the peer and the `Host` must be loopback. With a token,
//! every client that sends the token has access, from every address; the operator has to encrypt the connection. In
//! both modes, web pages in the operator's browser have no access. A page of another site sends a foreign
//! `Sec-Fetch-Site` or `Origin`. A page whose name was rebound to 127.0.0.1 sends that name as `Host`.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use base::files;
use base::hash::hex;
use config::AdminAuth;

/// The token's file in the state directory.
const TOKEN_FILE: &str = "admin-token";
/// The length in bytes of a token that the gateway creates. In the file the token is hexadecimal.
const TOKEN_BYTES: usize = 32;
/// The fewest characters of a token that the operator has written to the file.
const MIN_TOKEN: usize = 32;
/// The only path that needs no token. It reports that the process runs.
const OPEN: &str = "/healthz";
/// `Sec-Fetch-Site`, the relation between a page and its request (Fetch Metadata Request Headers, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token's file cannot be read or created.
    #[error("the admin API's token in {path} cannot be read or created")]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// The file has no valid token.
    #[error(
        "{path} has no valid token: expected one line of at least {MIN_TOKEN} letters, digits or -._~+/=; remove the file to create a new token"
    )]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

/// The clients that have access.
pub enum Access {
    /// The programs of this machine.
    Local,
    /// The clients that send the token with this SHA-256 hash.
    Token([u8; 32]),
}

impl Access {
    /// Access in the mode `auth`. Creates the token if the file doesn't exist yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(auth: AdminAuth, state_dir: &Path) -> Result<Self, Error> {
        let token = match token(state_dir) {
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => make_token(state_dir)?,
            token => token?,
        };
        Ok(match auth {
            AdminAuth::Loopback => Self::Local,
            AdminAuth::Token => Self::Token(hash(token.expose_secret().as_bytes())),
        })
    }

    /// Judges a request.
    fn admit(&self, peer: Option<IpAddr>, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        if from_a_web_page(headers) {
            return Err(Refusal::WebPage);
        }
        match self {
            Self::Local if !peer.is_some_and(|peer| peer.to_canonical().is_loopback()) => Err(Refusal::Peer),
            Self::Local if !only(headers, header::HOST).is_some_and(is_loopback) => Err(Refusal::Host),
            Self::Token(expected) if path != OPEN && !bears(headers, expected) => Err(Refusal::Token),
            Self::Local | Self::Token(_) => Ok(()),
        }
    }
}

/// `routes`, for the clients that `access` permits.
pub fn service(routes: Router, access: Access) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    routes.layer(middleware::from_fn_with_state(Arc::new(access), guard)).into_make_service_with_connect_info()
}

/// The token in the state directory.
///
/// # Errors
/// See [`Error`].
pub fn token(state_dir: &Path) -> Result<SecretString, Error> {
    let path = state_dir.join(TOKEN_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => SecretString::from(text),
        Err(source) => return Err(Error::File { path, source }),
    };
    let token = text.expose_secret().trim_end();
    // RFC 6750 section 2.1: the characters of a bearer token.
    let plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
    if !plain || token.len() < MIN_TOKEN {
        return Err(Error::NoToken { path });
    }
    Ok(token.into())
}

fn make_token(state_dir: &Path) -> Result<SecretString, Error> {
    let path = state_dir.join(TOKEN_FILE);
    let make = || {
        let mut bytes = [0; TOKEN_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let token = hex(&bytes);
        files::write_atomic(&path, format!("{token}\n").as_bytes(), 0o600)?;
        Ok(SecretString::from(token))
    };
    make().map_err(|source| Error::File { path: path.clone(), source })
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    WebPage,
    Peer,
    Host,
    Token,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::WebPage => (StatusCode::FORBIDDEN, "the admin API refuses web pages of other sites"),
            Self::Peer => (StatusCode::FORBIDDEN, "the admin API accepts only programs on its own machine"),
            Self::Host => {
                (StatusCode::FORBIDDEN, "the admin API accepts only the hosts 127.0.0.1, [::1] and localhost")
            }
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "the admin API requires `Authorization: Bearer` with the token in the state directory's admin-token",
            ),
        };
        let mut response = (status, Json(serde_json::json!({ "error": error }))).into_response();
        if self == Self::Token {
            // RFC 9110 section 11.6.1.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    match access.admit(peer, request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::info!(?peer, path = request.uri().path(), ?refusal, "the admin API refused a request");
            refusal.into_response()
        }
    }
}

/// Whether a web page of another site, or of another name of this site, could have sent the request.
fn from_a_web_page(headers: &HeaderMap) -> bool {
    let own_site = headers.get_all(SEC_FETCH_SITE).iter().all(|site| site == "none" || site == "same-origin");
    let own_origin = || match (only(headers, header::ORIGIN), only(headers, header::HOST)) {
        (Some(origin), Some(host)) => origin.strip_prefix("http://") == Some(host),
        _ => false,
    };
    !own_site || (headers.contains_key(header::ORIGIN) && !own_origin())
}

/// The value of a header that occurs exactly once and is text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Whether `host`, a name or an address with or without a port (RFC 9110 section 7.2), is a loopback name or address.
fn is_loopback(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((host, "80"));
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::from),
        None => name.parse::<Ipv4Addr>().map(IpAddr::from),
    };
    is_port && (name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback()))
}

/// Whether the request has the token with this hash.
fn bears(headers: &HeaderMap, expected: &[u8; 32]) -> bool {
    let Some((scheme, token)) = only(headers, header::AUTHORIZATION).and_then(|value| value.split_once(' ')) else {
        return false;
    };
    let given = hash(token.as_bytes());
    // Compares hashes in constant time, so the duration reveals neither the token nor its length.
    let different = given.iter().zip(expected).fold(0, |different, (a, b)| different | (a ^ b));
    scheme.eq_ignore_ascii_case("bearer") && std::hint::black_box(different) == 0
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The service on a port of its own.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub mod testing {
    use tokio::net::TcpListener;

    use super::*;

    /// Serves until the task is aborted.
    pub async fn serve(routes: Router, access: Access) -> (SocketAddr, tokio::task::JoinHandle<std::io::Result<()>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(async move { axum::serve(listener, service(routes, access)).await }))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use axum::routing::get;

    use super::testing::serve;
    use super::*;
    use base::testing::{answer, call, send};

    const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    fn local(peer: Option<IpAddr>, pairs: &[(&'static str, &str)]) -> Result<(), Refusal> {
        Access::Local.admit(peer, "/", &headers(pairs))
    }

    fn with_token(path: &str, pairs: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let elsewhere = Some(IpAddr::from([192, 0, 2, 1]));
        Access::Token(hash(TOKEN.as_bytes())).admit(elsewhere, path, &headers(pairs))
    }

    #[test]
    fn without_a_token_only_a_loopback_peer_is_let_in() {
        let host = ("host", "127.0.0.1:8081");
        for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(local(Some(peer.parse().unwrap()), &[host]), Ok(()), "{peer}");
        }
        for peer in ["172.18.0.5", "0.0.0.0", "::", "::2", "::ffff:172.18.0.5", "fe80::1"] {
            assert_eq!(local(Some(peer.parse().unwrap()), &[host]), Err(Refusal::Peer), "{peer}");
        }
        assert_eq!(local(None, &[host]), Err(Refusal::Peer), "a peer that is not known");
    }

    #[test]
    fn without_a_token_the_host_has_to_be_loopback_in_its_one_spelling() {
        for host in ["127.0.0.1:8081", "localhost:8081", "[::1]:8081", "LocalHost", "127.0.0.1", "127.1.2.3", "[::1]"] {
            assert_eq!(local(HERE, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            ":8081",
            "evil.test",
            "evil.test:8081",
            "localhost:evil.test",
            "localhost:80:80",
            "localhost:",
            "localhost:+80",
            "localhost:65536",
            "localhost.",
            "localhost.evil.test",
            "[localhost]",
            "user@localhost",
            "::1",
            "[[[::1]]]",
            "[::1",
            "::1]",
            "[::1]8081",
            "[::1]:8081:80",
            "[127.0.0.1]",
            "127.1",
            "127.0.0.1.evil.test",
            "0.0.0.0",
            "192.0.2.1:8081",
        ] {
            assert_eq!(local(HERE, &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(local(HERE, &[]), Err(Refusal::Host));
        assert_eq!(local(HERE, &[("host", "localhost"), ("host", "localhost")]), Err(Refusal::Host));
    }

    #[test]
    fn a_page_of_another_origin_is_refused_and_the_api_s_own_is_not() {
        let host = ("host", "127.0.0.1:8081");
        let bearer = format!("Bearer {TOKEN}");
        let both = |pair: (&'static str, &str)| {
            let with_token = with_token("/", &[host, ("authorization", &bearer), pair]);
            assert_eq!(local(HERE, &[host, pair]), with_token, "{pair:?}");
            with_token
        };
        for origin in
            ["https://evil.test", "null", "", "http://127.0.0.1", "http://localhost:8081", "https://127.0.0.1:8081"]
        {
            assert_eq!(both(("origin", origin)), Err(Refusal::WebPage), "{origin}");
        }
        for site in ["cross-site", "same-site", "", "None"] {
            assert_eq!(both(("sec-fetch-site", site)), Err(Refusal::WebPage), "{site}");
        }
        for own in [("origin", "http://127.0.0.1:8081"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none")]
        {
            assert_eq!(both(own), Ok(()), "{own:?}");
        }
        let twice = [host, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        assert_eq!(local(HERE, &twice), Err(Refusal::WebPage));
        let rebound = [("host", "evil.test:8081"), ("origin", "http://evil.test:8081")];
        assert_eq!(local(HERE, &rebound), Err(Refusal::Host));
        assert_eq!(with_token("/", &rebound), Err(Refusal::Token));
        let twice = [host, ("origin", "http://127.0.0.1:8081"), ("origin", "http://127.0.0.1:8081")];
        assert_eq!(local(HERE, &twice), Err(Refusal::WebPage));
    }

    #[test]
    fn with_a_token_whoever_has_it_is_let_in_and_nobody_else_but_for_the_health() {
        let host = ("host", "gateway:8081");
        for value in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}")] {
            assert_eq!(with_token("/", &[host, ("authorization", &value)]), Ok(()), "{value}");
        }
        for value in [
            String::new(),
            "Bearer".into(),
            "Bearer ".into(),
            TOKEN.into(),
            format!("Basic {TOKEN}"),
            format!("Bearer  {TOKEN}"),
            format!("Bearer {TOKEN}0"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Bearer {}", TOKEN.to_ascii_uppercase()),
        ] {
            assert_eq!(with_token("/", &[host, ("authorization", &value)]), Err(Refusal::Token), "{value}");
        }
        assert_eq!(with_token("/", &[host]), Err(Refusal::Token));
        assert_eq!(with_token("/healthz/", &[host]), Err(Refusal::Token));
        assert_eq!(with_token("/healthz", &[host]), Ok(()));
        let bearer = format!("Bearer {TOKEN}");
        let twice = [host, ("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
        assert_eq!(with_token("/", &twice), Err(Refusal::Token));
    }

    #[test]
    fn the_token_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let made = |auth| match Access::open(auth, directory.path()).unwrap() {
            Access::Local => None,
            Access::Token(hash) => Some(hash),
        };
        assert!(made(AdminAuth::Loopback).is_none());
        let path = directory.path().join(TOKEN_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() == 65 && text.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()), "{text:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(made(AdminAuth::Token), Some(hash(text.trim_end().as_bytes())));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let other = tempfile::tempdir().unwrap();
        assert!(Access::open(AdminAuth::Token, other.path()).is_ok());
        assert_ne!(std::fs::read_to_string(other.path().join(TOKEN_FILE)).unwrap(), text);
    }

    #[test]
    fn a_file_without_a_token_is_an_error_and_never_an_empty_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(TOKEN_FILE);
        for text in
            ["", "\n", "short", &TOKEN[1..], "0123456789abcdef 0123456789abcdef", "0123456789abcdef\n0123456789abcdef"]
        {
            std::fs::write(&path, text).unwrap();
            let refused = Access::open(AdminAuth::Token, directory.path());
            assert!(matches!(refused, Err(Error::NoToken { .. })), "{text:?}");
        }
        std::fs::write(&path, TOKEN).unwrap();
        assert!(Access::open(AdminAuth::Token, directory.path()).is_ok());
    }

    #[tokio::test]
    async fn every_path_is_guarded_and_a_refusal_says_why() {
        let routes = || Router::new().route("/x", get(|| async { "x" }));
        let (address, _server) = serve(routes(), Access::Local).await;
        let host = address.to_string();
        let ask = async |address, path: &str, headers: &[(&str, &str)]| {
            answer(send(address, &format!("GET {path}"), headers, "").await).await
        };
        assert_eq!(ask(address, "/x", &[("host", &host)]).await, (200, "x".to_owned()));
        for path in ["/x", "/nowhere"] {
            let (status, body) = ask(address, path, &[("host", "evil.test")]).await;
            assert!(status == 403 && body.contains("localhost"), "{status} {body}");
        }
        let (address, _server) = serve(routes(), Access::Token(hash(TOKEN.as_bytes()))).await;
        for path in ["/x", "/nowhere"] {
            let (status, body) = ask(address, path, &[("host", "gateway")]).await;
            assert!(status == 401 && body.contains("admin-token"), "{status} {body}");
        }
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(ask(address, "/x", &[("host", "gateway"), ("authorization", &bearer)]).await.0, 200);
    }

    #[tokio::test]
    async fn a_service_that_does_not_know_its_peers_lets_nobody_in() {
        let guarded = Router::new().layer(middleware::from_fn_with_state(Arc::new(Access::Local), guard));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, guarded).await });
        assert_eq!(call(address, "GET /", "").await.0, 403);
        server.abort();
    }
}
