//! Envoy's callbacks.
//!
//! **Invariant:** of an answer to a request with a credential no header and no trailer goes on that was not compared
//! with it.

use crate::secret::{Place, Secret};
use envoy_host::{self as host, Action, Level, Response, RootCallbacks, StreamCallbacks};

/// Where the credential stage says in which place it has put the credential.
const PLACE: [&str; 4] = ["metadata", "filter_metadata", "envoy.filters.http.ext_authz", "place"];
const FAILED: Response<'_> = Response {
    status: 502,
    content_type: "application/json",
    rule: "credentials.scrub",
    body: br#"{"error":"denied","rule":"credentials.scrub","reason":"the gateway could not read back the credential that it added"}"#,
};

/// The root context.
pub struct Root;

impl RootCallbacks for Root {
    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream::default())
    }
}

/// Headers or trailers, in order.
type Fields = Vec<(String, Vec<u8>)>;

/// The context of one request.
#[derive(Default)]
struct Stream {
    /// The credential in it. At the time of the answer Envoy gives the request's headers no more.
    secret: Option<Secret>,
}

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, _end: bool) -> Action {
        match added() {
            Ok(secret) => {
                self.secret = secret;
                Action::Continue
            }
            Err(error) => {
                host::log(Level::Error, &format!("scrub: {error}"));
                // If even that fails, the request is never sent.
                let _held = host::respond(&FAILED);
                Action::Pause
            }
        }
    }

    fn on_response_headers(&mut self, _end: bool) -> Action {
        self.scrub(host::response_headers, host::remove_response_header)
    }

    fn on_response_trailers(&mut self) -> Action {
        self.scrub(host::response_trailers, host::remove_response_trailer)
    }
}

/// Why the credential could not be read.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("BUG: where the credential was put can't be read")]
    Place,
    #[error("BUG: there is no credential where it was put")]
    NoSecret,
}

/// The credential that was added to the request.
fn added() -> Result<Option<Secret>, Broken> {
    let Some(place) = host::property(&PLACE)? else { return Ok(None) };
    let place = std::str::from_utf8(&place).ok().and_then(Place::parse).ok_or(Broken::Place)?;
    let secret = match place {
        Place::Header { name, basic, before, after } => {
            host::request_header(name)?.and_then(|value| Secret::of_header(&value, basic, before, after))
        }
        Place::Query { name } => host::request_header(":path")?.and_then(|path| Secret::of_query(&path, name)),
    };
    secret.ok_or(Broken::NoSecret).map(Some)
}

impl Stream {
    /// Removes the fields that hold the credential, and ends the request where that can't be done.
    fn scrub(
        &self,
        fields: fn() -> Result<Fields, host::Error>,
        remove: fn(&str) -> Result<(), host::Error>,
    ) -> Action {
        let Some(secret) = &self.secret else { return Action::Continue };
        let scrubbed = fields().and_then(|fields| {
            fields.iter().filter(|(_, value)| secret.is_in(value)).try_for_each(|(name, _)| {
                host::log(Level::Warn, &format!("scrub: the field {name} of an answer held the credential: removed"));
                remove(name)
            })
        });
        match scrubbed {
            Ok(()) => Action::Continue,
            Err(error) => {
                host::log(Level::Error, &format!("scrub: {error}"));
                host::reset_request();
                Action::Pause
            }
        }
    }
}
