//! Connections that are open when an address moves between living nodes go on.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the kernel's timers are what is waited for")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use announce_l2::machine::{IfIndex, Interface};
use announce_l2::wire::MacAddr;
use lbcore::elect::Member;
use lbcore::id::NodeName;
use lbcore::time::Instant;
use lbcore_examples::netns::{self, Host, Segment};
use lbcore_examples::node::handover::{HandOver, Holder};

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Answers each byte with the name of the node.
fn serve(node: &Host, at: SocketAddr, name: u8) {
    let listener = node.enter(|| TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                while stream.read_exact(&mut [0]).is_ok() && stream.write_all(&[name]).is_ok() {}
            });
        }
    });
}

fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut answer = [0];
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// Tells the client where the address is.
fn points_to(client: &Host, address: IpAddr, node: &Host) {
    let (address, mac) = (address.to_string(), MacAddr(node.mac()).to_string());
    let line = ["neigh", "replace", &address, "lladdr", &mac, "dev", "eth0", "nud", "permanent"];
    let output = client.output(Command::new("ip").args(line)).unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn interfaces(node: &Host) -> Vec<Interface> {
    let (index, mac) = node.link("eth0").unwrap();
    vec![Interface::new(IfIndex(index), "eth0", MacAddr(mac))]
}

fn member(node: &Host) -> Member {
    let mut member = Member::default();
    member.hardware.insert("eth0".into(), node.mac());
    member
}

/// Two nodes that both serve an address, and a client.
struct Lan {
    _segment: Segment,
    one: Host,
    two: Host,
    client: Host,
    vip: IpAddr,
}

impl Lan {
    fn new() -> Self {
        let segment = Segment::new("lan").unwrap();
        let host = |name, address: &str| segment.host(name, &[address.parse().unwrap()]).unwrap();
        let (one, two) = (host("n1", "192.0.2.11/24"), host("n2", "192.0.2.12/24"));
        let client = host("client", "192.0.2.100/24");
        let vip: IpAddr = "192.0.2.200".parse().unwrap();
        for (node, name) in [(&one, b'1'), (&two, b'2')] {
            node.add_address("lo", vip.into()).unwrap();
            serve(node, SocketAddr::new(vip, 80), name);
        }
        Self { _segment: segment, one, two, client, vip }
    }
}

#[test]
fn open_connections_stay_with_the_former_owner_and_new_ones_do_not() {
    netns::test("open_connections_stay_with_the_former_owner_and_new_ones_do_not", || {
        if ["nft", "ip"].iter().any(|program| netns::find_program(program).is_none()) {
            return;
        }
        let lan = Segment::new("lan").unwrap();
        let host = |name: &str, number: u8| {
            let addresses = [format!("192.0.2.{number}/24"), format!("fd00::{number}/64")];
            lan.host(name, &addresses.map(|address| address.parse().unwrap())).unwrap()
        };
        let (one, two, client) = (host("n1", 11), host("n2", 12), host("client", 100));
        let vips: [IpAddr; 2] = ["192.0.2.200", "fd00::200"].map(|text| text.parse().unwrap());
        for (node, name) in [(&one, b'1'), (&two, b'2')] {
            node.set_sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
            for vip in vips {
                node.add_address("lo", vip.into()).unwrap();
                serve(node, SocketAddr::new(vip, 80), name);
            }
        }
        let connect = |vip: IpAddr| client.enter(|| TcpStream::connect(SocketAddr::new(vip, 80)).unwrap());
        let mut passing = two.enter(|| in_runtime(HandOver::new(Duration::from_secs(60))).unwrap());
        passing.set_interfaces(&interfaces(&two));
        // Of an earlier ownership of the second node.
        let mut earlier = vips.map(|vip| {
            points_to(&client, vip, &two);
            connect(vip)
        });
        assert!(earlier.iter_mut().all(|stream| ask(stream).unwrap() == b'2'));
        let mut open = vips.map(|vip| {
            points_to(&client, vip, &one);
            connect(vip)
        });
        assert!(open.iter_mut().all(|stream| ask(stream).unwrap() == b'1'));

        let moved: BTreeMap<IpAddr, Member> = vips.map(|vip| (vip, member(&one))).into();
        let members: BTreeMap<NodeName, Member> =
            [("n1".into(), member(&one)), ("n2".into(), member(&two))].into();
        let ours = |_| Holder::Us;
        two.enter(|| in_runtime(passing.apply(Instant::now(), &moved, &members, ours)).unwrap());
        for (vip, stream) in vips.into_iter().zip(&mut open) {
            points_to(&client, vip, &two);
            assert_eq!(ask(stream).unwrap(), b'1', "{vip}: it stays with the former owner");
            let mut new = connect(vip);
            assert_eq!(
                (ask(&mut new).unwrap(), ask(&mut new).unwrap()),
                (b'2', b'2'),
                "{vip}: a new one does not"
            );
        }
        assert!(
            earlier.iter_mut().all(|stream| ask(stream).unwrap() == b'2'),
            "and one that was there before"
        );

        // Before the clients know that it owns the address no more, their segments still come here.
        let lost = |address: IpAddr| if address.is_ipv6() { Holder::Us } else { Holder::Nobody };
        two.enter(|| in_runtime(passing.apply(Instant::now(), &BTreeMap::new(), &members, lost)).unwrap());
        assert!(open.iter_mut().chain(&mut earlier).map(|stream| ask(stream).unwrap()).eq(*b"1122"));
        two.enter(|| in_runtime(passing.undo()));
        for stream in &mut open {
            assert!(ask(stream).is_err(), "a kernel that does not know a connection resets it");
        }
    });
}

#[test]
fn who_begins_while_the_address_moves_is_known() {
    netns::test("who_begins_while_the_address_moves_is_known", || {
        if ["nft", "ip"].iter().any(|program| netns::find_program(program).is_none()) {
            return;
        }
        let Lan { _segment, one, two, client, vip } = Lan::new();
        // It owned the address before the first node did, and this client did not hear of the change.
        points_to(&client, vip, &two);
        let moved = AtomicBool::new(false);
        let opened = std::thread::scope(|scope| {
            let begins = client.enter(|| {
                scope.spawn(|| {
                    let mut opened = Vec::new();
                    while !moved.load(Ordering::Relaxed) {
                        let mut stream = TcpStream::connect(SocketAddr::new(vip, 80)).unwrap();
                        opened.push((ask(&mut stream).ok(), stream));
                    }
                    opened
                })
            });
            two.enter(|| {
                in_runtime(async {
                    let mut passing = HandOver::new(Duration::from_secs(60)).await.unwrap();
                    passing.set_interfaces(&interfaces(&two));
                    let former = [(vip, member(&one))].into();
                    passing.apply(Instant::now(), &former, &BTreeMap::new(), |_| Holder::Us).await.unwrap();
                });
            });
            moved.store(true, Ordering::Relaxed);
            begins.join().unwrap()
        });
        let asked = opened.into_iter().map(|(answer, mut stream)| (answer, ask(&mut stream).ok()));
        let asked: Vec<_> = asked.collect();
        assert!(
            asked.len() > 10 && asked.iter().all(|answers| *answers == (Some(b'2'), Some(b'2'))),
            "{asked:?}"
        );
    });
}

#[test]
fn the_grace_period_ends_by_itself() {
    netns::test("the_grace_period_ends_by_itself", || {
        if ["nft", "ip"].iter().any(|program| netns::find_program(program).is_none()) {
            return;
        }
        let Lan { _segment, one, two, client, vip } = Lan::new();
        points_to(&client, vip, &one);
        let mut open = client.enter(|| TcpStream::connect(SocketAddr::new(vip, 80)).unwrap());
        assert_eq!(ask(&mut open).unwrap(), b'1');
        let mut member = Member::default();
        // An interface of another name is the only one that it has.
        member.hardware.insert("enp1s0".into(), one.mac());
        let grace = Duration::from_millis(500);
        let begin = Instant::now();
        two.enter(|| {
            in_runtime(async {
                let mut passing = HandOver::new(grace).await.unwrap();
                passing.set_interfaces(&interfaces(&two));
                let moved = [(vip, member)].into();
                passing.apply(Instant::now(), &moved, &BTreeMap::new(), |_| Holder::Us).await.unwrap();
            });
        });
        points_to(&client, vip, &two);
        assert_eq!(ask(&mut open).unwrap(), b'1');
        // No process has to end it, and who goes on asking does not hold it up.
        while ask(&mut open).is_ok() {
            assert!(Instant::now().saturating_since(begin) < PATIENCE, "it is passed on for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Instant::now().saturating_since(begin) >= grace);
    });
}

#[test]
fn segments_take_the_way_that_the_address_took_and_never_go_round() {
    netns::test("segments_take_the_way_that_the_address_took_and_never_go_round", || {
        if ["nft", "ip"].iter().any(|program| netns::find_program(program).is_none()) {
            return;
        }
        let lan = Segment::new("lan").unwrap();
        let host = |name: &str, number: u8| {
            let address = format!("192.0.2.{number}/24");
            lan.host(name, &[address.parse().unwrap()]).unwrap()
        };
        let nodes = [host("n1", 11), host("n2", 12), host("n3", 13)];
        let client = host("client", 100);
        let vip: IpAddr = "192.0.2.200".parse().unwrap();
        let names = ["n1", "n2", "n3"].map(NodeName::from);
        let members: BTreeMap<NodeName, Member> = names.into_iter().zip(nodes.iter().map(member)).collect();
        let mut passing: Vec<HandOver> = Vec::new();
        for (node, name) in nodes.iter().zip(*b"123") {
            node.set_sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
            node.add_address("lo", vip.into()).unwrap();
            serve(node, SocketAddr::new(vip, 80), name);
            let mut hand_over = node.enter(|| in_runtime(HandOver::new(Duration::from_secs(60))).unwrap());
            hand_over.set_interfaces(&interfaces(node));
            passing.push(hand_over);
        }
        // The new owner is told first, as it passes on before it announces itself.
        let mut moves = |from: usize, to: usize| {
            let moved = [(vip, member(&nodes[from]))].into();
            let apply = passing[to].apply(Instant::now(), &moved, &members, |_| Holder::Us);
            nodes[to].enter(|| in_runtime(apply).unwrap());
            for other in (0..nodes.len()).filter(|other| *other != to) {
                let holder = |_| Holder::Other(member(&nodes[to]));
                let none = BTreeMap::new();
                let apply = passing[other].apply(Instant::now(), &none, &members, holder);
                nodes[other].enter(|| in_runtime(apply).unwrap());
            }
            points_to(&client, vip, &nodes[to]);
        };
        let connect = || client.enter(|| TcpStream::connect(SocketAddr::new(vip, 80)).unwrap());
        points_to(&client, vip, &nodes[0]);
        let mut first = connect();
        assert_eq!(ask(&mut first).unwrap(), b'1');
        moves(0, 1);
        let mut second = connect();
        assert_eq!(ask(&mut second).unwrap(), b'2');
        moves(1, 2);
        assert_eq!(
            [&mut first, &mut second].map(|stream| ask(stream).unwrap()),
            [b'1', b'2'],
            "by two nodes, and one"
        );
        // What no node knows is reset by one of them, also after the address has gone round twice.
        let stranger = host("stranger", 14);
        stranger.add_address("lo", vip.into()).unwrap();
        serve(&stranger, SocketAddr::new(vip, 80), b'4');
        points_to(&client, vip, &stranger);
        let mut unknown = connect();
        assert_eq!(ask(&mut unknown).unwrap(), b'4');
        for (from, to) in [(2, 0), (0, 1), (1, 2), (2, 0)] {
            moves(from, to);
        }
        assert_eq!(ask(&mut first).unwrap(), b'1');
        let error = ask(&mut unknown).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}
