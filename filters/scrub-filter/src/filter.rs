//! Envoy's callbacks.
//!
//! **Invariant:** if a request carries a credential, every header and trailer of its response is compared with the
//! credential before it is forwarded.

use crate::secret::{Place, Secret};
use envoy_host::{self as host, AUDIT, Action, Level, RootCallbacks, StreamCallbacks};
use policy::{Denial, Form, Note, Rule, render};

/// The property in which the credential stage names the place of the credential in the request.
const PLACE: [&str; 4] = ["metadata", "filter_metadata", "envoy.filters.http.ext_authz", "place"];

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
    /// The credential in the request. Kept because Envoy doesn't return the request's headers during the response.
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
                refuse();
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

/// The refusal of a request whose credential cannot be read back. The request is not sent upstream,
/// because its response could not be compared with the credential.
fn denial() -> Denial {
    Denial::new(Rule::CredentialsScrub, "the gateway could not read back the credential that it added")
}

/// Refuses the request at hand by [`denial`].
fn refuse() {
    let note = host::property(&AUDIT).ok().flatten().unwrap_or_default();
    let note = Note::read(&note).unwrap_or_default().refused(&denial());
    if let Err(error) = host::set_property(&AUDIT, &note.to_bytes()) {
        host::log(Level::Error, &format!("scrub: the refusal is sent without its audit note: {error}"));
    }
    let value = |name: &str| host::request_header(name).ok().flatten().unwrap_or_default();
    let form = Form::of(&value(":authority"), &value(":path"));
    host::refuse(&render(&denial(), form, note.request_id()));
}

/// Why the credential could not be read.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("BUG: the place of the credential can't be parsed")]
    Place,
    #[error("BUG: the request has no credential at the place that the credential stage named")]
    NoSecret,
}

/// The credential that was added to the request.
fn added() -> Result<Option<Secret>, Broken> {
    read_back(host::property(&PLACE)?.as_deref(), host::request_header)
}

/// Reads the credential from its `place` in the request. `header` returns the request's headers. Returns `None` if
/// there is no place: no credential was added.
fn read_back(
    place: Option<&[u8]>,
    header: impl Fn(&str) -> Result<Option<Vec<u8>>, host::Error>,
) -> Result<Option<Secret>, Broken> {
    let Some(place) = place else { return Ok(None) };
    let place = std::str::from_utf8(place).ok().and_then(Place::parse).ok_or(Broken::Place)?;
    let secret = match place {
        Place::Header { name, basic, before, after } => {
            header(name)?.and_then(|value| Secret::of_header(&value, basic, before, after))
        }
        Place::Query { name } => header(":path")?.and_then(|path| Secret::of_query(&path, name)),
    };
    secret.ok_or(Broken::NoSecret).map(Some)
}

impl Stream {
    /// Removes the fields that contain the credential. Resets the request if that fails.
    fn scrub(
        &self,
        fields: fn() -> Result<Fields, host::Error>,
        remove: fn(&str) -> Result<(), host::Error>,
    ) -> Action {
        let Some(secret) = &self.secret else { return Action::Continue };
        let scrubbed = fields().and_then(|fields| {
            fields.iter().filter(|(_, value)| secret.is_in(value)).try_for_each(|(name, _)| {
                host::log(
                    Level::Warn,
                    &format!("scrub: removed the field {name} from a response, because it contained the credential"),
                );
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn header(name: &str) -> Result<Option<Vec<u8>>, host::Error> {
        Ok(match name {
            "authorization" => Some(b"Bearer s3cret".to_vec()),
            ":path" => Some(b"/v1?key=s3cret".to_vec()),
            _ => None,
        })
    }

    #[test]
    fn a_credential_that_cannot_be_read_back_ends_the_request() {
        assert!(read_back(None, header).unwrap().is_none(), "no credential was added");
        for place in ["header authorization 7 0", "query key"] {
            assert!(read_back(Some(place.as_bytes()), header).unwrap().unwrap().is_in(b"a s3cret b"), "{place}");
        }
        for place in ["", "\u{fffd}", "elsewhere", "header x-api-key 0 0", "header authorization 70 0", "query sig"] {
            assert!(read_back(Some(place.as_bytes()), header).is_err(), "{place:?}");
        }
        let gone = |_: &str| Err(host::Error::Unreadable { call: "get_header_map_value" });
        assert!(read_back(Some(b"query key"), gone).is_err());
        let refusal = render(&denial(), Form::Json, "7");
        assert_eq!((refusal.status, refusal.rule), (502, Rule::CredentialsScrub));
        assert_eq!(
            String::from_utf8(refusal.body).unwrap(),
            r#"{"error":"the gateway could not read back the credential that it added","rule":"credentials.scrub","stage":"credentials","request_id":"7"}"#
                .to_owned()
                + "\n"
        );
    }
}
