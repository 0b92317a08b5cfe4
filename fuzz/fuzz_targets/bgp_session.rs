//! Peers, bytes, sets, leases and time for the speaker: whole messages come out, no route is announced that may not be,
//! and a peer that has read all knows what is desired. Four bytes are one step, and the bytes of a message follow theirs.

#![no_main]

use announce_bgp::machine::laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::check(&laws::decode(data)));
