//! Stage 4 of the chain, `push`: what does this push do to which refs, and may that container do it?
//!
//! The answers are [`push::Inspection`]'s. This crate brings the bytes and GitHub's answers to it and carries out what
//! it says:
//! - [`filter`]: Envoy's callbacks.
//! - [`load`]: how much is inspected at a time.

mod filter;
mod load;

/// What Envoy calls first, when it has loaded the filter.
mod exports {
    proxy_wasm::main! {{
        proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
        envoy_host::note_panics();
        proxy_wasm::set_root_context(|_| Box::new(crate::filter::Root::default()));
    }}
}
