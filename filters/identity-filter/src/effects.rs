//! Carries out a step of a request by hostcalls. No decision is made here.

use crate::calls;
use crate::life::{Pass, Request, Step};
use envoy_host::{self as host, AUDIT, Action, CONTAINER, Level};

/// The property with the request's id, for the responses of Envoy's own. The router removes the header before them.
const REQUEST_ID: [&str; 1] = ["sallyport.request-id"];

/// The faults after which Envoy's router sends a request once more (Envoy's router filter, `x-envoy-retry-on`): every end
/// of the connection or the stream before the answer's complete headers.
const RETRIED: &[u8] = b"reset";

/// Carries out `step` of `request`, for which the hostcalls act. Returns the callback's action.
///
/// # Errors
/// If a hostcall fails. The rest of the step is then not carried out.
pub fn carry_out(request: &Request, step: Step) -> Result<Action, host::Error> {
    match step {
        Step::Continue => return Ok(Action::Continue),
        Step::Wait => {}
        Step::Lookup(source) => calls::look_up(source)?,
        Step::Pass(pass) => {
            let resume = pass.resume;
            allow(request, pass)?;
            if resume {
                host::resume_request();
            }
            return Ok(Action::Continue);
        }
        Step::Refuse(note, refusal) => {
            if let Err(error) = host::set_property(&AUDIT, &note.to_bytes()) {
                host::log(Level::Error, &format!("identity: the refusal is sent without its audit note: {error}"));
            }
            refusal.iter().for_each(host::refuse);
        }
        Step::Respond(refusal) => host::refuse(&refusal),
    }
    Ok(Action::Pause)
}

fn allow(request: &Request, pass: Pass) -> Result<(), host::Error> {
    host::set_property(&AUDIT, &pass.note.to_bytes())?;
    let Some(forward) = pass.forward else { return Ok(()) };
    host::set_property(&REQUEST_ID, request.facts.request_id.as_bytes())?;
    forward.record.iter().try_for_each(|record| host::set_property(&CONTAINER, record))?;
    forward.mark.iter().try_for_each(|mark| host::set_property(&[mark.property], &mark.value))?;
    forward.path.iter().try_for_each(|path| host::set_request_header(":path", path))?;
    forward.authority.iter().try_for_each(|to| host::set_request_header(":authority", to.as_bytes()))?;
    forward.removed.iter().try_for_each(|name| host::remove_request_header(name))?;
    if forward.again {
        host::set_request_header(policy::github::RETRY_ON, RETRIED)?;
    }
    Ok(())
}
