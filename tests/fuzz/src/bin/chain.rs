//! One stream through all filters, natively, with its events in the fuzzer's order: parts of bodies, early responses,
//! gRPC answers, trailers, resets. No order makes a filter panic. The end of a refused push never reaches the upstream,
//! the upstream gets the bytes that were judged, and every stream ends with a response or a reset.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    fuzz::chain::orders::run(input);
});
