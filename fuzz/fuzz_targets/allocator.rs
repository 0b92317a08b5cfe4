//! Operations on the allocator: after each, it must agree with the naive model, its books must be in order, and what
//! its refusals say must be true. Eight bytes are one operation.

#![no_main]

use lbcore::allocator::model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| model::check(&model::decode(data)));
