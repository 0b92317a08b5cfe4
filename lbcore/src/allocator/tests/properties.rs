//! Against the model, and laws that hold for every sequence of calls.

use proptest::prelude::*;

use super::super::model::{Op, check};

fn ops(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(any::<[u8; Op::BYTES]>().prop_map(Op::decode), count)
}

proptest! {
    #[test]
    fn does_what_the_model_does(
        first in any::<[u8; Op::BYTES]>(),
        rest in ops(1..60),
    ) {
        // Without pools nothing happens.
        let mut bytes = first;
        bytes[0] = 0;
        let mut all = vec![Op::decode(bytes)];
        all.extend(rest);
        check(&all);
    }
}
