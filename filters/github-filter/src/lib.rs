//! Stage 3 of the chain, `github`: what does this request to one of GitHub's hosts do, and may that container do it?
//!
//! The answers are [`policy::github::Judge`]'s. This crate brings the facts to it and carries out what it says; see
//! [`filter`].

mod filter;

/// What Envoy calls first, when it has loaded the filter.
mod exports {
    proxy_wasm::main! {{
        proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
        envoy_host::note_panics();
        proxy_wasm::set_root_context(|_| Box::new(crate::filter::Root::default()));
    }}
}
