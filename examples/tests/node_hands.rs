//! What the node does to its machine, judged by other hosts of a segment: addresses end here without the kernel
//! answering ARP for them, plain services are forwarded by nftables and by the relay, and nothing stays behind.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use lbcore::allocator::Protocol;
use lbcore_examples::netns::{self, Host, Segment};
use lbcore_examples::node::delivery::{Delivery, Sysctls};
use lbcore_examples::node::forward::nft::Nft;
use lbcore_examples::node::forward::relay::Relay;
use lbcore_examples::node::forward::{Forwarder, Forwarding, Frontend};

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    // A worker of its own, so that the relay goes on while the test waits for an answer.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| address(text)).collect()
}

fn host(segment: &Segment, name: &str, addresses: &[&str]) -> Host {
    let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    segment.host(name, &addresses).unwrap()
}

/// The addresses on `lo` besides the loopback ones, as `ip` tells them.
fn on_loopback(host: &Host) -> Vec<String> {
    let output = host.output(Command::new("ip").args(["-o", "address", "show", "dev", "lo"])).unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned))
        .filter(|address| address != "127.0.0.1/8" && address != "::1/128")
        .collect()
}

#[test]
fn addresses_come_and_go_and_the_kernel_is_silent_about_them() {
    netns::test("addresses_come_and_go_and_the_kernel_is_silent_about_them", || {
        let Some(arping) = netns::find_program("arping") else { return };
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "node", &["192.0.2.11/24", "fd00::11/64"]);
        let client = host(&lan, "client", &["192.0.2.100/24", "fd00::100/64"]);
        let before = node.sysctl("net.ipv4.conf.all.arp_ignore").unwrap();
        node.enter(|| in_runtime(async { Delivery::new().await.unwrap().undo().await }));
        assert_eq!(node.sysctl("net.ipv4.conf.all.arp_ignore").unwrap(), before, "settings are put back");
        node.enter(|| {
            in_runtime(async {
                // A process that is killed leaves its addresses.
                let mut killed = Delivery::new().await.unwrap();
                assert!(killed.apply(&set(&["192.0.2.200", "192.0.2.201", "fd00::200"])).await.is_empty());
                drop(killed);
            });
        });
        assert_eq!(on_loopback(&node), ["192.0.2.200/32", "192.0.2.201/32", "fd00::200/128"]);

        node.enter(|| {
            in_runtime(async {
                let mut delivery = Delivery::new().await.unwrap();
                assert!(delivery.apply(&set(&["192.0.2.200", "192.0.2.202"])).await.is_empty());
                assert_eq!(
                    on_loopback(&node),
                    ["192.0.2.200/32", "192.0.2.202/32"],
                    "what was left is found"
                );
                let answers = |target: &str| {
                    let mut arping = Command::new(&arping);
                    arping.args(["-c", "1", "-w", "1", "-I", "eth0", target]);
                    client.output(&mut arping).unwrap().status.success()
                };
                assert!(answers("192.0.2.11"), "the node answers for its own address");
                assert!(!answers("192.0.2.200"), "it leaves the service's address to the announcer");
                delivery.undo().await;
            });
        });
        assert_eq!(on_loopback(&node), [] as [&str; 0]);
    });
}

#[test]
fn an_address_of_others_stays_though_ours_is_the_same() {
    netns::test("an_address_of_others_stays_though_ours_is_the_same", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "node", &["192.0.2.11/24"]);
        for address in ["192.0.2.200/24", "fd00::200/64", "192.0.2.201/32"] {
            let added =
                node.output(Command::new("ip").args(["address", "add", address, "dev", "lo"])).unwrap();
            assert!(added.status.success(), "{address}");
        }
        let before = on_loopback(&node);
        node.enter(|| {
            in_runtime(async {
                let mut delivery = Delivery::new().await.unwrap();
                let wanted = set(&["192.0.2.200", "fd00::200", "192.0.2.201"]);
                assert!(delivery.apply(&wanted).await.is_empty());
                delivery.undo().await;
            });
        });
        assert_eq!(on_loopback(&node), before);
    });
}

#[test]
fn an_address_that_is_refused_keeps_no_other_from_coming_or_going() {
    netns::test("an_address_that_is_refused_keeps_no_other_from_coming_or_going", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "node", &["192.0.2.11/24"]);
        node.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1").unwrap();
        let held = node.enter(|| {
            in_runtime(async {
                let mut delivery = Delivery::new().await.unwrap();
                assert!(delivery.apply(&set(&["192.0.2.200"])).await.is_empty());
                let failed = delivery.apply(&set(&["fd00::200", "192.0.2.201"])).await;
                let said: Vec<_> = failed.values().map(ToString::to_string).collect();
                assert!(said.len() == 1 && said[0].contains("disable_ipv6=0"), "{said:?}");
                let held = on_loopback(&node);
                delivery.undo().await;
                held
            })
        });
        assert_eq!(held, ["192.0.2.201/32"]);
        assert_eq!(on_loopback(&node), [] as [&str; 0]);
    });
}

#[test]
fn a_machine_that_forwards_still_learns_its_routes() {
    netns::test("a_machine_that_forwards_still_learns_its_routes", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "node", &["fd00::11/64"]);
        let settings = || {
            let path = "/proc/sys/net/ipv6/conf";
            let read =
                |name: String| std::fs::read_to_string(format!("{path}/{name}")).unwrap().trim().to_owned();
            let mut found = std::collections::BTreeMap::new();
            for entry in std::fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                found.insert(name.clone(), read(format!("{name}/accept_ra")));
            }
            (read("all/forwarding".to_owned()), found)
        };
        let [before, during, after] = node.enter(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/lo/accept_ra", "0").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_ra", "1").unwrap();
            let before = settings();
            let mut sysctls = Sysctls::default();
            sysctls.forward_ipv6().unwrap();
            let during = settings();
            sysctls.restore();
            [before, during, settings()]
        });
        assert_eq!((&*before.0, &*during.0), ("0", "1"));
        for (interface, heeds) in &before.1 {
            let expected = if heeds == "1" { "2" } else { heeds };
            assert_eq!(during.1[interface], expected, "{interface}");
        }
        assert!(before.1.values().any(|heeds| heeds == "1") && before.1["lo"] == "0");
        assert_eq!(after, before);
    });
}

/// A web of one word on each of two hosts, a node between, and a client that has a route to the service.
fn forwards(forwarder: impl AsyncFnOnce() -> Forwarder + Send, address: IpAddr, servers: [&str; 2]) {
    let servers = servers.map(|server| server.parse::<SocketAddr>().unwrap());
    let lan = Segment::new("lan").unwrap();
    let node = host(&lan, "node", &["192.0.2.11/24", "fd00::11/64"]);
    let client = host(&lan, "client", &["192.0.2.100/24", "fd00::100/64"]);
    let webs = [
        host(&lan, "web1", &["192.0.2.21/24", "fd00::21/64"]),
        host(&lan, "web2", &["192.0.2.22/24", "fd00::22/64"]),
    ];
    for (web, server) in webs.iter().zip(servers) {
        let listener = web.enter(|| TcpListener::bind(server).unwrap());
        let name = web.name().to_owned();
        std::thread::spawn(move || {
            // Whoever has said something is told the name.
            while let Ok((mut stream, _)) = listener.accept() {
                let name = name.clone();
                std::thread::spawn(move || {
                    let _ = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(name.as_bytes()));
                });
            }
        });
    }
    let frontend = Frontend { address, protocol: Protocol::Tcp, port: 80 };
    let via = if address.is_ipv4() { "192.0.2.11" } else { "fd00::11" };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    client.add_route(format!("{address}/{bits}").parse().unwrap(), via.parse().unwrap()).unwrap();
    let connect = || {
        let stream = TcpStream::connect_timeout(&frontend.socket(), Duration::from_secs(2))?;
        // Whose last packet of the handshake meets a listener that is being closed may hear nothing.
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok::<_, std::io::Error>(stream)
    };
    let finish = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.write_all(b"?")?;
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let ask = || connect().and_then(finish);
    node.enter(|| {
        in_runtime(async {
            let mut delivery = Delivery::new().await.unwrap();
            assert!(delivery.apply(&BTreeSet::from([address])).await.is_empty());
            let mut forwarder = forwarder().await;
            assert_eq!(forwarder.apply(&Forwarding::from([(frontend, servers.to_vec())])).await, []);
            let mut answers: Vec<_> = (0..6).map(|_| client.enter(ask).unwrap()).collect();
            answers.sort();
            assert_eq!(answers, ["web1", "web1", "web1", "web2", "web2", "web2"]);

            // A node that stops waits for those that are open; where the kernel does not tell, for the whole grace period.
            let tells = forwarder.open().is_some();
            let until_open = async |forwarder: &Forwarder, count: usize| {
                let open = async {
                    while tells && forwarder.open() != Some(count) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let waited = tokio::time::timeout(Duration::from_secs(10), open).await;
                assert!(waited.is_ok(), "{:?} are open, not {count}", forwarder.open());
            };
            until_open(&forwarder, 0).await;
            let two = [client.enter(connect).unwrap(), client.enter(connect).unwrap()];
            until_open(&forwarder, 2).await;
            for (stream, left) in two.into_iter().zip([1, 0]) {
                client.enter(|| finish(stream)).unwrap();
                until_open(&forwarder, left).await;
            }

            assert_eq!(forwarder.apply(&Forwarding::new()).await, []);
            assert!(client.enter(ask).is_err(), "nothing is forwarded any more");
            forwarder.undo().await;
            delivery.undo().await;
        });
    });
}

#[test]
fn nftables_forwards() {
    netns::test("nftables_forwards", || {
        let Some(_) = netns::find_program("nft") else { return };
        let by_kernel = async || Forwarder::Nft(Nft::new().await.unwrap());
        forwards(by_kernel, address("192.0.2.200"), ["192.0.2.21:8080", "192.0.2.22:8080"]);
    });
}

#[test]
fn nftables_forwards_ipv6() {
    netns::test("nftables_forwards_ipv6", || {
        let Some(_) = netns::find_program("nft") else { return };
        let by_kernel = async || Forwarder::Nft(Nft::new().await.unwrap());
        forwards(by_kernel, address("fd00::200"), ["[fd00::21]:8080", "[fd00::22]:8080"]);
    });
}

#[test]
fn the_relay_forwards() {
    netns::test("the_relay_forwards", || {
        let by_process = async || Forwarder::Relay(Relay::new(1000));
        forwards(by_process, address("192.0.2.200"), ["192.0.2.21:8080", "192.0.2.22:8080"]);
    });
}
