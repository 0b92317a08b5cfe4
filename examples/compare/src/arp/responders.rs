//! Who answers.

#![expect(clippy::disallowed_types, reason = "the rival has the set that its users would take")]

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use announce_l2::driver::{Config, L2Announcer};
use announce_l2::machine::Pace;
use lbcore::announce::{AnnounceSet, AnnounceState, Announcement, Announcer, Interfaces, Stop};
use lbcore::elect::{LeaseId, Term};
use lbcore_examples::netns::Host;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use pnet::datalink::{self, Channel};
use pnet::packet::Packet;
use pnet::packet::arp::{ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::util::MacAddr;
use tokio::sync::oneshot;

use super::RESPONDER_CORE;

/// Puts the calling thread on one core.
pub(super) fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

/// A responder at work in a host.
pub(super) enum Responder {
    Kernel,
    Thread { thread: Pid, stop: Box<dyn FnOnce()>, running: JoinHandle<io::Result<()>> },
}

impl Responder {
    /// `pace` is that of lbcore's announcements: the others make none.
    pub(super) fn start(system: &str, host: &Host, addresses: &[Ipv4Addr], pace: Pace) -> io::Result<Self> {
        match system {
            "kernel" => kernel(host, addresses),
            "pnet" => pnet(host, addresses),
            _ => lbcore(host, addresses, pace),
        }
    }

    /// How long it has been computing.
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let Self::Thread { thread, .. } = self else { return Ok(Duration::ZERO) };
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
        let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
        nanos.map(Duration::from_nanos).ok_or_else(|| io::Error::other("the thread has no times"))
    }

    pub(super) fn stop(self) {
        if let Self::Thread { stop, running, .. } = self {
            stop();
            if let Ok(Err(error)) = running.join() {
                eprintln!("a responder failed: {error}");
            }
        }
    }
}

/// The addresses on the interface itself.
fn kernel(host: &Host, addresses: &[Ipv4Addr]) -> io::Result<Responder> {
    let batch: String =
        addresses.iter().map(|address| format!("address add {address}/32 dev eth0\n")).collect();
    let file = std::path::Path::new(lbcore_examples::netns::SCRATCH).join("addresses");
    std::fs::write(&file, batch)?;
    let output = host.output(Command::new("ip").arg("-batch").arg(&file))?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(Responder::Kernel)
}

/// The announcer as a controller has it, in a runtime of one thread.
fn lbcore(host: &Host, addresses: &[Ipv4Addr], pace: Pace) -> io::Result<Responder> {
    let lease = LeaseId::FIRST;
    let how = Announcement::on_segment(lease, Term(2), Interfaces::All);
    let entries = addresses.iter().map(|address| (IpAddr::from(*address), how.clone()));
    let set = Arc::new(AnnounceSet::new(1, entries));
    let (started, starting) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = host.enter(|| {
        std::thread::spawn(move || {
            pin(RESPONDER_CORE)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut config = Config::default();
                config.machine.pace = pace;
                let (announcer, driver) = L2Announcer::new(config).map_err(io::Error::other)?;
                announcer.set_desired(set);
                announcer.renew(lease, lbcore::time::Instant::FAR_FUTURE);
                let _ = started.send((nix::unistd::gettid(), announcer.status()));
                let stop = async {
                    let _ = stopped.await;
                    Stop::Withdraw
                };
                driver.run(stop).await.map_err(io::Error::other)
            })
        })
    });
    let (thread, mut status) = starting.recv().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let ready = status.wait_for(|status| status.entries.values().any(AnnounceState::is_announced));
    runtime.block_on(ready).map_err(io::Error::other)?;
    // One that has ended needs no telling.
    let stop = Box::new(move || stop.send(()).unwrap_or_default());
    Ok(Responder::Thread { thread, stop, running })
}

/// What one writes with `pnet` alone: its channel, a set, a loop.
fn pnet(host: &Host, addresses: &[Ipv4Addr]) -> io::Result<Responder> {
    let addresses: HashSet<Ipv4Addr> = addresses.iter().copied().collect();
    let (started, starting) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    let running = host.enter(|| {
        std::thread::spawn(move || {
            pin(RESPONDER_CORE)?;
            let interfaces = datalink::interfaces();
            let interface = interfaces.into_iter().find(|interface| interface.name == "eth0");
            let interface = interface.ok_or_else(|| io::Error::other("there is no eth0"))?;
            let config = datalink::Config {
                read_timeout: Some(Duration::from_millis(50)),
                ..datalink::Config::default()
            };
            let Channel::Ethernet(mut sender, mut receiver) = datalink::channel(&interface, config)? else {
                return Err(io::Error::other("pnet gives no Ethernet channel"));
            };
            let mac = interface.mac.unwrap_or_default();
            let _ = started.send(nix::unistd::gettid());
            let mut reply = [0; 42];
            while !seen.load(Ordering::Relaxed) {
                let Ok(frame) = receiver.next() else { continue };
                if answer(frame, mac, &addresses, &mut reply).is_some() {
                    let _ = sender.send_to(&reply, None);
                }
            }
            Ok(())
        })
    });
    let thread = starting.recv().map_err(io::Error::other)?;
    Ok(Responder::Thread { thread, stop: Box::new(move || over.store(true, Ordering::Relaxed)), running })
}

fn answer(frame: &[u8], mac: MacAddr, addresses: &HashSet<Ipv4Addr>, reply: &mut [u8; 42]) -> Option<()> {
    let frame = EthernetPacket::new(frame).filter(|frame| frame.get_ethertype() == EtherTypes::Arp)?;
    let asked =
        ArpPacket::new(frame.payload()).filter(|arp| arp.get_operation() == ArpOperations::Request)?;
    let target = asked.get_target_proto_addr();
    if !addresses.contains(&target) {
        return None;
    }
    let mut ethernet = MutableEthernetPacket::new(&mut reply[..14])?;
    ethernet.set_destination(asked.get_sender_hw_addr());
    ethernet.set_source(mac);
    ethernet.set_ethertype(EtherTypes::Arp);
    reply[14..].copy_from_slice(asked.packet().get(..28)?);
    let mut arp = MutableArpPacket::new(&mut reply[14..])?;
    arp.set_operation(ArpOperations::Reply);
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(target);
    arp.set_target_hw_addr(asked.get_sender_hw_addr());
    arp.set_target_proto_addr(asked.get_sender_proto_addr());
    Some(())
}
