//! The filters of the chain with a panic on a request for `/panic`. `filters/build.sh panic` makes the module from this
//! crate. The shipped module has a crate of its own, since Cargo keeps one module for each crate and profile.

#[cfg(target_family = "wasm")]
extern crate filter_chain as _;
