//! Sends ARP requests, and counts what comes back.

#![expect(clippy::disallowed_methods, reason = "it measures by the real clock, and sends by it")]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use announce_l2::wire::MacAddr;
use announce_l2::wire::arp::Arp;
use lbcore_examples::netns::{Host, RawSocket};
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};

use super::{GENERATOR_CORE, responders::pin};

const BATCH: usize = 64;

/// A socket of a host, and the requests that it sends in turn.
pub(super) struct Generator<'h> {
    host: &'h Host,
    socket: RawSocket,
    requests: Vec<Vec<u8>>,
}

/// What was sent.
pub(super) struct Flood {
    pub(super) sent: u64,
    pub(super) took: Duration,
}

impl<'h> Generator<'h> {
    pub(super) fn new(host: &'h Host, targets: &[Ipv4Addr]) -> io::Result<Self> {
        let socket = RawSocket::open(host, "eth0")?;
        let (mac, me) = (MacAddr(host.mac()), Ipv4Addr::new(10, 0, 0, 1));
        let request = |target: &Ipv4Addr| {
            Arp::directed(mac, me, *target).to_frame(MacAddr::BROADCAST).as_bytes().to_vec()
        };
        Ok(Self { host, socket, requests: targets.iter().map(request).collect() })
    }

    /// Sends requests for `span`: as fast as it can, or so many a second.
    pub(super) fn send(&self, span: Duration, per_second: Option<u32>) -> io::Result<Flood> {
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                pin(GENERATOR_CORE)?;
                self.send_here(span, per_second)
            });
            sending.join().map_err(|_| io::Error::other("the generator failed"))?
        })
    }

    fn send_here(&self, span: Duration, per_second: Option<u32>) -> io::Result<Flood> {
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let to = [Some(self.socket.interface()); BATCH];
        let begin = Instant::now();
        let (mut sent, mut next) = (0_u64, 0);
        while begin.elapsed() < span {
            if let Some(rate) = per_second {
                let due = begin + Duration::from_secs_f64(super::number(sent) / f64::from(rate));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let batch: Vec<[io::IoSlice<'_>; 1]> = (next..next + BATCH)
                .map(|at| [io::IoSlice::new(&self.requests[at % self.requests.len()])])
                .collect();
            let socket = self.socket.as_fd().as_raw_fd();
            let results = sendmmsg(socket, &mut headers, &batch, to, [], MsgFlags::empty())?;
            let done = results.count();
            next = (next + done) % self.requests.len();
            sent += u64::try_from(done).unwrap_or(0);
        }
        Ok(Flood { sent, took: begin.elapsed() })
    }

    /// How many frames the host's interface has received.
    pub(super) fn received(&self) -> io::Result<u64> {
        let text = self.host.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
        let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        packets.ok_or_else(|| io::Error::other("the interface has no counters"))
    }

    /// The same when nothing more comes for so long.
    pub(super) fn received_at_rest(&self, quiet: Duration) -> io::Result<u64> {
        let mut before = self.received()?;
        loop {
            std::thread::sleep(quiet);
            let now = self.received()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }
}
