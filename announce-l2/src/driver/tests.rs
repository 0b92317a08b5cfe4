use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lbcore::announce::{Announcement, Interfaces};
use lbcore::conformance::announcer::{self, Harness};
use lbcore::elect::Term;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::segment::{Port, Segment};
use super::*;
use crate::machine::Config;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::ndp::{Message, Solicitation};
use crate::wire::{MacAddr, ipv6};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xcc]);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const LEASE: LeaseId = LeaseId::FIRST;
const LONG: Duration = Duration::from_secs(3600);

/// A node and a client on one segment, under virtual time.
struct World {
    runtime: Runtime,
    segment: Segment,
    announcer: Arc<L2Announcer>,
    node: machine::IfIndex,
    client: Port,
    stop: Option<oneshot::Sender<Stop>>,
    driver: JoinHandle<Result<(), RunError>>,
    heard: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let guard = runtime.enter();
        let segment = Segment::new();
        let port = segment.attach("eth0", US);
        let client = segment.attach("client", CLIENT);
        let node = port.index();
        let (announcer, driver) = L2Announcer::with_io(Config::default(), port);
        let (stop, stopped) = oneshot::channel();
        let driver = runtime.spawn(driver.run(async { stopped.await.unwrap_or_default() }));
        drop(guard);
        let announcer = Arc::new(announcer);
        Self { runtime, segment, announcer, node, client, stop: Some(stop), driver, heard: Vec::new() }
    }

    fn now(&self) -> Instant {
        let _guard = self.runtime.enter();
        self.segment.now()
    }

    fn advance(&mut self, span: Duration) {
        self.runtime.block_on(async {
            tokio::time::sleep(span).await;
            // A timer that fires together with ours may run after it.
            for _ in 0..32 {
                tokio::task::yield_now().await;
            }
        });
        while let Some(frame) = self.client.try_receive() {
            self.heard.push(frame);
        }
    }

    /// Sends a question, and tells what was answered at once.
    fn ask(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.advance(Duration::ZERO);
        let before = self.heard.len();
        {
            let _guard = self.runtime.enter();
            self.client.send(frame);
        }
        self.advance(Duration::ZERO);
        self.heard.split_off(before)
    }

    fn is_reached(&mut self, address: IpAddr) -> bool {
        let answers = match address {
            IpAddr::V4(address) => {
                self.ask(Arp::directed(CLIENT, CLIENT_IP, address).to_frame(MacAddr::BROADCAST).as_bytes())
            }
            IpAddr::V6(target) => {
                let group = ipv6::solicited_node(target);
                let header = ipv6::Header::nd("fe80::cc".parse().unwrap(), group);
                let ns =
                    Message::Solicitation(Solicitation { target, source_mac: Some(CLIENT), nonce: None });
                self.ask(ns.to_frame(&header, CLIENT, MacAddr::of_ipv6_group(group)).as_bytes())
            }
        };
        !answers.is_empty()
    }

    fn stop(&mut self, how: Stop) {
        let _ = self.stop.take().unwrap().send(how);
        self.runtime.block_on(&mut self.driver).unwrap().unwrap();
    }
}

/// The announcer on a segment, as the contract suite wants it.
struct OnSegment(World);

impl Harness for OnSegment {
    fn announcer(&self) -> Arc<dyn Announcer> {
        self.0.announcer.clone()
    }

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn advance(&mut self, span: Duration) {
        self.0.advance(span);
    }

    fn latency(&self) -> Duration {
        // The timers of tokio are good to a millisecond, and the status follows by timer.
        Duration::from_millis(2)
    }

    fn announcement(&self, _address: IpAddr, lease: Option<LeaseId>) -> Announcement {
        lease.map_or_else(Announcement::default, |lease| {
            Announcement::on_segment(lease, Term(2), Interfaces::All)
        })
    }

    fn observe(&mut self, address: IpAddr) -> bool {
        self.0.is_reached(address)
    }

    /// Announcements only: an answer is no news, and of the slow refresh there is none within the suite's 60 s.
    fn changes(&self) -> u64 {
        let announcements = self.0.heard.iter().filter(|frame| {
            let (header, payload) = ethernet::Header::parse(frame).unwrap();
            header.ethertype == EtherType::ARP
                && Arp::parse(payload).is_ok_and(|arp| arp.sender == arp.target && arp.sender_mac == US)
        });
        u64::try_from(announcements.count()).unwrap()
    }

    fn stop(&mut self, how: Stop) -> Arc<AnnounceStatus> {
        self.0.stop(how);
        self.0.announcer.status().borrow().clone()
    }
}

#[test]
fn the_contract_of_announcers_holds() {
    announcer::run_all(&mut || Box::new(OnSegment(World::new())));
}

fn desire(world: &World, generation: u64, addresses: &[IpAddr]) {
    let entries =
        addresses.iter().map(|address| (*address, Announcement::on_segment(LEASE, Term(2), Interfaces::All)));
    world.announcer.set_desired(Arc::new(AnnounceSet::new(generation, entries)));
}

fn vip() -> IpAddr {
    IpAddr::from([192, 0, 2, 10])
}

#[test]
fn both_families_are_answered_and_announced() {
    let mut world = World::new();
    let v6: IpAddr = "2001:db8::10".parse().unwrap();
    desire(&world, 1, &[vip(), v6]);
    world.announcer.renew(LEASE, world.now() + LONG);
    world.advance(Duration::from_millis(1));
    let kinds: Vec<EtherType> =
        world.heard.iter().map(|frame| ethernet::Header::parse(frame).unwrap().0.ethertype).collect();
    assert_eq!(kinds, [EtherType::ARP, EtherType::IPV6, EtherType::IPV6], "the last one to the routers");
    assert!(world.is_reached(vip()) && world.is_reached(v6));
    assert!(!world.is_reached(IpAddr::from([192, 0, 2, 11])));
    let status = world.announcer.status().borrow().clone();
    assert!(status.entries.values().all(lbcore::announce::AnnounceState::is_announced), "{status:?}");
}

#[test]
fn a_cut_cable_is_a_condition_and_its_repair_is_announced() {
    let mut world = World::new();
    desire(&world, 1, &[vip()]);
    world.announcer.renew(LEASE, world.now() + LONG);
    world.advance(Duration::from_secs(10));
    world.segment.set_link(world.node, false);
    world.advance(Duration::from_millis(5));
    let status = world.announcer.status().borrow().clone();
    assert!(!status.entries[&vip()].is_announced());
    assert_eq!(status.conditions[0].reason, "InterfaceDown");
    let up = |world: &World| world.announcer.interfaces().borrow().iter().any(|interface| interface.up);
    assert!(!up(&world), "an election can take it into account");
    world.heard.clear();
    world.segment.set_link(world.node, true);
    world.advance(Duration::from_millis(5));
    assert!(up(&world));
    assert_eq!(world.heard.len(), 1, "announced at once");
    assert!(world.announcer.status().borrow().entries[&vip()].is_announced());
}

#[test]
fn a_frame_that_waited_while_the_driver_slept_is_not_answered() {
    let mut world = World::new();
    desire(&world, 1, &[vip()]);
    world.announcer.renew(LEASE, world.now() + LONG);
    world.advance(Duration::from_secs(10));
    world.heard.clear();
    let question = Arp::directed(CLIENT, CLIENT_IP, vip4()).to_frame(MacAddr::BROADCAST);
    {
        let _guard = world.runtime.enter();
        world.client.send(question.as_bytes());
    }
    // The clock jumps before the driver runs again: that is what a pause looks like from within.
    world.runtime.block_on(tokio::time::advance(Duration::from_millis(101)));
    world.advance(Duration::ZERO);
    assert_eq!(world.heard, Vec::<Vec<u8>>::new());
    world.advance(Duration::from_secs(2));
    assert_eq!(world.announcer.counters().borrow().dropped_stale, 1);
    assert!(world.is_reached(vip()), "the next one is");
}

fn vip4() -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10)
}

#[test]
fn an_answer_names_our_hardware_address() {
    let mut world = World::new();
    desire(&world, 1, &[vip()]);
    world.announcer.renew(LEASE, world.now() + LONG);
    let answers = world.ask(Arp::probe(CLIENT, vip4()).to_frame(MacAddr::BROADCAST).as_bytes());
    let (_, payload) = ethernet::Header::parse(answers.last().unwrap()).unwrap();
    let reply = Arp::parse(payload).unwrap();
    assert_eq!((reply.operation, reply.sender_mac, reply.sender), (Operation::Reply, US, vip4()));
}

#[test]
fn a_dropped_driver_is_silent_and_says_so() {
    let mut world = World::new();
    desire(&world, 1, &[vip()]);
    world.announcer.renew(LEASE, world.now() + LONG);
    world.advance(Duration::from_secs(1));
    world.driver.abort();
    world.advance(Duration::from_millis(1));
    assert!(!world.is_reached(vip()));
    assert!(world.announcer.status().borrow().entries.is_empty());
    desire(&world, 2, &[vip()]);
    world.announcer.renew(LEASE, world.now() + LONG);
    assert!(world.announcer.shared.mailbox().desired.is_none(), "nothing is kept for a driver that is gone");
}

/// A segment that takes no frames until it is told to.
#[derive(Debug)]
struct Congested {
    port: Port,
    open: Arc<std::sync::atomic::AtomicBool>,
}

impl FrameIo for Congested {
    fn now(&self) -> Instant {
        self.port.now()
    }
    fn interfaces(&self) -> Vec<Interface> {
        self.port.interfaces()
    }
    fn attend(&mut self, interest: &Interest) {
        self.port.attend(interest);
    }
    fn poll_receive(
        &mut self,
        cx: &mut std::task::Context<'_>,
        batch: &mut Batch,
    ) -> Poll<std::io::Result<()>> {
        self.port.poll_receive(cx, batch)
    }
    fn poll_send(
        &mut self,
        cx: &mut std::task::Context<'_>,
        frames: &[Transmit],
    ) -> Poll<std::io::Result<usize>> {
        if self.open.load(std::sync::atomic::Ordering::Relaxed) {
            self.port.poll_send(cx, frames)
        } else {
            Poll::Pending
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_congested_socket_is_not_sent_after_the_deadline() {
    let segment = Segment::new();
    let client = segment.attach("client", CLIENT);
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let port = Congested { port: segment.attach("eth0", US), open: open.clone() };
    let (announcer, driver) = L2Announcer::with_io(Config::default(), port);
    let entry = (vip(), Announcement::on_segment(LEASE, Term(2), Interfaces::All));
    announcer.set_desired(Arc::new(AnnounceSet::new(1, [entry])));
    announcer.renew(LEASE, segment.now() + Duration::from_millis(50));
    let stop = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        open.store(true, std::sync::atomic::Ordering::Relaxed);
        // Wakes the driver, which may now send what it has.
        announcer.renew(LEASE.next(), segment.now() + LONG);
        tokio::time::sleep(Duration::from_secs(5)).await;
        Stop::Withdraw
    };
    driver.run(stop).await.unwrap();
    assert_eq!(client.try_receive(), None);
    assert_eq!(announcer.counters().borrow().expired, 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_congested_socket_is_not_sent_once_it_is_withdrawn() {
    let segment = Segment::new();
    let client = segment.attach("client", CLIENT);
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let port = Congested { port: segment.attach("eth0", US), open: open.clone() };
    let (announcer, driver) = L2Announcer::with_io(Config::default(), port);
    let entry = (vip(), Announcement::on_segment(LEASE, Term(2), Interfaces::All));
    announcer.set_desired(Arc::new(AnnounceSet::new(1, [entry])));
    announcer.renew(LEASE, segment.now() + LONG);
    let stop = async {
        // The first announcement is on its way to the socket.
        tokio::time::sleep(Duration::from_millis(10)).await;
        announcer.set_desired(Arc::new(AnnounceSet::new(2, [])));
        tokio::time::sleep(Duration::from_millis(10)).await;
        open.store(true, std::sync::atomic::Ordering::Relaxed);
        announcer.renew(LEASE.next(), segment.now() + LONG);
        tokio::time::sleep(Duration::from_secs(5)).await;
        Stop::Withdraw
    };
    driver.run(stop).await.unwrap();
    assert_eq!(client.try_receive(), None);
    assert_eq!(announcer.counters().borrow().expired, 1);
}
