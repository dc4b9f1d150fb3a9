//! The gateway's own check in the credential stage: the marks of the earlier stages, and the seal.

use crate::state::{Side, with};
use policy::mark::{GITHUB, IDENTITY, Judged, Marks, SEALED, seals};
use policy::{Form, HostName, Refusal, render};
use std::net::SocketAddr;

/// The header in which a credential for the header `name` stands behind the credential stage. `None`: the request goes
/// out without a credential.
///
/// # Errors
/// If a stage has left no mark on the request of the stream `id`.
pub(crate) fn place(id: usize, name: &str) -> Result<Option<String>, Refusal> {
    with(|state| {
        let source: Option<SocketAddr> = state.streams[id].source.parse().ok();
        let generation = source.and_then(|source| state.generations.get(&source.ip()).copied()).unwrap_or_default();
        let stream = &mut state.streams[id];
        let headers = stream.half(Side::Request).headers.clone().unwrap_or_default();
        let value = |name: &str| headers.iter().find(|(have, _)| have == name).map_or(&[][..], |(_, value)| value);
        let host = HostName::parse(value(":authority")).expect("a plain host");
        let mark = |name: &str| stream.properties.get(name.as_bytes()).map_or(&[][..], Vec::as_slice);
        let marks = Marks { identity: mark(IDENTITY), github: mark(GITHUB) };
        let (method, path) = (value(":method"), value(":path"));
        let request = Judged { generation, host: &host, method, path };
        let refused = |denial| render(&denial, Form::of(host.as_str().as_bytes(), path), "-");
        if marks.are_public() {
            return marks.check_public(request).map(|()| None).map_err(refused);
        }
        marks.check(request).map_err(refused)?;
        Ok(Some(if seals(&host) { SEALED } else { name }.to_owned()))
    })
}
