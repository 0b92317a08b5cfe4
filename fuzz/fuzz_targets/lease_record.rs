//! Records of a lease store: each is refused with a reason, or comes back as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|record: &[u8]| elect_lease::check_record(record));
