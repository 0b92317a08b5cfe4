//! Frames as Neighbor Discovery: each is accepted if and only if RFC 4861 §7.1 calls it valid, and comes back as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|frame: &[u8]| announce_l2::wire::check::ndp(frame));
