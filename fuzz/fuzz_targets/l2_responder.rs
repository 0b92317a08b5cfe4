//! Frames, sets, leases, links and time for the responder: it speaks only for what it owns, while its lease holds, and
//! always answers a fresh question. Four bytes are one step, and the bytes of a frame follow theirs.

#![no_main]

use announce_l2::machine::laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::check(&laws::decode(data)));
