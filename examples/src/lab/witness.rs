//! One more machine, which asks everybody who has an address, by ARP or NDP, all the time: whoever thinks that it has one
//! says so. The tap hears the answers; the client's own kernel learns nothing by them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use announce_l2::wire::arp::Arp;
use announce_l2::wire::{FrameBuf, MacAddr, ipv6, ndp};
use lbcore::time::{Duration, Instant};

use crate::netns::{self, Host, RawSocket};

/// Each address is asked for once in this time,
const EVERY: Duration = Duration::from_millis(25);
/// but all together no more often than so many in a millisecond: each question goes to every host of the segment.
const MOST: u32 = 4;

/// Asks until it is dropped.
#[derive(Debug)]
pub(super) struct Witness {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Asks from `host`, whose own address is `own`.
    pub(super) fn start(host: &Host, own: IpAddr, addresses: &[IpAddr]) -> Result<Self, netns::Error> {
        let socket = RawSocket::open(host, "eth0")?;
        let questions: Vec<FrameBuf> =
            addresses.iter().filter_map(|address| question(MacAddr(host.mac()), own, *address)).collect();
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let thread = std::thread::spawn(move || ask(&socket, &questions, &ended));
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; if it did, there is nobody left to ask.
            let _ = thread.join();
        }
    }
}

/// Who has `address`? `None` where the families differ.
fn question(mac: MacAddr, own: IpAddr, address: IpAddr) -> Option<FrameBuf> {
    match (own, address) {
        (IpAddr::V4(own), IpAddr::V4(address)) => {
            Some(Arp::directed(mac, own, address).to_frame(MacAddr::BROADCAST))
        }
        (IpAddr::V6(own), IpAddr::V6(target)) => {
            let solicitation = ndp::Solicitation { target, source_mac: Some(mac), nonce: None };
            let header = ipv6::Header::nd(own, ipv6::solicited_node(target));
            let group = MacAddr::of_ipv6_group(header.destination);
            Some(ndp::Message::Solicitation(solicitation).to_frame(&header, mac, group))
        }
        _ => None,
    }
}

fn ask(socket: &RawSocket, questions: &[FrameBuf], end: &AtomicBool) {
    let count = u32::try_from(questions.len()).unwrap_or(u32::MAX).max(1);
    let pace = (EVERY / count).max(Duration::from_millis(1) / MOST);
    let mut due = Instant::now();
    for frame in questions.iter().cycle() {
        if end.load(Ordering::Relaxed) {
            return;
        }
        // A question that is lost is asked again.
        let _ = socket.send(frame.as_bytes());
        due = (due + pace).max(Instant::now() - EVERY);
        // A sleep takes longer than the pace of many.
        let left = due.saturating_since(Instant::now());
        if left >= Duration::from_millis(1) {
            #[expect(clippy::disallowed_methods, reason = "a thread of its own, which asks in real time")]
            std::thread::sleep(left);
        }
    }
}
