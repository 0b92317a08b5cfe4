//! What holds whatever happens.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::laws::{self, Step};
use super::*;

fn step() -> impl Strategy<Value = Step> {
    let (ms, small, flag) = (|| 0u64..3000, any::<u8>, any::<bool>);
    prop_oneof![
        4 => ms().prop_map(Step::Wait),
        3 => (0u64..20, small(), small(), small(), flag()).prop_map(|(generation, owned, lease, chosen, first)| {
            Step::Desired { generation, owned, lease, chosen, first }
        }),
        4 => (small(), ms()).prop_map(|(lease, for_ms)| Step::Renew { lease, for_ms }),
        8 => (0u8..8, flag(), 0u64..200, small())
            .prop_map(|(address, probe, age_ms, port)| Step::Ask { address, probe, age_ms, port }),
        2 => (0u8..8, small()).prop_map(|(address, port)| Step::Claim { address, port }),
        1 => (small(), flag()).prop_map(|(port, up)| Step::Link { port, up }),
        1 => small().prop_map(|port| Step::Reannounce { port }),
        1 => (vec(small(), 0..100), 0u64..200, small())
            .prop_map(|(bytes, age_ms, port)| Step::Frame { bytes, age_ms, port }),
        1 => Just(Step::Withdraw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in whatever order.
    #[test]
    fn only_the_owner_speaks_and_it_always_answers(steps in vec(step(), 1..80)) {
        laws::check(&steps);
    }

    /// No bytes make it panic or answer for what it does not own, and equal histories give equal outputs.
    #[test]
    fn random_frames_change_nothing(frames in vec(vec(any::<u8>(), 0..120), 0..20)) {
        let (mut one, mut two) = (owner(), owner());
        for bytes in &frames {
            let sent = one.receive_on(ETH0, bytes);
            prop_assert_eq!(&sent, &two.receive_on(ETH0, bytes));
            for transmit in sent {
                prop_assert!([IpAddr::from(v4(10)), v6(0x10).into()].contains(&transmit.address));
            }
        }
        prop_assert_eq!(one.machine.counters(), two.machine.counters());
    }

    /// One byte of a good question changed: no panic, and an answer only to what is still a question for ours.
    #[test]
    fn a_damaged_solicitation_is_not_answered(at in 0usize..86, bit in 0u8..8) {
        let mut bench = owner();
        let frame = solicit(client_v6(), ipv6::solicited_node(v6(0x10)), v6(0x10), Some(CLIENT));
        let mut bytes = frame.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        let answered = !bench.receive_on(ETH0, &bytes).is_empty();
        // The checksum covers addresses and message; beside it only the sender's hardware address and the header's
        // traffic class and flow label may differ.
        let harmless = (6..12).contains(&at) || (14..18).contains(&at);
        prop_assert!(!answered || harmless, "byte {} bit {}", at, bit);
    }
}
