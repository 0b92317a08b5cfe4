//! Nodes that find each other by a multicast group, on a segment of their own.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use elect_gossip::{ClusterKey, Config, Driver, GossipElector, Keyring, Seed, Timing};
use lbcore::elect::LeaderElector;
use lbcore::id::NodeName;
use lbcore_examples::netns::{self, Host, Segment};

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node on `host`, which runs until the process ends.
fn start(host: &Host, bind: SocketAddr, group: &Seed, key: u8) -> GossipElector {
    let timing = Timing::new(Duration::from_millis(50), 20);
    let keys = Keyring::new(ClusterKey::new([key; 32]));
    let config = Config::new(host.name(), bind, keys).with_seeds([group.clone()]).with_timing(timing);
    let (made, making) = mpsc::channel();
    // A thread that is started inside stays inside.
    host.enter(|| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (elector, driver): (_, Driver) = GossipElector::new(&config).unwrap();
                made.send(elector).unwrap();
                driver.run(std::future::pending()).await.unwrap();
            });
        });
    });
    making.recv().unwrap()
}

fn until_all_met(electors: &[GossipElector], names: &[&str]) {
    let all: BTreeSet<NodeName> = names.iter().map(|name| NodeName::from(*name)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for elector in electors {
            let mut ownership = elector.ownership();
            let met = ownership.wait_for(|now| now.members.keys().eq(&all));
            let waited = tokio::time::timeout(PATIENCE, met).await;
            assert!(waited.is_ok(), "{:?}", elector.ownership().borrow().members);
        }
    });
}

/// `bind` gives the address of the host of that number and index of the interface.
fn meet(group: impl Fn(u32) -> String, bind: impl Fn(u32, u32) -> String) {
    let segment = Segment::new("lan").unwrap();
    let hosts = [1, 2, 3].map(|number| {
        let addresses = [format!("192.0.2.{number}/24"), format!("fe80::{number}/64")];
        segment.host(&format!("n{number}"), &addresses.map(|it| it.parse().unwrap())).unwrap()
    });
    let node = |number: u32, key| {
        let host = &hosts[usize::try_from(number).unwrap() - 1];
        let (index, _) = host.link("eth0").unwrap();
        start(host, bind(number, index).parse().unwrap(), &group(index).parse().unwrap(), key)
    };
    let mut electors = vec![node(1, 7), node(2, 7)];
    until_all_met(&electors, &["n1", "n2"]);
    // What comes by multicast is believed no more than anything else.
    let stranger = node(3, 8);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conditions = electors[0].conditions();
        let told = conditions.wait_for(|told| told.iter().any(|it| it.reason == "ForeignKey"));
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
    });
    assert_eq!(stranger.ownership().borrow().members.len(), 1);
    // One that comes later is met by those that have met already.
    stranger.set_keys(Keyring::new(ClusterKey::new([7; 32])));
    electors.push(stranger);
    until_all_met(&electors, &["n1", "n2", "n3"]);
}

#[test]
fn nodes_meet_in_an_ipv4_group() {
    netns::test("nodes_meet_in_an_ipv4_group", || {
        meet(|_| "239.192.7.46:7947".into(), |number, _| format!("192.0.2.{number}:7946"));
    });
}

#[test]
fn nodes_meet_in_a_link_local_ipv6_group() {
    netns::test("nodes_meet_in_a_link_local_ipv6_group", || {
        meet(
            |index| format!("[ff02::1ab%{index}]:7947"),
            |number, index| format!("[fe80::{number}%{index}]:7946"),
        );
    });
}
