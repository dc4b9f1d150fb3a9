//! All filters of the chain in the one module that Envoy loads. The plugin's root id selects the filter.
//!
//! There is one module because Envoy compiles the whole module before its listeners open. Each worker has two VMs of it:
//! one for the push filter, one for the others.
//! The code that the filters share (the policy, JSON, the standard library) is most of each filter.

use envoy_host::{self as host, Action, Level, RootCallbacks, StreamCallbacks};

/// The functions that Envoy calls first, after it has loaded the module.
mod exports {
    proxy_wasm::main! {{
        crate::start();
    }}
}

/// Registers the filters with Envoy. Each VM has to call this once.
pub fn start() {
    host::start(root);
}

/// Creates the root context of the filter that the root id names.
fn root() -> Box<dyn RootCallbacks> {
    match host::root_id().as_deref() {
        Ok(b"connections") => identity_filter::connections(),
        Ok(b"identity") => identity_filter::root(),
        Ok(b"github") => github_filter::root(),
        Ok(b"model") => model_filter::root(),
        Ok(b"push") => push_filter::root(),
        Ok(b"scrub") => scrub_filter::root(),
        _ => Box::new(Unknown),
    }
}

/// Stands for an unknown filter. Its configuration fails, so Envoy refuses each request that reaches it.
struct Unknown;

impl RootCallbacks for Unknown {
    fn on_configure(&mut self, _size: usize) -> bool {
        host::log(Level::Error, "the root id names no filter; expected the root id of a filter in this module");
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
