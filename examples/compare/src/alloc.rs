//! `alloc`: what it costs to allocate an address, to adopt what the world shows after a restart, and to hold it all.

mod peers;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lbcore::addr::{AddressRange, Family, from_bits, to_bits};
use lbcore::allocator::{
    AllocRequest, Families, IpAllocator, Pool, PoolAllocator, Pools, Port, Protocol, Sharing,
};
use lbcore::id::OwnerKey;

use crate::figures::{Random, nanos, quantile};
use crate::memory;
use crate::table::{Bench, Table};

/// The table.
pub(crate) static TABLE: Table = Table {
    name: "alloc",
    about: "allocate addresses, adopt them after a restart, hold them in memory",
    details: "",
    systems: &["lbcore", "metallb-scan", "btreeset-scan"],
    cases: &[
        "v4-16-fill-0",
        "v4-16-fill-50-end",
        "v4-16-fill-50-scattered",
        "v4-16-fill-99-9-end",
        "v4-16-fill-99-9-scattered",
        "v6-64-held-0",
        "v6-64-held-100000-end",
        "v6-64-held-100000-scattered",
        "v6-64-held-1000000-end",
        "v6-64-held-1000000-scattered",
        "v4-16-shared-10000",
        "adopt-10000",
        "services-65536",
    ],
    runs: 5,
    needs_network: false,
    measure,
    alone: Some(alone),
};

/// One address allocator, with requests in its own form so that making them is not measured.
trait System {
    type Request;

    /// It has one pool, of one range.
    fn new(range: AddressRange) -> Self;
    /// A request of service `number` for an address of `family`, TCP port 80; shared under a key that all have, if
    /// asked for.
    fn request(number: u32, family: Family, shared: bool) -> Self::Request;
    /// The service holds this address already, as its status shows.
    fn adopt(&mut self, request: &Self::Request, address: IpAddr);
    /// Allocates an address; `None` if there is none.
    fn allocate(&mut self, request: &Self::Request) -> Option<IpAddr>;
    fn release(&mut self, request: &Self::Request);
}

/// What is held before an allocation is measured.
struct Fill {
    range: &'static str,
    held: u32,
    /// The held ones are drawn at random from so many first addresses; as many as are held: from the start without
    /// gaps, the free ones are at the end.
    among: u32,
    shared: bool,
}

fn fill(case: &str) -> Option<Fill> {
    const V4: &str = "10.0.0.0/16";
    const V6: &str = "fd00::/64";
    // 65 addresses of a /16 are left at 99.9 %.
    let (range, held, among) = match case {
        "v4-16-fill-0" => (V4, 0, 0),
        "v4-16-fill-50-end" => (V4, 32_768, 32_768),
        "v4-16-fill-50-scattered" => (V4, 32_768, 65_536),
        "v4-16-fill-99-9-end" => (V4, 65_471, 65_471),
        "v4-16-fill-99-9-scattered" => (V4, 65_471, 65_536),
        "v6-64-held-0" => (V6, 0, 0),
        "v6-64-held-100000-end" => (V6, 100_000, 100_000),
        "v6-64-held-100000-scattered" => (V6, 100_000, 200_000),
        "v6-64-held-1000000-end" => (V6, 1_000_000, 1_000_000),
        "v6-64-held-1000000-scattered" => (V6, 1_000_000, 2_000_000),
        "v4-16-shared-10000" => (V4, 10_000, 10_000),
        _ => return None,
    };
    Some(Fill { range, held, among, shared: case == "v4-16-shared-10000" })
}

fn measure(bench: &mut Bench<'_>) -> io::Result<()> {
    for system in bench.systems {
        match *system {
            "lbcore" => measure_system::<Ours>(bench, system)?,
            "metallb-scan" => measure_system::<peers::MetalLbScan>(bench, system)?,
            _ => measure_system::<peers::BTreeSetScan>(bench, system)?,
        }
    }
    Ok(())
}

fn measure_system<S: System>(bench: &mut Bench<'_>, system: &'static str) -> io::Result<()> {
    match bench.case {
        "adopt-10000" => {
            let runs = (0..bench.runs).map(|_| adopt::<S>(10_000)).collect();
            bench.row(system, "adopt", runs, "ms")
        }
        "services-65536" => {
            if memory::resident().is_none() {
                return bench.skip(system, "this system does not tell how much memory a process holds");
            }
            let alone = || memory::measure_alone(bench.table, system, bench.case);
            let runs =
                (0..bench.runs).map(|_| Ok(alone()? / f64::from(1 << 20))).collect::<io::Result<_>>()?;
            bench.row(system, "memory", runs, "MiB")
        }
        case => match fill(case) {
            Some(fill) => allocate::<S>(bench, system, &fill),
            None => bench.skip(system, "it is not measured"),
        },
    }
}

fn alone(system: &str, _case: &str) -> io::Result<u64> {
    Ok(match system {
        "lbcore" => hold::<Ours>(),
        "metallb-scan" => hold::<peers::MetalLbScan>(),
        _ => hold::<peers::BTreeSetScan>(),
    })
}

/// So many allocations follow each other before they are taken back: as many as every fill has room for.
const BATCH: usize = 64;
/// A run ends after so many allocations, or so much time: a linear scan does a few a second.
const ALLOCATIONS: usize = 16_384;
const BUDGET: Duration = Duration::from_secs(1);

/// Allocates at a fill level: `allocate` is the mean of a batch, of the median batch (the scheduler of a busy machine
/// spoils some); then each allocation on its own, with the clock's own cost, for `allocate-p99`.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
#[expect(clippy::cast_precision_loss, reason = "figures have three digits that count")]
fn allocate<S: System>(bench: &mut Bench<'_>, name: &'static str, fill: &Fill) -> io::Result<()> {
    let range = parse(fill.range);
    let mut system = S::new(range);
    for (number, address) in (0..).zip(addresses(range, fill.held, fill.among)) {
        system.adopt(&S::request(number, range.family(), fill.shared), address);
    }
    // Each allocation is for a service not met before, so that nothing of it is warm.
    let requests: Vec<_> = (fill.held..)
        .take(ALLOCATIONS)
        .map(|number| S::request(number, range.family(), fill.shared))
        .collect();
    // Who would need longer than a run for a batch does one at a time, and as many as there is time for.
    let started = Instant::now();
    assert!(system.allocate(&requests[0]).is_some(), "there is room for a batch");
    let batch = if started.elapsed() > BUDGET / 64 { 1 } else { BATCH };
    system.release(&requests[0]);
    let (mut typical, mut slow) = (Vec::new(), Vec::new());
    // The first run warms up.
    for run in 0..=bench.runs {
        let begun = Instant::now();
        let mut batches = Vec::new();
        for requests in requests.chunks(batch) {
            let started = Instant::now();
            for request in requests {
                system.allocate(request);
            }
            batches.push(nanos(started.elapsed()) / requests.len() as f64);
            requests.iter().for_each(|request| system.release(request));
            if begun.elapsed() > BUDGET {
                break;
            }
        }
        let begun = Instant::now();
        let mut each = Vec::new();
        for requests in requests.chunks(batch) {
            for request in requests {
                let started = Instant::now();
                system.allocate(request);
                each.push(nanos(started.elapsed()));
            }
            requests.iter().for_each(|request| system.release(request));
            if begun.elapsed() > BUDGET {
                break;
            }
        }
        if run > 0 {
            typical.push(quantile(&mut batches, 50));
            slow.push(quantile(&mut each, 99));
        }
    }
    bench.row(name, "allocate", typical, "ns")?;
    bench.row(name, "allocate-p99", slow, "ns")
}

/// How long a fresh allocator takes to adopt what `count` services show, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn adopt<S: System>(count: u32) -> f64 {
    let range = parse("10.0.0.0/16");
    // In no order: status is read as the API server lists it, by name.
    let shown: Vec<_> = (0..).zip(addresses(range, count, 65_536)).collect();
    let requests: Vec<_> =
        shown.iter().map(|(n, _)| S::request(n * 7919 % count, Family::V4, false)).collect();
    let mut system = S::new(range);
    let started = Instant::now();
    for (request, (_, address)) in requests.iter().zip(&shown) {
        system.adopt(request, *address);
    }
    nanos(started.elapsed()) / 1e6
}

/// What 65 536 services hold in memory, their names included: the requests are gone.
fn hold<S: System>() -> u64 {
    let range = parse("10.0.0.0/16");
    memory::growth(|| {
        let mut system = S::new(range);
        for (number, address) in (0..65_536).zip(addresses(range, 65_536, 65_536)) {
            system.adopt(&S::request(number, Family::V4, false), address);
        }
        system
    })
}

fn parse(range: &str) -> AddressRange {
    range.parse().expect("the cases' ranges are valid")
}

/// `held` addresses of `range` in ascending order, drawn from its first `among`. The same in each run and for each
/// system.
fn addresses(range: AddressRange, held: u32, among: u32) -> impl Iterator<Item = IpAddr> {
    let first = to_bits(range.first());
    let mut random = Random::new();
    let mut left = held;
    (0..among).filter_map(move |offset| {
        // Selection sampling: of what is to come, each is as likely as every other.
        let take = random.below(u64::from(among - offset)) < u64::from(left);
        left -= u32::from(take);
        take.then(|| from_bits(range.family(), first + u128::from(offset)))
    })
}

/// Namespace and name of a service, as long as they are in a real cluster.
fn name(number: u32) -> (String, String) {
    (format!("team-{:02}", number % 40), format!("frontend-service-{number:07}"))
}

struct Ours(PoolAllocator);

impl System for Ours {
    type Request = AllocRequest;

    fn new(range: AddressRange) -> Self {
        let mut allocator = PoolAllocator::new();
        let pools = Pools::new([Pool::new("default", [range])]).expect("one range overlaps nothing");
        allocator.set_pools(&pools);
        Self(allocator)
    }

    fn request(number: u32, family: Family, shared: bool) -> AllocRequest {
        let (namespace, name) = name(number);
        let mut request = AllocRequest::new(OwnerKey::service(&namespace, &name));
        request.families = Families::Single(family);
        request.ports = vec![Port { protocol: Protocol::Tcp, number: 80 }];
        request.sharing = shared.then(|| Sharing { key: "shared".into(), backend: "".into() });
        request
    }

    fn adopt(&mut self, request: &AllocRequest, address: IpAddr) {
        self.0.adopt(request, &[address]).expect("the address is free");
    }

    fn allocate(&mut self, request: &AllocRequest) -> Option<IpAddr> {
        self.0.allocate(request).ok()?.addresses.first().copied()
    }

    fn release(&mut self, request: &AllocRequest) {
        self.0.release(&request.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All systems do the same work: they give the same addresses.
    #[test]
    fn the_systems_agree() {
        fn given<S: System>(shared: bool) -> Vec<Option<IpAddr>> {
            let range = parse("10.0.0.0/27");
            let mut system = S::new(range);
            for (number, address) in (0..).zip(addresses(range, 20, 32)) {
                system.adopt(&S::request(number, Family::V4, shared), address);
            }
            let requests: Vec<_> = (20..34).map(|number| S::request(number, Family::V4, shared)).collect();
            let mut given: Vec<_> = requests.iter().map(|request| system.allocate(request)).collect();
            system.release(&requests[3]);
            system.release(&S::request(0, Family::V4, shared));
            given.push(system.allocate(&requests[3]));
            given.push(system.allocate(&requests[13]));
            given
        }
        for shared in [false, true] {
            let ours = given::<Ours>(shared);
            assert_eq!(ours.iter().flatten().count(), 14);
            assert_eq!(given::<peers::MetalLbScan>(shared), ours);
            assert_eq!(given::<peers::BTreeSetScan>(shared), ours);
        }
    }

    #[test]
    fn holdings_are_as_many_as_asked_for() {
        let range = parse("fd00::/64");
        for (held, among) in [(0, 0), (5, 5), (10, 100), (99, 100)] {
            let all: Vec<_> = addresses(range, held, among).collect();
            assert_eq!(all.len(), held as usize);
            assert!(all.is_sorted_by(|a, b| a < b));
            assert!(all.iter().all(|address| range.contains(*address)));
        }
    }

    #[test]
    fn every_case_is_measured() {
        for case in TABLE.cases {
            assert!(fill(case).is_some() || ["adopt-10000", "services-65536"].contains(case), "{case}");
        }
    }
}
