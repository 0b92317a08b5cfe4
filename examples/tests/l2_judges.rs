//! The L2 announcer on the hosts of a segment, judged by others: `arping`, `ndisc6`, duplicate address detection and
//! the neighbour table of a client's kernel, and `tcpdump`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use announce_l2::driver::datalink::DatalinkIo;
use announce_l2::driver::{Config, Driver, FrameIo, InterfaceFilter, L2Announcer};
use announce_l2::machine::{self, Counters};
use announce_l2::wire::ndp::{Message, Solicitation};
use announce_l2::wire::{MacAddr, ipv6};
use lbcore::announce::{
    AnnounceSet, AnnounceState, AnnounceStatus, Announcement, Announcer, Interfaces, Stop,
};
use lbcore::elect::{LeaseId, Term};
use lbcore::time::Instant;
use lbcore_examples::netns::{self, Frame, Host, LinkState, RawSocket, Segment, Tap, TapFilter};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to listen for what must not happen.
const SILENCE: Duration = Duration::from_millis(300);

const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x200);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

/// Two nodes and a client.
struct Lan {
    segment: Segment,
    a: Host,
    b: Host,
    client: Host,
}

impl Lan {
    fn new() -> Self {
        let segment = Segment::new("lan").unwrap();
        let host = |name, number| {
            let addresses = [format!("192.0.2.{number}/24"), format!("fd00::{number}/64")];
            segment.host(name, &addresses.map(|address| address.parse().unwrap())).unwrap()
        };
        let (a, b, client) = (host("a", 11), host("b", 12), host("client", 100));
        Self { segment, a, b, client }
    }

    fn tap(&self) -> Tap {
        self.segment.tap(TapFilter::Neighbour).unwrap()
    }
}

/// An announcer whose driver runs in a host.
struct Node {
    announcer: L2Announcer,
    stop: Option<oneshot::Sender<Stop>>,
    driver: Option<JoinHandle<()>>,
    /// The thread of the driver, in `/proc`.
    thread: Pid,
}

impl Node {
    fn start(host: &Host) -> Self {
        Self::start_with(host, || L2Announcer::new(Config::default()).unwrap())
    }

    /// With the driver that `make` makes.
    fn start_with<IO: FrameIo + 'static>(
        host: &Host,
        make: impl FnOnce() -> (L2Announcer, Driver<IO>) + Send + 'static,
    ) -> Self {
        let (made, making) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        // A thread that is started inside stays inside.
        let driver = host.enter(|| {
            std::thread::spawn(move || {
                in_runtime(async {
                    let (announcer, driver) = make();
                    made.send((announcer, nix::unistd::gettid())).unwrap();
                    driver.run(async { stopped.await.unwrap_or_default() }).await.unwrap();
                });
            })
        });
        let (announcer, thread) = making.recv().unwrap();
        Self { announcer, stop: Some(stop), driver: Some(driver), thread }
    }

    /// Says of these addresses what the plan says of an owner's, and waits until they are announced.
    fn own(&self, generation: u64, addresses: &[IpAddr], until: Instant) {
        // A lease that ran out is never renewed: each ownership has its own.
        let lease = (1..generation).fold(LeaseId::FIRST, |lease, _| lease.next());
        let entry = |address: &IpAddr| (*address, Announcement::on_segment(lease, Term(2), Interfaces::All));
        self.announcer.renew(lease, until);
        self.announcer.set_desired(Arc::new(AnnounceSet::new(generation, addresses.iter().map(entry))));
        self.wait(|status| status.generation == generation && all_announced(status));
    }

    /// The same for a candidate that owns nothing.
    fn stand_by(&self, generation: u64, addresses: &[IpAddr]) {
        let mut set = AnnounceSet::new(generation, []);
        set.standby = addresses.iter().map(|address| (*address, Interfaces::All)).collect();
        self.announcer.set_desired(Arc::new(set));
        self.wait(|status| status.generation == generation);
    }

    fn wait(&self, wanted: impl FnMut(&AnnounceStatus) -> bool) {
        let mut status = self.announcer.status();
        in_runtime(async {
            let told = tokio::time::timeout(PATIENCE, status.wait_for(settled(wanted))).await;
            told.expect("the status becomes as it should").unwrap();
        });
    }

    fn stop(&mut self, how: Stop) {
        self.stop.take().unwrap().send(how).unwrap();
        self.driver.take().unwrap().join().unwrap();
    }

    /// How long the driver has been computing.
    fn cpu_time(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.thread);
        let nanos = std::fs::read_to_string(path).unwrap();
        Duration::from_nanos(nanos.split_whitespace().next().unwrap().parse().unwrap())
    }
}

fn settled(mut wanted: impl FnMut(&AnnounceStatus) -> bool) -> impl FnMut(&Arc<AnnounceStatus>) -> bool {
    move |status| wanted(status)
}

fn all_announced(status: &AnnounceStatus) -> bool {
    !status.entries.is_empty() && status.entries.values().all(AnnounceState::is_announced)
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Asks again and again until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not happen that {what}");
    }
}

/// Runs a program in a host; its exit status and what it printed.
fn run(host: &Host, program: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let output = host.output(Command::new(program).args(arguments)).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// What the judges say when an address has no owner.
const NOBODY: BTreeSet<[u8; 6]> = BTreeSet::new();

/// What they say when `owner` has it.
fn only(owner: &Host) -> BTreeSet<[u8; 6]> {
    [owner.mac()].into()
}

/// Those who answered `arping`.
fn answers(client: &Host, arguments: &[&str], target: Ipv4Addr) -> BTreeSet<[u8; 6]> {
    let arping = netns::find_program("arping").unwrap();
    let (_, printed) =
        run(client, &arping, &[&["-I", "eth0"], arguments, &[target.to_string().as_str()]].concat());
    assert!(printed.contains("Sent "), "{printed}");
    let reply = |line: &str| Some(mac(line.split_once('[')?.1.split_once(']')?.0));
    printed.lines().filter(|line| line.contains("reply from")).filter_map(reply).collect()
}

/// Those who answered `ndisc6`.
fn advertisers(client: &Host, target: Ipv6Addr) -> BTreeSet<[u8; 6]> {
    let ndisc6 = netns::find_program("ndisc6").unwrap();
    let target = target.to_string();
    let (_, printed) = run(client, &ndisc6, &["-m", "-n", "-q", "-r", "1", "-w", "500", &target, "eth0"]);
    let printed = printed.lines().filter(|line| line.matches(':').count() == 5);
    printed.map(mac).collect()
}

/// The judges without which a test cannot run.
fn have(programs: &[&str]) -> bool {
    programs.iter().all(|program| netns::find_program(program).is_some())
}

/// Runs `ip neigh` in the client.
fn ip_neigh(client: &Host, arguments: &[&str]) {
    let (done, printed) = run(client, "ip".as_ref(), &[&["neigh"], arguments].concat());
    assert!(done, "ip neigh {arguments:?}: {printed}");
}

/// What the client's kernel holds of `address`.
fn entry(client: &Host, address: IpAddr) -> Option<(Option<[u8; 6]>, String)> {
    let entries = client.neighbours().unwrap();
    let entry = entries.into_iter().find(|entry| entry.address == address)?;
    Some((entry.mac, entry.state))
}

/// Has the client's kernel resolve `address`, if it does not know it.
fn speak_to(client: &Host, address: IpAddr) {
    let socket = client.enter(|| UdpSocket::bind((unspecified(address), 0)).unwrap());
    let _ = socket.send_to(b"hello", (address, 9));
}

fn unspecified(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The address that a frame speaks for: the sender of an ARP packet, the target of an advertisement.
fn claimed(frame: &Frame) -> Option<IpAddr> {
    match frame.bytes.get(12..14)? {
        [0x08, 0x06] => Some(Ipv4Addr::from(*frame.bytes.get(28..)?.first_chunk()?).into()),
        [0x86, 0xdd] if *frame.bytes.get(54)? == 136 => {
            Some(Ipv6Addr::from(*frame.bytes.get(62..)?.first_chunk()?).into())
        }
        _ => None,
    }
}

/// The address that a frame asks for.
fn asked(frame: &Frame) -> Option<IpAddr> {
    match frame.bytes.get(12..14)? {
        [0x08, 0x06] if *frame.bytes.get(21)? == 1 => {
            Some(Ipv4Addr::from(*frame.bytes.get(38..)?.first_chunk()?).into())
        }
        [0x86, 0xdd] if *frame.bytes.get(54)? == 135 => {
            Some(Ipv6Addr::from(*frame.bytes.get(62..)?.first_chunk()?).into())
        }
        _ => None,
    }
}

/// What is heard from now until nothing more is for a while.
fn heard(tap: &mut Tap) -> Vec<Frame> {
    std::iter::from_fn(|| tap.next(SILENCE).unwrap()).collect()
}

/// A socket of a client that sends frames as they are.
fn raw(host: &Host) -> RawSocket {
    RawSocket::open(host, "eth0").unwrap()
}

/// A broadcast ARP request of the client.
fn request(client: &Host, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], client.mac()].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(client.mac());
    frame.extend(CLIENT_V4.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// A multicast solicitation of the client.
fn solicitation(client: &Host, target: Ipv6Addr) -> Vec<u8> {
    let mac = MacAddr(client.mac());
    let group = ipv6::solicited_node(target);
    let header = ipv6::Header::nd("fd00::100".parse().unwrap(), group);
    let message = Message::Solicitation(Solicitation { target, source_mac: Some(mac), nonce: None });
    message.to_frame(&header, mac, MacAddr::of_ipv6_group(group)).as_bytes().to_vec()
}

/// Sends `bad` questions, then a good one until the owner `a` answers; it must not have answered more than the good
/// ones. One question alone proves nothing on a busy machine: what has waited too long is not answered.
fn answers_only(
    lan: &Lan,
    (injector, tap): (&RawSocket, &mut Tap),
    bad: &[Vec<u8>],
    good: &[u8],
    address: IpAddr,
) {
    // Answers go to the client alone; a directed request, which does as well, is no answer.
    let is_answer = |frame: &Frame| {
        frame.host == "a"
            && frame.bytes[..6] == lan.client.mac()
            && claimed(frame) == Some(address)
            && asked(frame).is_none()
    };
    let mut count = || heard(tap).iter().filter(|frame| is_answer(frame)).count();
    bad.iter().for_each(|frame| injector.send(frame).unwrap());
    let (mut sent, mut answered) = (0, 0);
    eventually("a good question is answered", || {
        injector.send(good).unwrap();
        sent += 1;
        answered += count();
        answered > 0
    });
    assert!(answered <= sent, "{answered} answers to {sent} good questions and {} bad ones", bad.len());
}

/// The same frame with an 802.1Q tag.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0], &vlan.to_be_bytes(), rest].concat()
}

#[test]
fn arping_gets_the_owner_and_nobody_else() {
    netns::test("arping_gets_the_owner_and_nobody_else", || {
        if !have(&["arping"]) {
            return;
        }
        let lan = Lan::new();
        let (a, b) = (Node::start(&lan.a), Node::start(&lan.b));
        b.stand_by(1, &[V4.into()]);
        a.own(1, &[V4.into()], Instant::FAR_FUTURE);
        // Broadcast all along, so that everybody is asked each time; then as it is wont, unicast after the first.
        assert_eq!(answers(&lan.client, &["-b", "-c2", "-w9"], V4), only(&lan.a));
        assert_eq!(answers(&lan.client, &["-c2", "-w9"], V4), only(&lan.a));
        assert_eq!(answers(&lan.client, &["-c1", "-w1"], Ipv4Addr::new(192, 0, 2, 201)), NOBODY);
        assert_eq!(answers(&lan.client, &["-c1", "-w1"], Ipv4Addr::new(192, 0, 2, 11)), only(&lan.a));
    });
}

#[test]
fn arp_scan_finds_each_address_once() {
    netns::test("arp_scan_finds_each_address_once", || {
        if !have(&["arp-scan"]) {
            return;
        }
        let lan = Lan::new();
        let (a, b) = (Node::start(&lan.a), Node::start(&lan.b));
        let address = |last: u8| Ipv4Addr::new(192, 0, 2, last);
        let (of_a, of_b) = (200..205, 205..220);
        a.own(1, &of_a.clone().map(|last| address(last).into()).collect::<Vec<_>>(), Instant::FAR_FUTURE);
        b.own(1, &of_b.clone().map(|last| address(last).into()).collect::<Vec<_>>(), Instant::FAR_FUTURE);
        let scan = netns::find_program("arp-scan").unwrap();
        let options = ["--interface=eth0", "--plain", "--format=${ip} ${mac}", "192.0.2.192/26"];
        let (_, printed) = run(&lan.client, &scan, &options);
        let mut found: Vec<&str> = printed.lines().filter(|line| line.starts_with("192.0.2.2")).collect();
        found.sort_unstable();
        let line = |owner: &Host| {
            let mac = MacAddr(owner.mac());
            move |last| format!("{} {mac}", address(last))
        };
        let mut expected: Vec<String> = of_a.map(line(&lan.a)).chain(of_b.map(line(&lan.b))).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{printed}");
    });
}

#[test]
fn the_portable_backend_answers_and_wakes_up_silent_too() {
    netns::test("the_portable_backend_answers_and_wakes_up_silent_too", || {
        if !have(&["arping"]) {
            return;
        }
        let lan = Lan::new();
        let mut a = Node::start_with(&lan.a, || {
            L2Announcer::with_io(machine::Config::default(), DatalinkIo::open(InterfaceFilter::default()))
        });
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        assert_eq!(answers(&lan.client, &["-c", "3"], V4), only(&lan.a));
        lan.a.set_link("eth0", LinkState::Down).unwrap();
        a.wait(|status| !all_announced(status));
        let before = a.cpu_time();
        assert_eq!(heard(&mut lan.tap()).iter().filter(|frame| frame.host == "a").count(), 0);
        assert!(
            a.cpu_time().saturating_sub(before) < SILENCE / 10,
            "it does not spin while the link is down"
        );
        lan.a.set_link("eth0", LinkState::Up).unwrap();
        a.wait(all_announced);
        eventually("it answers again", || answers(&lan.client, &["-c", "1"], V4) == only(&lan.a));
        a.stop(Stop::Withdraw);
        assert_eq!(answers(&lan.client, &["-c", "1"], V4), NOBODY);
    });
}

#[test]
fn duplicate_address_detection_finds_the_owner() {
    netns::test("duplicate_address_detection_finds_the_owner", || {
        let Some(arping) = netns::find_program("arping") else { return };
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);

        // RFC 5227 §2.1.1, by arping: success is an address that nobody has.
        let probe = |target: Ipv4Addr| {
            run(&lan.client, &arping, &["-D", "-c1", "-w9", "-I", "eth0", &target.to_string()])
        };
        let (free, printed) = probe(V4);
        assert!(!free && printed.to_lowercase().contains("[02:00:00:00:00:01]"), "{printed}");
        assert!(probe(Ipv4Addr::new(192, 0, 2, 201)).0);

        // RFC 4862 §5.4, by the kernel of a client that wants the address for itself.
        lan.client.set_sysctl("net.ipv6.conf.all.accept_dad", "1").unwrap();
        lan.client.set_sysctl("net.ipv6.conf.eth0.accept_dad", "1").unwrap();
        let addresses = |wanted: &str| {
            let (added, printed) =
                run(&lan.client, "ip".as_ref(), &["address", "add", wanted, "dev", "eth0"]);
            assert!(added, "{printed}");
            let address = wanted.split('/').next().unwrap().to_owned();
            let client = &lan.client;
            move || run(client, "ip".as_ref(), &["-o", "-6", "address", "show", "to", &address]).1
        };
        let (taken, free) = (addresses("fd00::200/64"), addresses("fd00::201/64"));
        eventually("the kernel finds the address taken", || taken().contains("dadfailed"));
        eventually("the kernel finds another one free", || !free().contains("tentative"));
    });
}

#[test]
fn ndisc6_gets_the_owner_and_nobody_else() {
    netns::test("ndisc6_gets_the_owner_and_nobody_else", || {
        if !have(&["ndisc6"]) {
            return;
        }
        let lan = Lan::new();
        let (a, b) = (Node::start(&lan.a), Node::start(&lan.b));
        b.stand_by(1, &[V6.into()]);
        a.own(1, &[V6.into()], Instant::FAR_FUTURE);
        assert_eq!(advertisers(&lan.client, V6), only(&lan.a));
        assert_eq!(advertisers(&lan.client, "fd00::201".parse().unwrap()), NOBODY);

        // Switches that snoop on MLD deliver to members only: the owner and its candidates are, in the kernel's words.
        for host in [&lan.a, &lan.b] {
            eventually("the solicited-node group is joined", || {
                let (_, groups) = run(host, "ip".as_ref(), &["maddress", "show", "dev", "eth0"]);
                groups.contains("inet6 ff02::1:ff00:200")
            });
        }
    });
}

#[test]
fn the_kernel_verifies_a_neighbour_by_asking_it_alone() {
    netns::test("the_kernel_verifies_a_neighbour_by_asking_it_alone", || {
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        let mut tap = lan.tap();
        for address in [IpAddr::from(V4), V6.into()] {
            let lladdr = MacAddr(lan.a.mac()).to_string();
            let probe = ["replace", &address.to_string(), "lladdr", &lladdr, "nud", "probe", "dev", "eth0"];
            ip_neigh(&lan.client, &probe);
            eventually("the neighbour is confirmed", || {
                entry(&lan.client, address) == Some((Some(lan.a.mac()), "reachable".to_owned()))
            });
            let question =
                tap.find(PATIENCE, |frame| asked(frame) == Some(address) && frame.host == "client");
            assert_eq!(question.unwrap().unwrap().bytes[..6], lan.a.mac(), "it was asked by unicast");
        }
    });
}

#[test]
fn an_address_that_a_stranger_has_is_left_alone() {
    netns::test("an_address_that_a_stranger_has_is_left_alone", || {
        let lan = Lan::new();
        for address in ["192.0.2.200/24", "fd00::200/64"] {
            lan.client.add_address("eth0", address.parse().unwrap()).unwrap();
        }
        let node = Node::start(&lan.a);
        let mut tap = lan.tap();
        let entry = |address: IpAddr| {
            (address, Announcement::on_segment(LeaseId::FIRST, Term::FIRST, Interfaces::All))
        };
        node.announcer.renew(LeaseId::FIRST, Instant::FAR_FUTURE);
        let free = IpAddr::from([192, 0, 2, 201]);
        let set = AnnounceSet::new(1, [entry(V4.into()), entry(V6.into()), entry(free)]);
        node.announcer.set_desired(Arc::new(set));
        node.wait(|status| {
            let reason = |address: IpAddr| match status.entries.get(&address) {
                Some(AnnounceState::Silent(why)) => why.reason.to_string(),
                Some(_) => "announced".to_owned(),
                None => String::new(),
            };
            let told = [V4.into(), V6.into(), free].map(reason);
            told == ["AddressInUse", "AddressInUse", "announced"]
        });
        let said = node.announcer.status().borrow().to_string();
        let stranger = MacAddr(lan.client.mac());
        assert!(said.contains(&format!("{stranger} has it already")), "{said}");
        let claims: BTreeSet<IpAddr> = heard(&mut tap)
            .iter()
            .filter(|frame| frame.bytes.get(6..12) == Some(&lan.a.mac()[..]))
            .filter_map(claimed)
            .filter(|address| [V4.into(), V6.into(), free].contains(address))
            .collect();
        assert_eq!(claims, [free].into(), "the node speaks for the free one alone");
    });
}

#[test]
fn a_kernel_that_answers_by_itself_is_told_of_with_the_fix() {
    netns::test("a_kernel_that_answers_by_itself_is_told_of_with_the_fix", || {
        let lan = Lan::new();
        let node = Node::start(&lan.a);
        node.stand_by(1, &[V4.into(), V6.into()]);
        let reasons = |status: &AnnounceStatus| {
            let of_kernel = status.conditions.iter().filter(|condition| condition.kind == "KernelAnswers");
            of_kernel.map(|condition| condition.reason.to_string()).collect::<Vec<_>>()
        };
        let told = |expected: &[&str]| node.wait(|status| reasons(status) == expected);
        told(&[]);
        // What kube-proxy in IPVS mode does, without strict ARP.
        let address = || "192.0.2.200/32".parse().unwrap();
        lan.a.add_address("lo", address()).unwrap();
        told(&["ArpIgnoreOff"]);
        let said = node.announcer.status().borrow().to_string();
        assert!(said.contains("strictARP") && said.contains("net.ipv4.conf.all.arp_ignore=1"), "{said}");
        lan.a.remove_address("lo", address()).unwrap();
        told(&[]);
        lan.a.set_sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
        lan.a.add_address("lo", address()).unwrap();
        lan.a.add_address("eth0", "fd00::200/128".parse().unwrap()).unwrap();
        told(&["AddressOnInterface"]);
        assert!(
            node.announcer.status().borrow().to_string().contains("fd00::200 is a local address of eth0")
        );
        lan.a.set_sysctl("net.ipv4.conf.eth0.proxy_arp", "1").unwrap();
        lan.a.remove_address("eth0", "fd00::200/128".parse().unwrap()).unwrap();
        told(&["ProxyArp"]);
    });
}

#[test]
fn a_snooping_switch_delivers_to_a_candidate_in_time_for_its_takeover() {
    netns::test("a_snooping_switch_delivers_to_a_candidate_in_time_for_its_takeover", || {
        if !have(&["ndisc6", "bridge", "ip"]) {
            return;
        }
        let lan = Lan::new();
        // The bridge asks for members itself, as a switch with a querier does, and soon relies on what it hears.
        let switch = lan.segment.switch();
        switch.set_sysctl("net.ipv6.conf.br0.disable_ipv6", "0").unwrap();
        let of_bridge = "link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 50 \
                         mcast_startup_query_interval 50";
        let set = switch.output(Command::new("ip").args(of_bridge.split_whitespace())).unwrap();
        assert!(set.status.success(), "{set:?}");
        let delivers_to = |name: &str| {
            let shown = switch.output(Command::new("bridge").args(["mdb", "show"])).unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            shown.lines().any(|line| line.contains(&format!("port {name} grp ff02::1:ff00:200 ")))
        };
        let (mut a, b) = (Node::start(&lan.a), Node::start(&lan.b));
        a.own(1, &[V6.into()], Instant::FAR_FUTURE);
        eventually("the switch knows that the owner listens", || delivers_to("a"));
        assert_eq!(advertisers(&lan.client, V6), only(&lan.a));
        assert!(!delivers_to("b"), "nobody but the owner is asked");
        b.stand_by(1, &[V6.into()]);
        eventually("the switch knows that the candidate listens", || delivers_to("b"));
        a.stop(Stop::Withdraw);
        b.own(2, &[V6.into()], Instant::FAR_FUTURE);
        assert_eq!(advertisers(&lan.client, V6), only(&lan.b), "at once, without a round of MLD");
        // An interface that comes back joins again by itself.
        lan.b.set_link("eth0", LinkState::Down).unwrap();
        eventually("the switch forgets it", || !delivers_to("b"));
        lan.b.set_link("eth0", LinkState::Up).unwrap();
        b.wait(all_announced);
        eventually("the switch knows it again", || delivers_to("b"));
        eventually("the owner answers again", || advertisers(&lan.client, V6) == only(&lan.b));
    });
}

#[test]
fn more_groups_are_joined_than_one_socket_may_and_at_the_pace() {
    netns::test("more_groups_are_joined_than_one_socket_may_and_at_the_pace", || {
        const COUNT: u16 = 3000;
        let lan = Lan::new();
        let mut config = Config::default();
        config.machine.pace.burst = 1000;
        config.machine.pace.per_second = 2000;
        let a = Node::start_with(&lan.a, || L2Announcer::new(config).unwrap());
        let joined = || {
            let groups = lan.a.enter(|| std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap());
            groups.lines().filter(|line| line.contains(" eth0 ") && line.contains("1ff01")).count()
        };
        let begin = Instant::now();
        let addresses: Vec<IpAddr> =
            (0..COUNT).map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, n).into()).collect();
        a.stand_by(1, &addresses);
        assert!(joined() < 2000, "not all at once");
        eventually("all are joined", || joined() == usize::from(COUNT));
        assert!(
            Instant::now().saturating_since(begin) >= Duration::from_millis(900),
            "2000 beyond the burst at 2000 a second"
        );
        a.stand_by(2, &[]);
        eventually("all are left", || joined() == 0);
    });
}

/// Has a client in touch with the owner, then moves the address; says how the client's entry came to change.
fn takeover(lan: &Lan, address: IpAddr, from: (&Host, &Node), to: (&Host, &Node), generation: u64) {
    let client = &lan.client;
    speak_to(client, address);
    eventually("the client reaches the owner", || {
        entry(client, address) == Some((Some(from.0.mac()), "reachable".to_owned()))
    });
    let mut tap = lan.tap();
    from.1.stand_by(generation, &[address]);
    to.1.own(generation, &[address], Instant::FAR_FUTURE);
    eventually("the client's kernel has the new owner", || {
        entry(client, address).and_then(|entry| entry.0) == Some(to.0.mac())
    });
    let frames = heard(&mut tap);
    let questions = frames.iter().filter(|frame| frame.host == "client" && asked(frame) == Some(address));
    assert_eq!(questions.count(), 0, "it was told without asking");
    let former = frames.iter().filter(|frame| frame.host == from.0.name() && claimed(frame) == Some(address));
    assert_eq!(former.count(), 0, "the former owner is silent");
}

#[test]
fn a_takeover_changes_the_clients_table_at_once() {
    netns::test("a_takeover_changes_the_clients_table_at_once", || {
        for address in [IpAddr::from(V4), V6.into()] {
            let lan = Lan::new();
            let (a, b) = (Node::start(&lan.a), Node::start(&lan.b));
            b.stand_by(1, &[address]);
            a.own(1, &[address], Instant::FAR_FUTURE);
            takeover(&lan, address, (&lan.a, &a), (&lan.b, &b), 2);
            // And back, with an entry that is as fresh as can be.
            ip_neigh(&lan.client, &["flush", "dev", "eth0"]);
            takeover(&lan, address, (&lan.b, &b), (&lan.a, &a), 3);
        }
    });
}

#[test]
fn who_asked_in_vain_is_told_when_there_is_an_owner() {
    netns::test("who_asked_in_vain_is_told_when_there_is_an_owner", || {
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        a.stand_by(1, &[V4.into()]);
        let mut tap = lan.tap();
        speak_to(&lan.client, V4.into());
        tap.find(PATIENCE, |frame| asked(frame) == Some(V4.into())).unwrap().unwrap();
        eventually("the client gives up", || {
            entry(&lan.client, V4.into()) == Some((None, "failed".to_owned()))
        });
        ip_neigh(&lan.client, &["flush", "dev", "eth0", "nud", "all"]);
        assert_eq!(entry(&lan.client, V4.into()), None);
        a.own(2, &[V4.into()], Instant::FAR_FUTURE);
        eventually("the client's kernel has an entry that it did not ask for", || {
            entry(&lan.client, V4.into()).and_then(|entry| entry.0) == Some(lan.a.mac())
        });
    });
}

#[test]
fn nothing_is_answered_after_the_deadline_of_the_lease() {
    netns::test("nothing_is_answered_after_the_deadline_of_the_lease", || {
        if !have(&["arping", "ndisc6"]) {
            return;
        }
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        let (injector, mut tap) = (raw(&lan.client), lan.tap());
        let until = Instant::now() + Duration::from_millis(800);
        a.own(1, &[V4.into(), V6.into()], until);
        // Asked all the time, it answers up to the deadline and not beyond.
        let (mut last, mut asked_since) = ([Instant::ZERO; 2], 0);
        let end = until + SILENCE;
        while Instant::now() < end {
            injector.send(&request(&lan.client, V4)).unwrap();
            injector.send(&solicitation(&lan.client, V6)).unwrap();
            asked_since += u32::from(until < Instant::now());
            while let Some(frame) = tap.next(Duration::from_millis(1)).unwrap() {
                if frame.host == "a"
                    && claimed(&frame).is_some_and(|address| [V4.into(), V6.into()].contains(&address))
                {
                    last[usize::from(claimed(&frame).unwrap().is_ipv6())] = frame.at;
                }
            }
        }
        assert!(asked_since > 10, "{asked_since}");
        for last in last {
            assert!(last > until - Duration::from_millis(400), "{last:?} is long before {until:?}");
            // What was handed to the kernel just before may be heard a little later; on a busy machine, more so.
            assert!(last < until + Duration::from_millis(100), "{last:?} is after {until:?}");
        }
        assert_eq!(answers(&lan.client, &["-c1", "-w1"], V4), NOBODY);
        assert_eq!(advertisers(&lan.client, V6), NOBODY);
        // With a renewal it is back, and says so by itself.
        a.own(2, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        assert_eq!(answers(&lan.client, &["-f", "-w9"], V4), only(&lan.a));
        assert_eq!(advertisers(&lan.client, V6), only(&lan.a));
    });
}

#[test]
fn nothing_is_answered_after_a_stop() {
    netns::test("nothing_is_answered_after_a_stop", || {
        if !have(&["arping", "ndisc6"]) {
            return;
        }
        let lan = Lan::new();
        let mut a = Node::start(&lan.a);
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        assert_eq!(answers(&lan.client, &["-f", "-w9"], V4), only(&lan.a));
        a.stop(Stop::Withdraw);
        assert!(a.announcer.status().borrow().entries.is_empty());
        let mut tap = lan.tap();
        assert_eq!(answers(&lan.client, &["-c1", "-w1"], V4), NOBODY);
        assert_eq!(advertisers(&lan.client, V6), NOBODY);
        let own = [V4.into(), V6.into()];
        let spoke = |frame: &Frame| claimed(frame).is_some_and(|address| own.contains(&address));
        assert_eq!(heard(&mut tap).iter().filter(|frame| spoke(frame)).count(), 0);
    });
}

/// How long the owner that is frozen has its address.
const LEASE: Duration = Duration::from_secs(2);

/// Not a test of its own: the owner that the next one freezes. It owns the address for two seconds, then waits until it
/// has turned down as many questions as its environment says.
#[test]
#[ignore = "the process of another test"]
fn owns_for_two_seconds() {
    let Some(expected) = std::env::var_os("QUESTIONS") else { return };
    let expected: u64 = expected.to_str().unwrap().parse().unwrap();
    in_runtime(async {
        let (announcer, driver) = L2Announcer::new(Config::default()).unwrap();
        let lease = LeaseId::FIRST;
        let announcement = Announcement::on_segment(lease, Term(2), Interfaces::All);
        announcer.set_desired(Arc::new(AnnounceSet::new(1, [(V4.into(), announcement)])));
        announcer.renew(lease, Instant::now() + LEASE);
        let (mut status, mut counters) = (announcer.status(), announcer.counters());
        let done = async {
            status.wait_for(|status| all_announced(status)).await.unwrap();
            println!("\nowner");
            let turned_down =
                |counters: &Counters| counters.dropped_stale + counters.dropped_unleased >= expected;
            counters.wait_for(turned_down).await.unwrap();
            Stop::Withdraw
        };
        // Whoever waits for this process must not wait for ever.
        let done = async { tokio::time::timeout(PATIENCE, done).await.unwrap() };
        driver.run(done).await.unwrap();
    });
}

#[test]
fn an_owner_that_was_frozen_wakes_up_silent() {
    netns::test("an_owner_that_was_frozen_wakes_up_silent", || {
        const QUESTIONS: u32 = 200;
        let lan = Lan::new();
        let mut owner = lan
            .a
            .spawn(
                Command::new(std::env::current_exe().unwrap())
                    .args(["owns_for_two_seconds", "--exact", "--ignored", "--nocapture"])
                    .env("QUESTIONS", QUESTIONS.to_string())
                    .stdout(Stdio::piped()),
            )
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "owner"));
        let expired = Instant::now() + LEASE;
        let process = Pid::from_raw(owner.id().cast_signed());
        kill(process, Signal::SIGSTOP).unwrap();
        eventually("the process stands still", || {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        });
        let mut tap = lan.tap();
        let injector = raw(&lan.client);
        for _ in 0..QUESTIONS {
            injector.send(&request(&lan.client, V4)).unwrap();
        }
        let by_the_owner = |frame: &Frame| claimed(frame) == Some(V4.into());
        let lease = expired.saturating_since(Instant::now());
        assert_eq!(tap.find(lease, by_the_owner).unwrap(), None, "a frozen process speaks");
        kill(process, Signal::SIGCONT).unwrap();
        // It ends by itself once it has read all the questions.
        assert!(owner.wait().unwrap().success());
        assert_eq!(tap.find(SILENCE, by_the_owner).unwrap(), None);
    });
}

#[test]
fn questions_of_another_vlan_are_not_answered() {
    netns::test("questions_of_another_vlan_are_not_answered", || {
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        let (injector, mut tap) = (raw(&lan.client), lan.tap());
        for (question, address) in
            [(request(&lan.client, V4), IpAddr::from(V4)), (solicitation(&lan.client, V6), V6.into())]
        {
            let foreign = [5, 4095].map(|vlan| tagged(&question, vlan));
            // VLAN 0 is a priority and no VLAN (IEEE 802.1Q §9.6).
            for good in [&question, &tagged(&question, 0)] {
                answers_only(&lan, (&injector, &mut tap), &foreign, good, address);
            }
        }
    });
}

#[test]
fn what_is_cut_or_forged_is_not_answered() {
    netns::test("what_is_cut_or_forged_is_not_answered", || {
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        let (injector, mut tap) = (raw(&lan.client), lan.tap());
        let (arp, ns) = (request(&lan.client, V4), solicitation(&lan.client, V6));
        let cut = |frame: &[u8]| (14..frame.len()).map(|length| frame[..length].to_vec()).collect::<Vec<_>>();
        let forged = |frame: &[u8], at: usize| {
            let mut frame = frame.to_vec();
            frame[at] ^= 0x40;
            frame
        };
        // The types and lengths of ARP; of a solicitation the next header, the hop limit and all that the checksum
        // covers.
        let mut bad = cut(&arp);
        bad.extend((14..22).map(|at| forged(&arp, at)));
        // Padding is no fault: short frames are padded on the wire. This one is as long as they get.
        let padded = [&arp[..], &vec![0; 1500 - arp.len()]].concat();
        answers_only(&lan, (&injector, &mut tap), &bad, &padded, V4.into());

        let mut bad = cut(&ns);
        bad.extend((20..ns.len()).map(|at| forged(&ns, at)));
        answers_only(&lan, (&injector, &mut tap), &bad, &ns, V6.into());
    });
}

#[test]
fn an_interface_that_goes_down_costs_nothing_and_is_announced_on_when_it_is_back() {
    netns::test("an_interface_that_goes_down_costs_nothing_and_is_announced_on_when_it_is_back", || {
        if !have(&["arping"]) {
            return;
        }
        let lan = Lan::new();
        let a = Node::start(&lan.a);
        a.own(1, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        type Change<'a> = &'a dyn Fn();
        let switched: (Change<'_>, Change<'_>) =
            (&|| lan.a.set_link("eth0", LinkState::Down).unwrap(), &|| {
                lan.a.set_link("eth0", LinkState::Up).unwrap();
            });
        let unplugged: (Change<'_>, Change<'_>) =
            (&|| lan.segment.cut(&lan.a).unwrap(), &|| lan.segment.restore(&lan.a).unwrap());
        for (down, up) in [switched, unplugged] {
            down();
            a.wait(|status| !all_announced(status));
            let mut tap = lan.tap();
            let before = a.cpu_time();
            assert_eq!(heard(&mut tap).iter().filter(|frame| frame.host == "a").count(), 0);
            let spent = a.cpu_time().saturating_sub(before);
            assert!(spent < SILENCE / 10, "{spent:?} of {SILENCE:?} to wait for a link");
            up();
            a.wait(all_announced);
            for address in [IpAddr::from(V4), V6.into()] {
                let told = tap.find(PATIENCE, |frame| frame.host == "a" && claimed(frame) == Some(address));
                assert!(told.unwrap().is_some(), "{address} is announced anew");
            }
            assert_eq!(answers(&lan.client, &["-f", "-w9"], V4), only(&lan.a));
        }
    });
}

/// A capture in the format of libpcap, for other programs to read.
fn pcap(frames: &[Frame]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames {
        let length = u32::try_from(frame.bytes.len()).unwrap();
        for word in [0, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(&frame.bytes);
    }
    file
}

#[test]
fn tcpdump_finds_nothing_malformed() {
    netns::test("tcpdump_finds_nothing_malformed", || {
        let Some(tcpdump) = netns::find_program("tcpdump") else { return };
        if !have(&["arping", "ndisc6"]) {
            return;
        }
        let lan = Lan::new();
        lan.a.add_route("0.0.0.0/0".parse().unwrap(), lan.b.addresses()[0].addr()).unwrap();
        let mut tap = lan.tap();
        let a = Node::start(&lan.a);
        a.stand_by(1, &[V4.into(), V6.into()]);
        // Every kind of frame: announcements to all, to the gateway and to who asked; answers to a question, to a
        // question of one host alone, and to a probe.
        speak_to(&lan.client, V4.into());
        let mut counters = a.announcer.counters();
        in_runtime(async { counters.wait_for(|counters| counters.received > 0).await.unwrap().received });
        a.own(2, &[V4.into(), V6.into()], Instant::FAR_FUTURE);
        assert_eq!(answers(&lan.client, &["-c2", "-w9"], V4), only(&lan.a));
        assert_eq!(answers(&lan.client, &["-D", "-f", "-w9"], V4), only(&lan.a));
        assert_eq!(advertisers(&lan.client, V6), only(&lan.a));
        let frames: Vec<Frame> = heard(&mut tap)
            .into_iter()
            .filter(|frame| claimed(frame).is_some_and(|address| [V4.into(), V6.into()].contains(&address)))
            .collect();
        assert!(frames.iter().all(|frame| frame.host == "a"));
        let file = format!("{}/frames.pcap", netns::SCRATCH);
        std::fs::write(&file, pcap(&frames)).unwrap();
        // As root it would want to become another user, and here is none: so it is started as nobody.
        let arguments = ["--user", tcpdump.to_str().unwrap(), "-n", "-e", "-t", "-vv", "-r", &file];
        let (read, printed) = run(&lan.client, "unshare".as_ref(), &arguments);
        assert!(read, "{printed}");
        for word in ["malformed", "truncated", "bad", "invalid", "[|", "unknown"] {
            assert!(!printed.contains(word), "{word}: {printed}");
        }
        for form in [
            "> ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: Ethernet (len 6), IPv4 (len 4), Request who-has \
             192.0.2.200 tell 192.0.2.200, length 28",
            "> ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: Ethernet (len 6), IPv4 (len 4), Request who-has \
             192.0.2.12 tell 192.0.2.200, length 28",
            "> 02:00:00:00:00:03, ethertype ARP (0x0806), length 42: Ethernet (len 6), IPv4 (len 4), Request who-has \
             192.0.2.100 tell 192.0.2.200, length 28",
            "> 02:00:00:00:00:03, ethertype ARP (0x0806), length 42: Ethernet (len 6), IPv4 (len 4), Reply \
             192.0.2.200 is-at 02:00:00:00:00:01, length 28",
            "> 33:33:00:00:00:01, ethertype IPv6 (0x86dd), length 86: (hlim 255, next-header ICMPv6 (58) payload \
             length: 32) fd00::200 > ff02::1: [icmp6 sum ok] ICMP6, neighbor advertisement, length 32, tgt is \
             fd00::200, Flags [override]",
            "> 02:00:00:00:00:03, ethertype IPv6 (0x86dd), length 86: (hlim 255, next-header ICMPv6 (58) payload \
             length: 32) fd00::200 > fe80::ff:fe00:3: [icmp6 sum ok] ICMP6, neighbor advertisement, length 32, tgt is \
             fd00::200, Flags [solicited, override]",
        ] {
            assert!(printed.contains(form), "{form}: {printed}");
        }
    });
}
