//! The messages of `sallyport.registry.v1`, shared by the control plane and the identity filter, and behind
//! the feature `server` the tonic service. The comments on each message are those of registry.proto.

#[expect(missing_docs, reason = "generated; documented in registry.proto")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/sallyport.registry.v1.rs"));
}

pub use generated::*;
