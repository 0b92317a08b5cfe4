//! The route table against a matcher that looks at every entry: they agree on every request.

#![no_main]

use gateway_router::table::oracle::Scenario;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let scenario = Scenario::read(data);
    if let Err(disagreement) = scenario.check() {
        panic!("{disagreement}\n{scenario:#?}");
    }
});
