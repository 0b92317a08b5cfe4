//! BGP messages in any context, which is the first byte: what is let through comes back as it was, what is not calls for
//! an action that fits it.

#![no_main]

use announce_bgp::wire::check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((context, frame)) = data.split_first() {
        check::message(&check::context(*context), frame);
    }
});
