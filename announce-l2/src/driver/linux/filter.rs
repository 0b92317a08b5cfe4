//! Programs for the kernel's packet filter (classic BPF): which frames are worth waking up for.
//!
//! On a busy segment nearly all ARP is about others' addresses. A filter in the kernel makes those cost next to
//! nothing: the process is not even scheduled. The filter lets through what the machine then judges; it is wider than
//! the set of addresses (prefixes that cover them), never narrower.

use std::net::IpAddr;

/// Prefixes of a family that a program tests. More addresses than that share wider prefixes.
const MAX_PREFIXES: usize = 16;

/// An instruction, as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

/// BPF_LD | BPF_ABS with BPF_W, BPF_H and BPF_B: loads from the frame, or from what the kernel knows of it.
const LD_W: u16 = 0x20;
const LD_H: u16 = 0x28;
const LD_B: u16 = 0x30;
/// BPF_ALU | BPF_AND | BPF_K
const AND: u16 = 0x54;
/// BPF_JMP | BPF_JEQ | BPF_K
const JEQ: u16 = 0x15;
/// BPF_RET | BPF_K
const RET: u16 = 0x06;

/// SKF_AD_OFF + SKF_AD_PKTTYPE, SKF_AD_VLAN_TAG and SKF_AD_VLAN_TAG_PRESENT of `linux/filter.h`.
const AD_PKTTYPE: u32 = 0xffff_f000 + 4;
const AD_VLAN_TAG: u32 = 0xffff_f000 + 44;
const AD_VLAN_PRESENT: u32 = 0xffff_f000 + 48;
/// PACKET_OTHERHOST of `linux/if_packet.h`. Frames of a VLAN without an interface of its own have it, too.
const OTHERHOST: u32 = 3;

const ACCEPT: u32 = u32::MAX;

const fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
    Insn { code, jt, jf, k }
}

/// A prefix: an address, and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    bits: u128,
    len: u32,
}

/// The program for ARP: requests and replies that name an address as their target or sender.
pub(super) fn arp(addresses: &[IpAddr]) -> Vec<Insn> {
    let addresses = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(u128::from(address.to_bits()) << 96),
        IpAddr::V6(_) => None,
    });
    let mut program = preamble(0x0806);
    require(&mut program, LD_H, 16, &[0x0800]);
    for prefix in cover(addresses, 32) {
        accept(&mut program, prefix, 38);
        accept(&mut program, prefix, 28);
    }
    program.push(insn(RET, 0, 0, 0));
    program
}

/// The program for Neighbor Discovery: solicitations and advertisements whose target is an address, or that come from
/// it.
pub(super) fn ndp(addresses: &[IpAddr]) -> Vec<Insn> {
    let addresses = addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(address.to_bits()),
        IpAddr::V4(_) => None,
    });
    let mut program = preamble(0x86dd);
    require(&mut program, LD_B, 20, &[58]);
    require(&mut program, LD_B, 54, &[135, 136]);
    for prefix in cover(addresses, 128) {
        accept(&mut program, prefix, 62);
        accept(&mut program, prefix, 22);
    }
    program.push(insn(RET, 0, 0, 0));
    program
}

/// To us or to a group, of no VLAN, and of this EtherType.
fn preamble(ethertype: u32) -> Vec<Insn> {
    let mut program = vec![
        insn(LD_B, 0, 0, AD_PKTTYPE),
        insn(JEQ, 0, 1, OTHERHOST),
        insn(RET, 0, 0, 0),
        insn(LD_B, 0, 0, AD_VLAN_PRESENT),
        insn(JEQ, 4, 0, 0),
        insn(LD_H, 0, 0, AD_VLAN_TAG),
        // The tag of VLAN 0 carries only a priority.
        insn(AND, 0, 0, 0x0fff),
        insn(JEQ, 1, 0, 0),
        insn(RET, 0, 0, 0),
    ];
    require(&mut program, LD_H, 12, &[ethertype]);
    program
}

/// Drops what has none of `values` at `offset`.
fn require(program: &mut Vec<Insn>, load: u16, offset: u32, values: &[u32]) {
    program.push(insn(load, 0, 0, offset));
    for (left, value) in (0u8..u8::try_from(values.len()).unwrap_or(0)).rev().zip(values) {
        program.push(insn(JEQ, left + 1, 0, *value));
    }
    program.push(insn(RET, 0, 0, 0));
}

/// Accepts what has `prefix` at `offset`; otherwise goes on.
fn accept(program: &mut Vec<Insn>, prefix: Prefix, offset: u32) {
    // Each word that counts: its load, a mask if it does not count as a whole, and the test.
    let words: Vec<(u32, u32, u32)> = (0..4u32)
        .map_while(|word| {
            let bits = prefix.len.checked_sub(32 * word).filter(|bits| *bits > 0)?.min(32);
            let mask = u32::MAX << (32 - bits);
            let value = u32::try_from(prefix.bits >> (96 - 32 * word) & u128::from(u32::MAX)).unwrap_or(0);
            Some((offset + 4 * word, mask, value & mask))
        })
        .collect();
    let length = |mask: u32| if mask == u32::MAX { 2u8 } else { 3 };
    let mut left: u8 = words.iter().map(|(_, mask, _)| length(*mask)).sum();
    for (offset, mask, value) in words {
        left -= length(mask);
        program.push(insn(LD_W, 0, 0, offset));
        if mask != u32::MAX {
            program.push(insn(AND, 0, 0, mask));
        }
        program.push(insn(JEQ, 0, left + 1, value));
    }
    program.push(insn(RET, 0, 0, ACCEPT));
}

/// At most [`MAX_PREFIXES`] prefixes that hold all of `addresses`, which are in order, left-aligned and without
/// duplicates: the addresses themselves, joined where neighbours make a whole; or, if those are too many, the longest
/// prefixes of one length that are few enough.
fn cover(addresses: impl Iterator<Item = u128>, width: u32) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = addresses.map(|bits| Prefix { bits, len: width }).collect();
    // Cut to `len` bits, two addresses fall together if they have that many in common. How many neighbours have how
    // many tells how many prefixes remain at each length.
    let mut in_common = [0usize; 129];
    for (one, next) in prefixes.iter().zip(prefixes.iter().skip(1)) {
        let bits = usize::try_from((one.bits ^ next.bits).leading_zeros()).unwrap_or(128);
        in_common[bits.min(128)] += 1;
    }
    join(&mut prefixes);
    if prefixes.len() > MAX_PREFIXES {
        let mut remain = 1;
        let longest = in_common.iter().take_while(|pairs| {
            remain += **pairs;
            remain <= MAX_PREFIXES
        });
        let len = u32::try_from(longest.count()).unwrap_or(0);
        for prefix in &mut prefixes {
            let len = prefix.len.min(len);
            *prefix = Prefix { bits: prefix.bits & mask(len), len };
        }
        join(&mut prefixes);
    }
    prefixes
}

fn mask(len: u32) -> u128 {
    u128::MAX.checked_shl(128 - len).unwrap_or(0)
}

/// Drops what another prefix holds, and joins the two halves of a wider prefix, until neither is possible.
fn join(prefixes: &mut Vec<Prefix>) {
    let mut joined: Vec<Prefix> = Vec::with_capacity(prefixes.len());
    prefixes.sort_unstable();
    for mut next in prefixes.drain(..) {
        while let Some(last) = joined.last().copied() {
            if last.bits == next.bits & mask(last.len) && last.len <= next.len {
                next = last;
            } else if last.len == next.len && last.len > 0 && (last.bits ^ next.bits) == 1 << (128 - last.len)
            {
                next = Prefix { bits: last.bits & next.bits, len: last.len - 1 };
            } else {
                break;
            }
            joined.pop();
        }
        joined.push(next);
    }
    *prefixes = joined;
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::wire::arp::Arp;
    use crate::wire::ndp::{Advertisement, Message, Solicitation};
    use crate::wire::{MacAddr, ipv6};

    /// What the kernel does with a program.
    fn run(program: &[Insn], frame: &[u8], packet_type: u32, vlan: Option<u32>) -> bool {
        let (mut a, mut pc) = (0u32, 0usize);
        loop {
            let Insn { code, jt, jf, k } = program[pc];
            pc += 1;
            let read = |len: usize| {
                let start = usize::try_from(k).unwrap();
                frame
                    .get(start..start + len)
                    .map(|bytes| bytes.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)))
            };
            match code {
                LD_B if k == AD_PKTTYPE => a = packet_type,
                LD_B if k == AD_VLAN_PRESENT => a = vlan.is_some().into(),
                LD_H if k == AD_VLAN_TAG => a = vlan.unwrap_or(0),
                LD_B | LD_H | LD_W => {
                    match read(match code {
                        LD_B => 1,
                        LD_H => 2,
                        _ => 4,
                    }) {
                        Some(value) => a = value,
                        None => return false,
                    }
                }
                AND => a &= k,
                JEQ => pc += usize::from(if a == k { jt } else { jf }),
                RET => return k != 0,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xcc]);

    fn about(address: IpAddr) -> Vec<Vec<u8>> {
        match address {
            IpAddr::V4(address) => {
                let other = Ipv4Addr::new(198, 51, 100, 7);
                [
                    Arp::directed(CLIENT, other, address),
                    Arp::probe(CLIENT, address),
                    Arp::announcement(CLIENT, address),
                    Arp::directed(CLIENT, other, address).reply(CLIENT),
                    Arp::directed(CLIENT, address, other),
                ]
                .map(|arp| arp.to_frame(MacAddr::BROADCAST).as_bytes().to_vec())
                .into()
            }
            IpAddr::V6(address) => {
                let other: Ipv6Addr = "fe80::cc".parse().unwrap();
                let ns =
                    |target| Message::Solicitation(Solicitation { target, source_mac: None, nonce: None });
                [
                    (ns(address), ipv6::Header::nd(other, address)),
                    (ns(other), ipv6::Header::nd(address, other)),
                    (
                        Message::Advertisement(Advertisement::unsolicited(address, CLIENT)),
                        ipv6::Header::nd(other, ipv6::ALL_NODES),
                    ),
                ]
                .map(|(message, header)| {
                    message.to_frame(&header, CLIENT, MacAddr::BROADCAST).as_bytes().to_vec()
                })
                .into()
            }
        }
    }

    fn passes(addresses: &[IpAddr], frame: &[u8]) -> bool {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        let program = if frame[12] == 0x08 { arp(&addresses) } else { ndp(&addresses) };
        run(&program, frame, 1, None)
    }

    #[test]
    fn few_addresses_are_matched_exactly() {
        let ours: [IpAddr; 3] =
            ["192.0.2.10", "192.0.2.13", "2001:db8::10"].map(|text| text.parse().unwrap());
        for (address, expected) in [
            ("192.0.2.10", true),
            ("192.0.2.13", true),
            ("192.0.2.11", false),
            ("192.0.3.10", false),
            ("2001:db8::10", true),
            ("2001:db8::11", false),
            ("2001:db8:1::10", false),
        ] {
            for frame in about(address.parse().unwrap()) {
                assert_eq!(passes(&ours, &frame), expected, "{address}");
            }
        }
        for frame in about(ours[0]) {
            assert!(!passes(&[], &frame), "nothing is wanted");
        }
    }

    #[test]
    fn what_else_a_program_looks_at() {
        let ours: [IpAddr; 2] = ["192.0.2.10", "2001:db8::10"].map(|text| text.parse().unwrap());
        for (program, address) in [(arp(&ours), ours[0]), (ndp(&ours), ours[1])] {
            let frame = about(address).remove(0);
            for (what, packet_type, vlan, expected) in [
                ("to us", 0, None, true),
                ("broadcast", 1, None, true),
                ("multicast", 2, None, true),
                ("to another host", 3, None, false),
                ("of VLAN 5", 1, Some(5), false),
                ("of VLAN 5 with a priority", 1, Some(0x6005), false),
                ("with a priority only", 1, Some(0x6000), true),
            ] {
                assert_eq!(run(&program, &frame, packet_type, vlan), expected, "{what}");
            }
            for cut in 0..frame.len() - 16 {
                assert!(!run(&program, &frame[..cut], 1, None), "cut to {cut}");
            }
        }
        let mut ip = about(ours[1]).remove(0);
        ip[54] = 128;
        assert!(!run(&ndp(&ours), &ip, 1, None), "an echo request");
        ip[20] = 17;
        assert!(!run(&ndp(&ours), &ip, 1, None), "UDP");
    }

    #[test]
    fn many_addresses_share_prefixes() {
        let pool: Vec<u128> = (0..=255u128).map(|last| (0xc000_0200 + last) << 96).collect();
        assert_eq!(cover(pool.into_iter(), 32), [Prefix { bits: 0xc000_0200 << 96, len: 24 }], "a whole /24");
        let scattered: Vec<IpAddr> =
            (0..10_000u32).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n * 7).into()).collect();
        let program = arp(&scattered);
        assert!(program.len() <= 20 + MAX_PREFIXES * 8, "{} instructions", program.len());
        assert!(!passes(&scattered, &about(IpAddr::from([11, 0, 0, 1])).remove(0)));
    }

    proptest! {
        /// No address of ours is ever filtered out, however many there are.
        #[test]
        fn the_cover_is_complete_and_small(mut bits in proptest::collection::vec(prop_oneof![any::<u128>(), (0u128..64).prop_map(|n| n << 90), 0u128..300], 0..200), width in prop_oneof![Just(32u32), Just(128)]) {
            bits.iter_mut().for_each(|bits| *bits &= mask(width));
            bits.sort_unstable();
            bits.dedup();
            let prefixes = cover(bits.iter().copied(), width);
            prop_assert!(prefixes.len() <= MAX_PREFIXES);
            for bits in &bits {
                let held = prefixes.iter().filter(|prefix| bits & mask(prefix.len) == prefix.bits).count();
                prop_assert_eq!(held, 1, "each is held once");
            }
            if bits.len() <= MAX_PREFIXES {
                let size: u128 = prefixes.iter().map(|prefix| 1u128 << (width - prefix.len)).sum();
                prop_assert_eq!(size, bits.len() as u128, "few are matched exactly");
            }
        }

        #[test]
        fn programs_pass_what_is_about_an_address(last in any::<[u8; 2]>(), count in 1u8..60) {
            let v4 = (0..count).map(|n| IpAddr::from([10, last[0], last[1], n * 4]));
            let v6 = (0..count).map(|n| IpAddr::from([0x2001, 0xdb8, n.into(), 0, 0, 0, 0, last[0].into()]));
            for (addresses, program) in [(v4.collect::<Vec<_>>(), arp as fn(&[IpAddr]) -> _), (v6.collect(), ndp)] {
                let program: Vec<Insn> = program(&addresses);
                for address in &addresses {
                    for frame in about(*address) {
                        prop_assert!(run(&program, &frame, 1, None));
                    }
                }
            }
        }
    }
}
