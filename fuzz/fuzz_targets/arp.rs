//! Frames as ARP: each is accepted if and only if it is valid, and comes back as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|frame: &[u8]| announce_l2::wire::check::arp(frame));
