//! The shell's part of a flow ([`policy::flow`]). Reads the facts that a flow needs, and carries out its steps.

use crate::{
    AUDIT, Action, CONTAINER, Error, Level, drop_request_body, log, property, refuse, remove_request_header,
    remove_response_header, request_header, request_headers, reset_request, resume_request, resume_response,
    set_property, set_request_body, set_request_header, set_response_body,
};
use policy::Note;
use policy::flow::{Effect, Paused, RequestHead, Step, Then};
use policy::mark::{Mark, SEALED, UNSEALED};

/// The request's headers, with the facts that the earlier stages have stored.
///
/// # Errors
/// If Envoy refuses.
pub fn request_head() -> Result<RequestHead, Error> {
    Ok(RequestHead { headers: request_headers()?, note: property(&AUDIT)?, container: property(&CONTAINER)? })
}

/// Carries out `step` in the current callback and returns the callback's action. `ask` sends a question to the control
/// plane.
///
/// # Errors
/// If an effect fails. The rest of the step is then not carried out, and the caller has to call the flow's `failed`.
pub fn carry_out<Q>(step: Step<Q>, mut ask: impl FnMut(Q) -> Result<(), Error>) -> Result<Action, Error> {
    for effect in step.effects {
        match effect {
            Effect::Log(line) => log(Level::Error, &line),
            Effect::Note(note) => write(&note)?,
            Effect::NoteRefusal(note) => {
                if let Err(error) = write(&note) {
                    log(Level::Error, &format!("the refusal is sent without its audit note: {error}"));
                }
            }
            Effect::Mark(Mark { property, value }) => set_property(&[property], &value)?,
            Effect::Unseal => {
                if let Some(value) = request_header(SEALED)? {
                    set_request_header(UNSEALED, &value)?;
                    remove_request_header(SEALED)?;
                }
            }
            Effect::Ask(question) => ask(question)?,
            Effect::SetRequestHeader(name, value) => set_request_header(name, &value)?,
            Effect::RemoveRequestHeader(name) => remove_request_header(&name)?,
            Effect::RemoveResponseHeader(name) => remove_response_header(name)?,
            Effect::ReplaceRequestBody { size, body } => set_request_body(size, &body)?,
            Effect::DropRequestBody { size } => drop_request_body(size)?,
            Effect::ReplaceResponseBody { size, body } => set_response_body(size, &body)?,
        }
    }
    Ok(match step.then {
        Then::Continue => Action::Continue,
        Then::Pause => Action::Pause,
        Then::Resume(paused) => {
            if matches!(paused, Paused::Response | Paused::Both) {
                resume_response();
            }
            if matches!(paused, Paused::Request | Paused::Both) {
                resume_request();
            }
            Action::Continue
        }
        Then::Refuse(refusal) => {
            refuse(&refusal);
            Action::Pause
        }
        Then::Reset => {
            reset_request();
            Action::Pause
        }
    })
}

fn write(note: &Note) -> Result<(), Error> {
    set_property(&AUDIT, &note.to_bytes())
}
