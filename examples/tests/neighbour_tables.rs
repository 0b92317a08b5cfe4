//! What a Linux kernel makes of each form of frame that says where an address is: why the announcer says what it says,
//! and what it would miss by the forms that others use.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the kernel's timers are what is waited for")]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use announce_l2::wire::arp::{Arp, Operation};
use announce_l2::wire::ndp::{Advertisement, Message};
use announce_l2::wire::{MacAddr, ipv6};
use lbcore::time::Instant;
use lbcore_examples::netns::{self, Host, RawSocket, Segment};

const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
/// Of the former owner.
const OLD: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xee]);
/// An entry is not changed by some forms for this long after its last change (`locktime`).
const LOCKTIME: Duration = Duration::from_millis(1100);

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the client's kernel knew before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// It is asking right now.
    Incomplete,
    /// The former owner, not verified, changed more than `locktime` ago.
    StaleOld,
    /// The same, changed just now.
    StaleFresh,
    /// The former owner, verified just now.
    Reachable,
}

impl Before {
    const ALL: [Self; 5] =
        [Self::Nothing, Self::Incomplete, Self::StaleOld, Self::StaleFresh, Self::Reachable];
}

/// What it knows afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    New,
    Old,
    Nothing,
}

/// As the tables below write it.
fn letter(after: After) -> char {
    match after {
        After::New => 'N',
        After::Old => 'o',
        After::Nothing => '-',
    }
}

struct Bench {
    _segment: Segment,
    owner: Host,
    client: Host,
    sender: RawSocket,
    /// How many markers were sent.
    markers: Cell<u8>,
}

impl Bench {
    fn new() -> Self {
        let segment = Segment::new("lan").unwrap();
        let host = |name, number| {
            let addresses = [format!("192.0.2.{number}/24"), format!("fd00::{number}/64")];
            segment.host(name, &addresses.map(|address| address.parse().unwrap())).unwrap()
        };
        let (owner, client) = (host("owner", 11), host("client", 100));
        let sender = RawSocket::open(&owner, "eth0").unwrap();
        Self { _segment: segment, owner, client, sender, markers: Cell::default() }
    }

    fn new_mac(&self) -> MacAddr {
        MacAddr(self.owner.mac())
    }

    fn client_mac(&self) -> MacAddr {
        MacAddr(self.client.mac())
    }

    fn send(&self, frame: &[u8]) {
        self.sender.send(frame).unwrap();
    }

    /// Waits until the client has taken in all that was sent: frames are in the order of one cable, and the last one here
    /// makes an entry in any case, which is waited for.
    fn await_taken_in(&self) {
        let number = self.markers.get();
        self.markers.set(number + 1);
        let marker = Ipv4Addr::new(192, 0, 2, 200 + number);
        self.send(Arp::directed(self.new_mac(), marker, CLIENT_V4).to_frame(self.client_mac()).as_bytes());
        let end = Instant::now() + PATIENCE;
        while self.after(marker.into()) != After::New {
            assert!(Instant::now() < end, "the client hears nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn prepare(&self, before: Before, address: IpAddr) {
        let state = match before {
            Before::Nothing => return,
            Before::Incomplete => {
                let any: IpAddr = match address {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = self.client.enter(|| UdpSocket::bind((any, 0)).unwrap());
                socket.send_to(b"hello", (address, 9)).unwrap();
                return;
            }
            Before::StaleOld | Before::StaleFresh => "stale",
            Before::Reachable => "reachable",
        };
        let (address, mac) = (address.to_string(), OLD.to_string());
        let line = ["neigh", "replace", &address, "lladdr", &mac, "dev", "eth0", "nud", state];
        let output = self.client.output(Command::new("ip").args(line)).unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn after(&self, address: IpAddr) -> After {
        let entry = self.client.neighbours().unwrap().into_iter().find(|entry| entry.address == address);
        match entry.and_then(|entry| entry.mac) {
            Some(mac) if MacAddr(mac) == self.new_mac() => After::New,
            Some(_) => After::Old,
            None => After::Nothing,
        }
    }

    /// Sends the frame of each row about an address of its own for each state before, and draws the table of what the
    /// client knows afterwards.
    fn table(&self, rows: &[&dyn Fn(u8) -> Vec<u8>], address: fn(u8) -> IpAddr) -> Vec<String> {
        let number = |row: usize, column: usize| u8::try_from(row * Before::ALL.len() + column).unwrap();
        for aged in [true, false] {
            for row in 0..rows.len() {
                for (column, before) in Before::ALL.into_iter().enumerate() {
                    if (before == Before::StaleOld) == aged {
                        self.prepare(before, address(number(row, column)));
                    }
                }
            }
            if aged {
                std::thread::sleep(LOCKTIME);
            }
        }
        for (row, frame) in rows.iter().enumerate() {
            for column in 0..Before::ALL.len() {
                self.send(&frame(number(row, column)));
            }
        }
        self.await_taken_in();
        let line = |row: usize| {
            let cells = 0..Before::ALL.len();
            cells.map(|column| letter(self.after(address(number(row, column))))).collect::<String>()
        };
        (0..rows.len()).map(line).collect()
    }
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 150 + number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, number.into())
}

#[test]
fn what_linux_makes_of_arp() {
    netns::test("what_linux_makes_of_arp", || {
        if netns::find_program("ip").is_none() {
            return;
        }
        let bench = Bench::new();
        let (us, client) = (bench.new_mac(), bench.client_mac());
        let announcement = |number| Arp::announcement(us, v4(number));
        let gratuitous = |operation, target_mac| {
            move |number| {
                let arp = Arp { operation, target_mac, ..announcement(number) };
                arp.to_frame(MacAddr::BROADCAST).as_bytes().to_vec()
            }
        };
        let directed = |to: MacAddr| {
            move |number| Arp::directed(us, v4(number), CLIENT_V4).to_frame(to).as_bytes().to_vec()
        };
        let answer = |number| {
            let asked = Arp::directed(client, CLIENT_V4, v4(number));
            asked.reply(us).to_frame(client).as_bytes().to_vec()
        };
        let drawn = bench.table(
            &[
                &gratuitous(Operation::Request, MacAddr::ZERO),
                &gratuitous(Operation::Request, MacAddr::BROADCAST),
                &gratuitous(Operation::Reply, us),
                &gratuitous(Operation::Reply, MacAddr::BROADCAST),
                &gratuitous(Operation::Reply, MacAddr::ZERO),
                &answer,
                &directed(MacAddr::BROADCAST),
                &directed(client),
            ],
            |number| v4(number).into(),
        );
        // Nothing, incomplete, stale for long, stale since now, reachable since now.
        let expected = [
            "-NNNN", // a request with THA=0: our announcement (RFC 5227)
            "-NNNN", // a request with THA=ff (keepalived)
            "-NNNN", // a reply with THA=SHA (RFC 5944)
            "-NNoo", // a reply with THA=ff
            "-NNoo", // a reply with THA=0
            "-NNoo", // the answer to a question, which the kernel believes if it asked
            "NNNNN", // a request directed at the client, to all
            "NNNNN", // the same to the client alone: what we tell gateways and those who asked
        ];
        assert_eq!(drawn, expected);
    });
}

#[test]
fn what_linux_makes_of_advertisements() {
    netns::test("what_linux_makes_of_advertisements", || {
        if netns::find_program("ip").is_none() {
            return;
        }
        let bench = Bench::new();
        let (us, client) = (bench.new_mac(), bench.client_mac());
        let to_all = MacAddr::of_ipv6_group(ipv6::ALL_NODES);
        let frame = move |na: Advertisement, to: Ipv6Addr, mac: MacAddr, hop_limit: u8| {
            let header = ipv6::Header { hop_limit, ..ipv6::Header::nd(na.target, to) };
            Message::Advertisement(na).to_frame(&header, us, mac).as_bytes().to_vec()
        };
        let unsolicited = |number: u8| Advertisement::unsolicited(v6(number), us);
        let multicast = |change: fn(&mut Advertisement)| {
            move |number| {
                let mut na = unsolicited(number);
                change(&mut na);
                frame(na, ipv6::ALL_NODES, to_all, 255)
            }
        };
        let answer = |overriding: bool| {
            move |number| {
                let na = Advertisement { overriding, ..Advertisement::answer(v6(number), us) };
                frame(na, CLIENT_V6, client, 255)
            }
        };
        let forwarded = |number| frame(unsolicited(number), ipv6::ALL_NODES, to_all, 64);
        // The type of the option is the byte after the target.
        let source_option = |number: u8| {
            let mut bytes = multicast(|na| na.overriding = false)(number);
            bytes[78] = 1;
            let sum = u16::from_be_bytes([bytes[56], bytes[57]]);
            // One byte that is worth 0x0100 less raises the checksum by as much.
            bytes[56..58].copy_from_slice(&sum.wrapping_add(0x0100).to_be_bytes());
            bytes
        };
        let drawn = bench.table(
            &[
                &multicast(|_| {}),
                &multicast(|na| na.overriding = false),
                &source_option,
                &multicast(|na| na.target_mac = None),
                &multicast(|na| na.solicited = true),
                &forwarded,
                &answer(false),
                &answer(true),
            ],
            |number| v6(number).into(),
        );
        let expected = [
            "-NNNN", // unsolicited, O=1, with the target option: our announcement
            "-Nooo", // unsolicited, O=0
            "--ooo", // unsolicited, O=0, with the source option
            "--ooo", // unsolicited, O=1, without an option
            "--ooo", // to all nodes, but S=1
            "--ooo", // hop limit 64: it came through a router
            "-Nooo", // an answer with O=0
            "-NNNN", // an answer with O=1: ours
        ];
        assert_eq!(drawn, expected);
    });
}
