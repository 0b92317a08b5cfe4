//! What the election costs: `cargo run --release -p elect-gossip --example cost [SECONDS]`. Real drivers on the loopback
//! interface, all in one runtime; the CPU time is this process's own, user and system.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use elect_gossip::{ClusterKey, Config, GossipElector, Keyring, Timing};
use lbcore::elect::{Bid, Candidacy, LeaderElector};
use lbcore::id::Role;
use tokio::task::JoinSet;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    println!("| nodes | owners | interval | CPU a node, of one core | datagrams a second, all nodes |");
    println!("| --- | --- | --- | --- | --- |");
    for (nodes, owners) in [(3, 0), (3, 3), (50, 0), (50, 4), (50, 50)] {
        for timing in [Timing::default(), Timing::tuned()] {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let cost = runtime.block_on(measure(nodes, owners, timing, Duration::from_secs(seconds)));
            let Ok((cpu, datagrams)) = cost else {
                println!("| {nodes} | {owners} | {:?} | more than this machine has | |", timing.interval);
                continue;
            };
            println!("| {nodes} | {owners} | {:?} | {cpu:.2} % | {datagrams:.0} |", timing.interval);
        }
    }
    Ok(())
}

/// The share of a core that a node takes, in percent, and the datagrams that all send in a second.
async fn measure(
    nodes: usize,
    owners: usize,
    timing: Timing,
    span: Duration,
) -> Result<(f64, f64), Box<dyn Error>> {
    let mut electors: Vec<GossipElector> = Vec::new();
    let mut seeds = Vec::new();
    let mut drivers = JoinSet::new();
    for number in 0..nodes {
        let config = Config::new(
            format!("n{number:02}"),
            "127.0.0.1:0".parse()?,
            Keyring::new(ClusterKey::new([7; 32])),
        );
        let (elector, driver) =
            GossipElector::new(&config.with_seeds(seeds.iter().copied().take(3)).with_timing(timing))?;
        seeds.push(driver.address());
        drivers.spawn(driver.run(std::future::pending()));
        electors.push(elector);
    }
    // All bid for all, so that all would act on each owner's death: the dearest case.
    let roles: Vec<_> = (1..=owners)
        .map(|last| Ok(Role::Address([192, 0, 2, u8::try_from(last)?].into())))
        .collect::<Result<_, Box<dyn Error>>>()?;
    for elector in &electors {
        let bids = roles.iter().map(|role| (role.clone(), Bid::default()));
        elector.set_candidacy(Arc::new(Candidacy::new(1, bids)));
    }
    for elector in &electors {
        let mut ownership = elector.ownership();
        let ready = ownership.wait_for(|now| {
            let mut owning: Vec<_> = now.roles.values().map(|owner| &owner.node).collect();
            owning.sort_unstable();
            owning.dedup();
            now.members.len() == nodes && owning.len() == owners
        });
        tokio::time::timeout(Duration::from_secs(60), ready).await??;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, sent_before) = (cpu_time()?, sent(&electors));
    tokio::time::sleep(span).await;
    let (cpu, sent) = (cpu_time()? - before, sent(&electors) - sent_before);
    let lost: u64 = electors.iter().map(|elector| elector.counters().leases_lost).sum();
    if lost > 0 {
        eprintln!("{lost} leases were lost: this machine is too busy for {:?}", timing.interval);
    }
    let span = span.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (nodes, sent) = (nodes as f64, sent as f64);
    Ok((cpu.as_secs_f64() / span / nodes * 100.0, sent / span))
}

fn sent(electors: &[GossipElector]) -> u64 {
    electors.iter().map(|elector| elector.counters().sent).sum()
}

/// What this process has computed so far.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}
