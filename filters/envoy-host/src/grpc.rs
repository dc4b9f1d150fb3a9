//! gRPC calls to a cluster of Envoy's own configuration.
//!
//! Envoy makes each call for the root context of the context that is acting (`grpc_call` in exports.cc of
//! proxy-wasm-cpp-host), and keeps the message of an event in that root context. So a call goes on after its request has
//! ended, and its response is then dropped. The filters cancel no call: no callback would report its end, and the SDK
//! would keep the call's token until the VM restarts.
//!
//! The SDK begins calls and streams, because its dispatcher has to know their tokens: it delivers the events of a token
//! to the context that has begun the call. These are the only hostcalls of the SDK that are used. The SDK returns each
//! status of Envoy's: `ParseFailure` if the cluster doesn't exist, `InternalFailure` if it can't be reached.

use crate::abi::{self, Buffer};
use crate::callbacks::for_root;
use crate::{Error, body, refused};
use proxy_wasm::hostcalls;
use std::time::Duration;

/// A method of a gRPC service behind one of Envoy's clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The service with its package, for example `sallyport.registry.v1.Registry`.
    pub service: &'a str,
    /// The method.
    pub name: &'a str,
}

/// Opens a stream and returns its token. The context whose callback is running receives its messages and its end.
///
/// # Errors
/// If the cluster doesn't exist, or Envoy can't open a stream to it now.
pub fn open_stream(method: Method<'_>) -> Result<u32, Error> {
    hostcalls::open_grpc_stream(method.cluster, method.service, method.name, vec![])
        .map_err(|status| refused("grpc_stream")(status.into()))
}

/// Sends `message` on a stream and leaves the stream open.
///
/// # Errors
/// If the stream has ended.
pub fn send_message(stream: u32, message: &[u8]) -> Result<(), Error> {
    abi::grpc_send(stream, message).map_err(refused("grpc_send"))
}

/// Ends a stream at once. No callback reports its end.
///
/// # Errors
/// If the stream has ended already.
pub fn cancel_stream(stream: u32) -> Result<(), Error> {
    abi::grpc_cancel(stream).map_err(refused("grpc_cancel"))
}

/// Makes a unary call and returns its token. `on_grpc_call_response` of the context whose callback is running receives
/// the response, if that context still exists by then. A root context may make a call while it acts for a stream of
/// another root context: the call is its own all the same.
///
/// # Errors
/// If the cluster doesn't exist, or Envoy can't call it now.
pub fn call(method: Method<'_>, message: &[u8], timeout: Duration) -> Result<u32, Error> {
    let Method { cluster, service, name } = method;
    for_root(|| hostcalls::dispatch_grpc_call(cluster, service, name, vec![], Some(message), timeout))
        .map_err(refused("set_effective_context"))?
        .map_err(|status| refused("grpc_call")(status.into()))
}

/// The `size` bytes of the message that a gRPC callback reports.
///
/// # Errors
/// If the message doesn't have exactly `size` bytes.
pub fn grpc_message(size: usize) -> Result<Vec<u8>, Error> {
    for_root(|| body(Buffer::GrpcMessage, 0, size)).map_err(refused("set_effective_context"))?
}
