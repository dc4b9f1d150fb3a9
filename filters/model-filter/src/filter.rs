//! Envoy's callbacks. The root context holds the worker's load. The HTTP contexts pass each event to their [`Flow`] and
//! carry out the steps that it returns. No decision is made here.

use envoy_host::{self as host, Action, RootCallbacks, StreamCallbacks};
use model::Load;
use model::flow::{Flow, Metadata, Step};
use policy::flow::Broken;
use std::cell::RefCell;
use std::rc::Rc;

/// The properties that the credential stage writes.
const PLACE: [&str; 4] = ["metadata", "filter_metadata", "envoy.filters.http.ext_authz", "place"];
const GUARD: [&str; 4] = ["metadata", "filter_metadata", "envoy.filters.http.ext_authz", "guard"];

/// The root context.
#[derive(Default)]
pub struct Root {
    load: Rc<RefCell<Load>>,
}

impl RootCallbacks for Root {
    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream(Flow::new(self.load.clone())))
    }
}

/// The context of one request.
struct Stream(Flow);

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        let step = self.0.request_headers(host::request_head().map_err(Broken::new), metadata(), end);
        self.carry_out(step)
    }

    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        let unread = self.0.unread(size);
        let unread = host::request_body_part(unread.start, unread.len()).map_err(Broken::new);
        let step = self.0.request_body(size, unread, end);
        self.carry_out(step)
    }

    fn on_request_trailers(&mut self) -> Action {
        let step = self.0.request_trailers();
        self.carry_out(step)
    }
}

fn metadata() -> Result<Metadata, Broken> {
    let read = |path: &[&str]| host::property(path).map_err(Broken::new);
    Ok(Metadata { place: read(&PLACE)?, guard: read(&GUARD)? })
}

impl Stream {
    fn carry_out(&mut self, mut step: Step) -> Action {
        loop {
            match host::carry_out(step, |never| match never {}) {
                Ok(action) => return action,
                Err(error) => step = self.0.failed(Broken::new(error)),
            }
        }
    }
}
