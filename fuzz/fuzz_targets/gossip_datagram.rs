//! Datagrams of the gossip, sealed or not: what is let through comes back as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| elect_gossip::wire::check::datagram(datagram));
