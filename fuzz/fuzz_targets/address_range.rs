//! Texts of address ranges: what is read is read back from what is printed, and its prefixes cover it exactly.

#![no_main]

use lbcore::addr::{AddressCount, AddressRange};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let range: AddressRange = match text.parse() {
        Ok(range) => range,
        // The complaint must be printable too.
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(range.to_string().parse(), Ok(range));
    assert_eq!(AddressRange::new(range.first(), range.last()), Ok(range));
    assert!(range.contains(range.first()) && range.contains(range.last()) && range.overlaps(&range));
    let prefixes: Vec<AddressRange> = range.prefixes().map(AddressRange::from).collect();
    assert_eq!(prefixes.first().map(AddressRange::first), Some(range.first()));
    assert_eq!(prefixes.last().map(AddressRange::last), Some(range.last()));
    assert_eq!(prefixes.iter().map(AddressRange::count).sum::<AddressCount>(), range.count());
});
