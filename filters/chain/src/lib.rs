//! The filters of the chain as the one module that Envoy loads, for which of them it is told by the plugin's root id.
//!
//! One module and one VM in each worker: Envoy compiles all of a module before its listeners open, and what the filters
//! have in common (the policy, JSON, the standard library) is most of each.

use envoy_host::{self as host, Action, Level, RootCallbacks, StreamCallbacks};

/// The first export that Envoy calls, when the module is loaded.
mod exports {
    proxy_wasm::main! {{
        crate::start();
    }}
}

/// Makes the filters known to Envoy. To be called once in each VM.
pub fn start() {
    host::start(root);
}

/// The root context `id` of the filter that Envoy has asked for.
fn root(id: u32) -> Box<dyn RootCallbacks> {
    match host::root_id().as_deref() {
        Ok(b"identity") => identity_filter::root(id),
        Ok(b"github") => github_filter::root(),
        Ok(b"push") => push_filter::root(),
        Ok(b"scrub") => scrub_filter::root(),
        _ => Box::new(Unknown),
    }
}

/// A root id without a filter. The filter is not configured, so Envoy refuses each of its requests.
struct Unknown;

impl RootCallbacks for Unknown {
    fn on_configure(&mut self, _size: usize) -> bool {
        host::log(Level::Error, "there is no filter of this root id");
        false
    }

    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Unknown)
    }
}

impl StreamCallbacks for Unknown {
    fn on_request_headers(&mut self, _end: bool) -> Action {
        Action::Pause
    }
}
