//! Envoy's callbacks. The root context holds the rules from the filter's configuration. The HTTP contexts pass each
//! event to their [`Flow`] and carry out the steps that it returns. No decision is made here.

use envoy_host::{self as host, Action, Level, Method, RootCallbacks, StreamCallbacks};
use policy::flow::{Broken, Step};
use policy::github::Rules;
use prost::Message;
use push::load::Load;
use push::{Descent, Flow, Oid, Query, Question, RefAt, ResponseHead};
use registry_proto::push as wire;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const READ_REFS: Method<'_> = Method { cluster: "control-plane", service: "sallyport.push.v1.Push", name: "ReadRefs" };
const DESCENDS: Method<'_> = Method { cluster: "control-plane", service: "sallyport.push.v1.Push", name: "Descends" };
/// How long a push waits for a response from GitHub. The control plane's own timeout for a call to GitHub is ten
/// seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// The property with the origin of a response. For a response of the upstream, the value is [`OF_UPSTREAM`] (Envoy's
/// router.cc, `onUpstreamHeaders`).
const CODE_DETAILS: [&str; 2] = ["response", "code_details"];
const OF_UPSTREAM: &[u8] = b"via_upstream";

/// The root context.
#[derive(Default)]
pub struct Root {
    /// `None` until valid rules have arrived. Until then every push is refused.
    rules: Option<Rc<Rules>>,
    load: Rc<RefCell<Load>>,
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let rules = host::configuration(size)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice::<Rules>(&json).map_err(|error| error.to_string()));
        match rules {
            Ok(rules) => self.rules = Some(Rc::new(rules)),
            Err(error) => host::log(Level::Error, &format!("push: the rules can't be parsed: {error}")),
        }
        true
    }

    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        let flow = Flow::new(self.rules.clone(), Rc::clone(&self.load));
        Box::new(Stream { flow, calls: Vec::new() })
    }
}

/// The context of one request.
struct Stream {
    flow: Flow,
    /// The calls under way, by their tokens.
    calls: Vec<(u32, Asked)>,
}

/// The kind of a question.
#[derive(Clone, Copy)]
enum Asked {
    Refs,
    Descents,
}

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        let step = self.flow.request_headers(host::request_head().map_err(Broken::new), end);
        self.carry_out(step)
    }

    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        let unread = self.flow.unread_request(size);
        let unread = host::request_body_part(unread.start, unread.len()).map_err(Broken::new);
        let step = self.flow.request_body(size, unread, end);
        self.carry_out(step)
    }

    fn on_request_trailers(&mut self) -> Action {
        let step = self.flow.request_trailers();
        self.carry_out(step)
    }

    fn on_response_headers(&mut self, end: bool) -> Action {
        let head = if self.flow.reads_response() { response_head() } else { Ok(ResponseHead::default()) };
        let step = self.flow.response_headers(head.map_err(Broken::new), end);
        self.carry_out(step)
    }

    fn on_response_body(&mut self, size: usize, end: bool) -> Action {
        let unread = self.flow.unread_response(size);
        let unread = host::response_body_part(unread.start, unread.len()).map_err(Broken::new);
        let step = self.flow.response_body(size, unread, end);
        self.carry_out(step)
    }

    fn on_response_trailers(&mut self) -> Action {
        let step = self.flow.response_trailers();
        self.carry_out(step)
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        let Some(at) = self.calls.iter().position(|(call, _)| *call == token) else { return };
        let message = (status == 0).then(|| host::grpc_message(size).ok()).flatten();
        let step = match self.calls.swap_remove(at).1 {
            Asked::Refs => {
                let response = message.and_then(|bytes| wire::ReadRefsResponse::decode(bytes.as_slice()).ok());
                let others = response.map(|response| response.others.into_iter().map(ref_at).collect::<Vec<_>>());
                self.flow.refs_answered(others.as_deref())
            }
            Asked::Descents => {
                let response = message.and_then(|bytes| wire::DescendsResponse::decode(bytes.as_slice()).ok());
                self.flow.descents_answered(response.map(|response| response.descends).as_deref())
            }
        };
        let _no_bytes_are_at_hand = self.carry_out(step);
    }
}

impl Stream {
    fn carry_out(&mut self, mut step: Step<Query>) -> Action {
        loop {
            match host::carry_out(step, |query| self.ask(query)) {
                Ok(action) => return action,
                Err(error) => step = self.flow.failed(Broken::new(error)),
            }
        }
    }

    fn ask(&mut self, query: Query) -> Result<(), host::Error> {
        let Query { container, repo, question } = query;
        let address = registry_proto::address_bytes(container);
        let call = match question {
            Question::Refs(refs) => {
                let refs = refs.into_iter().map(wire_ref).collect();
                let request = wire::ReadRefsRequest { address, repo, refs };
                (host::call(READ_REFS, &request.encode_to_vec(), PATIENCE)?, Asked::Refs)
            }
            Question::Descents(descents) => {
                let descents = descents.iter().map(wire_descent).collect();
                let request = wire::DescendsRequest { address, repo, descents };
                (host::call(DESCENDS, &request.encode_to_vec(), PATIENCE)?, Asked::Descents)
            }
        };
        self.calls.push(call);
        Ok(())
    }
}

fn response_head() -> Result<ResponseHead, host::Error> {
    Ok(ResponseHead {
        status: host::response_status()?,
        of_upstream: host::property(&CODE_DETAILS)?.as_deref() == Some(OF_UPSTREAM),
        encoded: host::response_header("content-encoding")?.is_some(),
        content_type: host::response_header("content-type")?,
    })
}

fn bytes(oid: &Oid) -> Vec<u8> {
    oid.as_bytes().to_vec()
}

fn wire_ref(at: RefAt) -> wire::Ref {
    wire::Ref { name: at.name, object: at.object.as_ref().map_or_else(Vec::new, bytes) }
}

fn ref_at(at: wire::Ref) -> RefAt {
    let object = <[u8; 20]>::try_from(at.object).ok().map(Oid::from);
    RefAt { name: at.name, object }
}

fn wire_descent(descent: &Descent) -> wire::Descent {
    wire::Descent { ancestor: bytes(&descent.ancestor), commits: descent.commits.iter().map(bytes).collect() }
}
