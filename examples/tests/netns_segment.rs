//! Segments, hosts, cables and taps, in namespaces that each test makes for itself.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use lbcore_examples::netns::{self, Host, Segment, TapFilter};

const PATIENCE: Duration = Duration::from_secs(10);

fn nets(addresses: &[&str]) -> Vec<IpNet> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn two_hosts() -> (Segment, Host, Host) {
    let segment = Segment::new("lan").unwrap();
    let a = segment.host("a", &nets(&["192.0.2.1/24", "2001:db8::1/64"])).unwrap();
    let b = segment.host("b", &nets(&["192.0.2.2/24", "2001:db8::2/64"])).unwrap();
    (segment, a, b)
}

/// One word from `client` to `server` over TCP.
fn tell(client: &Host, server: &Host, at: SocketAddr) -> io::Result<String> {
    let listener = server.enter(|| TcpListener::bind(at))?;
    let mut sent = client.enter(|| TcpStream::connect_timeout(&at, PATIENCE))?;
    sent.write_all(b"hello")?;
    drop(sent);
    let mut word = String::new();
    listener.accept()?.0.read_to_string(&mut word)?;
    Ok(word)
}

#[test]
fn two_hosts_talk_over_the_bridge() {
    netns::test("two_hosts_talk_over_the_bridge", || {
        let (_segment, a, b) = two_hosts();
        assert_eq!(tell(&b, &a, "192.0.2.1:80".parse().unwrap()).unwrap(), "hello");
        assert_eq!(tell(&a, &b, "[2001:db8::2]:80".parse().unwrap()).unwrap(), "hello");

        let entry =
            b.neighbours().unwrap().into_iter().find(|entry| entry.address == a.addresses()[0].addr());
        assert_eq!(entry.unwrap().mac, Some(a.mac()));
        assert_eq!(a.mac(), [2, 0, 0, 0, 0, 1]);
        assert_eq!(b.link("eth0").unwrap().1, b.mac());
    });
}

#[test]
fn what_is_sent_into_a_cut_cable_is_lost_and_a_mended_one_carries_again() {
    netns::test("what_is_sent_into_a_cut_cable_is_lost_and_a_mended_one_carries_again", || {
        let (segment, a, b) = two_hosts();
        let socket = a.enter(|| UdpSocket::bind("192.0.2.1:9")).unwrap();
        let sender = b.enter(|| UdpSocket::bind("192.0.2.2:9")).unwrap();
        sender.connect("192.0.2.1:9").unwrap();
        let mut buffer = [0; 16];
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        sender.send(b"before").unwrap();
        assert_eq!(socket.recv(&mut buffer).unwrap(), 6);

        segment.cut(&a).unwrap();
        sender.send(b"during").unwrap();
        segment.restore(&a).unwrap();

        // The port may need a moment: what was sent last arrives at some time, what was sent during the cut never.
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let received = (0..500).find_map(|_| {
            sender.send(b"after").ok()?;
            socket.recv(&mut buffer).ok()
        });
        assert_eq!(&buffer[..received.expect("the mended cable carries")], b"after");
    });
}

#[test]
fn isolated_branches_hear_the_trunk_and_not_each_other() {
    netns::test("isolated_branches_hear_the_trunk_and_not_each_other", || {
        let segment = Segment::new("lan").unwrap();
        let [near, far] = ["near", "far"].map(|name| segment.branch(name).unwrap());
        let a = near.host("a", &nets(&["192.0.2.1/24"])).unwrap();
        let b = far.host("b", &nets(&["192.0.2.2/24"])).unwrap();
        let c = segment.host("c", &nets(&["192.0.2.3/24"])).unwrap();
        let hears = |one: &Host, other: &Host| {
            let at = SocketAddr::new(other.addresses()[0].addr(), 9);
            let ear = other.enter(|| UdpSocket::bind(at).unwrap());
            ear.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            one.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).send_to(b"hello", at).unwrap();
            ear.recv(&mut [0; 8]).is_ok()
        };
        assert!(hears(&a, &b) && hears(&a, &c) && hears(&c, &b));
        for branch in [&near, &far] {
            branch.set_isolated(true).unwrap();
        }
        assert!(!hears(&a, &b) && !hears(&b, &a));
        assert!(hears(&a, &c) && hears(&c, &b));
        // A branch's host is one of the segment: its cable can be cut, and its frames are known by it.
        let mut tap = segment.tap(TapFilter::Neighbour).unwrap();
        segment.cut(&a).unwrap();
        assert!(!hears(&a, &c));
        segment.restore(&a).unwrap();
        for branch in [&near, &far] {
            branch.set_isolated(false).unwrap();
        }
        assert!(hears(&a, &b));
        let from_a = tap.find(PATIENCE, |frame| frame.host == "a").unwrap();
        assert!(from_a.is_some());
    });
}

#[test]
fn addresses_that_are_not_kept_are_taken_away() {
    netns::test("addresses_that_are_not_kept_are_taken_away", || {
        let (_segment, a, _b) = two_hosts();
        a.add_address("eth0", "192.0.2.201/32".parse().unwrap()).unwrap();
        a.add_address("lo", "2001:db8::201/128".parse().unwrap()).unwrap();
        let own: Vec<IpAddr> = a.addresses().iter().map(IpNet::addr).collect();
        a.keep_addresses(&own).unwrap();
        let listed = a.output(Command::new("ip").args(["-brief", "address"])).unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(!listed.contains("201"), "{listed}");
        for kept in ["127.0.0.1/8", "192.0.2.1/24", "2001:db8::1/64", "fe80::"] {
            assert!(listed.contains(kept), "{listed}");
        }
    });
}

#[test]
fn a_tap_names_the_cable_that_a_frame_came_in_by() {
    netns::test("a_tap_names_the_cable_that_a_frame_came_in_by", || {
        let (segment, a, b) = two_hosts();
        let mut all = segment.tap(TapFilter::All).unwrap();
        let mut neighbour = segment.tap(TapFilter::Neighbour).unwrap();
        let started = lbcore::time::Instant::now();
        tell(&b, &a, "192.0.2.1:80".parse().unwrap()).unwrap();
        tell(&b, &a, "[2001:db8::1]:80".parse().unwrap()).unwrap();

        let is = |ether_type: [u8; 2], operation: u8| {
            move |bytes: &[u8]| bytes.get(12..14) == Some(&ether_type) && bytes.get(21) == Some(&operation)
        };
        let (request, reply) = (is([0x08, 0x06], 1), is([0x08, 0x06], 2));
        for tap in [&mut all, &mut neighbour] {
            let asked = tap.find(PATIENCE, |frame| request(&frame.bytes)).unwrap().unwrap();
            assert_eq!((asked.host.as_str(), &asked.bytes[6..12]), ("b", &b.mac()[..]));
            let answered = tap.find(PATIENCE, |frame| reply(&frame.bytes)).unwrap().unwrap();
            assert_eq!((answered.host.as_str(), &answered.bytes[6..12]), ("a", &a.mac()[..]));
            assert!(started <= asked.at && asked.at <= answered.at);
            assert!(answered.at <= lbcore::time::Instant::now());
        }
        let tcp = |bytes: &[u8]| bytes.get(12..14) == Some(&[0x08, 0]) && bytes.get(23) == Some(&6);
        assert!(all.find(PATIENCE, |frame| tcp(&frame.bytes)).unwrap().is_some());
        // Each frame once, though the bridge copies it: the next solicitation of this kind is NDP's own.
        let advertisement =
            |bytes: &[u8]| bytes.get(12..14) == Some(&[0x86, 0xdd]) && bytes.get(54) == Some(&136);
        let next = neighbour.find(PATIENCE, |frame| {
            assert!(!tcp(&frame.bytes), "the filter lets only ARP and NDP through");
            advertisement(&frame.bytes)
        });
        assert_eq!(next.unwrap().unwrap().host, "a");
    });
}

#[test]
fn a_router_with_a_cable_to_each_of_two_segments_forwards() {
    netns::test("a_router_with_a_cable_to_each_of_two_segments_forwards", || {
        let (left, a, _b) = two_hosts();
        let right = Segment::new("wan").unwrap();
        let c = right.host("c", &nets(&["198.51.100.1/24"])).unwrap();
        let router = left.host("router", &nets(&["192.0.2.254/24"])).unwrap();
        right.plug(&router, "eth1", &nets(&["198.51.100.254/24"])).unwrap();
        router.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
        a.add_route("198.51.100.0/24".parse().unwrap(), IpAddr::from([192, 0, 2, 254])).unwrap();
        c.add_route("0.0.0.0/0".parse().unwrap(), IpAddr::from([198, 51, 100, 254])).unwrap();
        assert_eq!(tell(&a, &c, "198.51.100.1:80".parse().unwrap()).unwrap(), "hello");
    });
}

#[test]
fn settings_and_addresses_are_those_of_one_namespace() {
    netns::test("settings_and_addresses_are_those_of_one_namespace", || {
        let (_segment, a, b) = two_hosts();
        a.set_sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
        assert_eq!(a.sysctl("net/ipv4/conf/all/arp_ignore").unwrap(), "1");
        assert_eq!(b.sysctl("net.ipv4.conf.all.arp_ignore").unwrap(), "0");

        let virtual_address: IpNet = "192.0.2.200/32".parse().unwrap();
        let listen = |host: &Host| host.enter(|| TcpListener::bind("192.0.2.200:80")).map(drop);
        assert!(listen(&a).is_err());
        a.add_address("lo", virtual_address).unwrap();
        listen(&a).unwrap();
        assert!(listen(&b).is_err());
        a.remove_address("lo", virtual_address).unwrap();
        assert!(listen(&a).is_err());

        let error = a.remove_address("lo", virtual_address).unwrap_err();
        assert_eq!(error.to_string(), "remove 192.0.2.200/32 from lo in a");
        assert!(a.link("eth9").is_err());
    });
}

#[test]
fn a_program_runs_in_the_namespace_of_its_host() {
    netns::test("a_program_runs_in_the_namespace_of_its_host", || {
        let (_segment, a, b) = two_hosts();
        let namespace = |host: &Host| {
            let output = host.output(Command::new("readlink").arg("/proc/self/ns/net")).unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_ne!(namespace(&a), namespace(&b));
        assert_eq!(namespace(&a), namespace(&a));
        let variables = a.output(&mut Command::new("env")).unwrap().stdout;
        assert!(!String::from_utf8(variables).unwrap().contains("LBCORE_NETNS_TEST="));
    });
}

/// What `netns::test` panics with; `None` where it cannot run at all.
fn failure(name: &str, body: impl FnOnce()) -> Option<String> {
    if !netns::can_test(name) {
        return None;
    }
    let panic = catch_unwind(AssertUnwindSafe(|| netns::test(name, body))).unwrap_err();
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

#[test]
fn a_failure_inside_is_a_failure_outside() {
    const NAME: &str = "a_failure_inside_is_a_failure_outside";
    if let Some(message) = failure(NAME, || std::process::exit(7)) {
        assert!(message.contains("failed in its namespaces (exit status: 7)"), "{message}");
    }
}

#[test]
fn a_misspelt_name_is_not_a_pass() {
    if let Some(message) = failure("misspelt", || unreachable!("no test has this name")) {
        assert_eq!(message, "there is no test named misspelt");
    }
}

/// Not a test of its own: what the next one kills.
#[test]
#[ignore = "runs until it is killed"]
fn holds_two_hosts_forever() {
    netns::test("holds_two_hosts_forever", || {
        let (_segment, a, _b) = two_hosts();
        let pipe = || OpenOptions::new().write(true).open(std::env::var_os("NETNS_PIPE").unwrap()).unwrap();
        let mut child = a.spawn(Command::new("sleep").arg("1000").stdout(pipe())).unwrap();
        writeln!(pipe(), "up").unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_killed_test_leaves_no_process_behind() {
    if !netns::can_test("a_killed_test_leaves_no_process_behind") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut outer = Command::new(std::env::current_exe().unwrap())
        .args(["holds_two_hosts_forever", "--exact", "--ignored"])
        .env("NETNS_PIPE", &pipe)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut reader = OpenOptions::new().read(true).open(&pipe).unwrap();
    let mut word = [0; 3];
    reader.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"up\n");
    outer.kill().unwrap();
    outer.wait().unwrap();
    // The end of the pipe is the end of the last process that holds it.
    assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
}
