//! An elector among members that say anything: it owns only what it bids for, while its lease holds. Three bytes are one
//! step, and the bytes of a message follow theirs.

#![no_main]

use elect_gossip::machine::laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::check(&laws::decode(data)));
