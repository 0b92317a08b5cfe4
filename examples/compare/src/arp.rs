//! `arp`: how many ARP requests a second are answered, what foreign ones cost, and how long a takeover of many addresses
//! takes.
//!
//! Two hosts on a segment in namespaces. The generator sends as fast as it can from one core, and the responder answers
//! on another, but for the kernel, which answers on the core that sends. Answers are counted by the generator's
//! interface, so that counting costs nothing.

#![expect(clippy::disallowed_methods, reason = "it measures by the real clock")]

mod generator;
mod responders;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use announce_l2::machine::Pace;
use lbcore_examples::netns::{Host, Segment, TapFilter};

use self::generator::Generator;
use self::responders::Responder;
use crate::memory;
use crate::table::{Bench, Table};

/// The table.
pub(crate) static TABLE: Table = Table {
    name: "arp",
    about: "answer ARP requests, ignore foreign ones, take ten thousand addresses over",
    details: "",
    systems: &["lbcore", "kernel", "pnet"],
    cases: &[
        "addresses-1",
        "addresses-100",
        "addresses-10000",
        "foreign-100000",
        "takeover-1000",
        "takeover-10000",
    ],
    runs: 5,
    needs_network: true,
    measure,
    alone: Some(alone),
};

/// How long each figure is taken.
const SPAN: Duration = Duration::from_secs(2);
/// All that is announced goes out before the answers are counted.
const AT_ONCE: Pace = Pace { burst: 100_000, per_second: 1_000_000 };
/// Longer than from one announcement of an address to the next.
const ANNOUNCED: Duration = Duration::from_millis(2500);
/// Foreign requests a second.
const FOREIGN: u32 = 100_000;

const GENERATOR_CORE: usize = 0;
const RESPONDER_CORE: usize = 1;

/// The segment's two hosts.
struct Lan {
    segment: Segment,
    generator: Host,
    responder: Host,
}

impl Lan {
    fn new() -> io::Result<Self> {
        let segment = Segment::new("lan").map_err(io::Error::other)?;
        let host = |name, address: &str| {
            let address = address.parse().map_err(io::Error::other)?;
            segment.host(name, &[address]).map_err(io::Error::other)
        };
        let (generator, responder) = (host("generator", "10.0.0.1/8")?, host("responder", "10.0.0.2/8")?);
        Ok(Self { segment, generator, responder })
    }
}

/// The addresses to be answered for.
fn addresses(count: u32) -> Vec<Ipv4Addr> {
    (0..count).map(|number| Ipv4Addr::from_bits(0x0a01_0000 + number)).collect()
}

/// The same number of others.
fn foreign(count: u32) -> Vec<Ipv4Addr> {
    (0..count).map(|number| Ipv4Addr::from_bits(0x0a02_0000 + number)).collect()
}

fn measure(bench: &mut Bench<'_>) -> io::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        for system in bench.systems {
            bench.skip(system, "it takes two cores")?;
        }
        return Ok(());
    }
    let (what, count) = bench.case.split_once('-').unwrap_or_default();
    let count: u32 = count.parse().unwrap_or(1);
    for system in bench.systems {
        match what {
            "addresses" => answer(bench, system, count)?,
            "foreign" if *system == "kernel" => {
                bench.skip(system, "its work is not accounted to a process")?;
            }
            "foreign" => ignore(bench, system)?,
            _ if *system == "lbcore" => take_over(bench, system, count)?,
            _ => bench.skip(system, "it does not announce")?,
        }
    }
    Ok(())
}

fn answer(bench: &mut Bench<'_>, system: &'static str, count: u32) -> io::Result<()> {
    let (mut replies, mut answered, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let lan = Lan::new()?;
        let responder = Responder::start(system, &lan.responder, &addresses(count), AT_ONCE)?;
        let generator = Generator::new(&lan.generator, &addresses(count))?;
        generator.send(SPAN / 4, None)?;
        // What is announced would be counted among the answers.
        generator.received_at_rest(ANNOUNCED)?;
        let (cpu_before, before) = (responder.cpu_time()?, generator.received()?);
        let flood = generator.send(SPAN, None)?;
        let received = number(generator.received_at_rest(SPAN / 100)? - before);
        replies.push(received / flood.took.as_secs_f64());
        answered.push(100.0 * received / number(flood.sent));
        cpu.push((responder.cpu_time()? - cpu_before).as_secs_f64() * 1e6 / received.max(1.0));
        responder.stop();
    }
    bench.row(system, "replies_per_s", replies, "/s")?;
    bench.row(system, "answered", answered, "%")?;
    if system != "kernel" {
        bench.row(system, "cpu_per_reply", cpu, "us")?;
    }
    Ok(())
}

fn ignore(bench: &mut Bench<'_>, system: &'static str) -> io::Result<()> {
    let (mut cpu, mut rate) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let lan = Lan::new()?;
        let responder = Responder::start(system, &lan.responder, &addresses(100), Pace::NORMAL)?;
        let generator = Generator::new(&lan.generator, &foreign(1000))?;
        let before = responder.cpu_time()?;
        let flood = generator.send(SPAN, Some(FOREIGN))?;
        let took = flood.took.as_secs_f64();
        cpu.push((responder.cpu_time()? - before).as_secs_f64() / took);
        rate.push(number(flood.sent) / took);
        responder.stop();
    }
    bench.row(system, "requests_per_s", rate, "/s")?;
    bench.row(system, "cpu_s_per_s", cpu, "s")
}

/// What the responder of a takeover holds while it announces, in bytes.
fn alone(system: &str, case: &str) -> io::Result<u64> {
    let count = case.rsplit('-').next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let lan = Lan::new()?;
    let addresses = addresses(count);
    let mut responder = None;
    let grown = memory::growth(|| {
        responder = Some(Responder::start(system, &lan.responder, &addresses, Pace::NORMAL));
        std::thread::sleep(SPAN);
    });
    if let Some(started) = responder {
        started?.stop();
    }
    Ok(grown)
}

/// From the moment that the lease begins to hold until the last address was announced for the first time, as heard on
/// the segment; beside what the pace allows.
fn take_over(bench: &mut Bench<'_>, system: &'static str, count: u32) -> io::Result<()> {
    let pace = Pace::NORMAL;
    let (mut took, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let lan = Lan::new()?;
        let mut tap = lan.segment.tap(TapFilter::Neighbour).map_err(io::Error::other)?;
        let begin = Instant::now();
        let responder = Responder::start(system, &lan.responder, &addresses(count), Pace::NORMAL)?;
        let mut missing: BTreeSet<Ipv4Addr> = addresses(count).into_iter().collect();
        while !missing.is_empty() {
            let Some(frame) = tap.next(Duration::from_secs(10))? else {
                return Err(io::Error::other(format!("{} addresses were never announced", missing.len())));
            };
            if let Some(sender) = frame.bytes.get(28..32).and_then(|octets| <[u8; 4]>::try_from(octets).ok())
            {
                missing.remove(&sender.into());
            }
        }
        took.push(begin.elapsed().as_secs_f64());
        responder.stop();
        memory.push(memory::measure_alone(bench.table, system, bench.case)? / f64::from(1 << 20));
    }
    let allowed = f64::from(count.saturating_sub(pace.burst)) / f64::from(pace.per_second);
    bench.row(system, "last_first_announcement", took, "s")?;
    bench.row(system, "pace_allows", vec![allowed], "s")?;
    bench.row(system, "memory", memory, "MiB")
}

#[expect(clippy::cast_precision_loss, reason = "figures have three digits that count")]
fn number(count: u64) -> f64 {
    count as f64
}
