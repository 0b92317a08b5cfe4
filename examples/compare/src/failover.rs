//! How long a service is away when the node that has its address fails, or is taken out: lbcore beside keepalived.
//!
//! The lab with its three nodes, its client that asks once a millisecond and its tap on the segment, for all alike. The
//! nodes of lbcore route HTTP to two application servers; a node of keepalived has a web server of its own, and gives
//! the address up when that dies.
//!
//! What is one process of lbcore is two at a node of keepalived, so each of them is killed in a case of its own:
//! `process` kills whoever answers HTTP, `daemon` kills the keepalived that has the address, whose kernel goes on to
//! answer for it, and whose web server goes on to serve, until the daemon is started again. That is [`HOLD`] after the
//! takeover, and so long there are two owners at least.

mod keepalived;

use std::io;
use std::path::PathBuf;

use clap::Parser;
use lbcore_examples::lab::report::Summary;
use lbcore_examples::lab::{self, LabError, NodeCommand, Options, Scenario};
use lbcore_examples::netns;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use self::keepalived::Part;
use crate::table::{Bench, Table};

pub(crate) use keepalived::play_role;

pub(crate) const TABLE: Table = Table {
    name: "failover",
    about: "the time without an answer when an owner fails or is drained, beside keepalived",
    systems: &["lbcore", "lbcore-tuned", "keepalived", "keepalived-100ms", "keepalived-20ms"],
    details: DETAILS,
    cases: &["process", "daemon", "node", "cable", "pause", "drain", "rolling"],
    runs: 30,
    needs_network: true,
    measure,
    alone: None,
};

/// How long a fault lasts after the takeover.
const HOLD: &str = "500ms";

const DETAILS: &str = "
             process: kill who answers HTTP. Of lbcore that is the one process of the node; of keepalived the web
               server, of whose end keepalived is told at once, by a `track_file`
             daemon: kill who has the address. Of lbcore that is the same process; of keepalived its daemon, while
               the web server goes on. The kernel keeps the address, so there are two owners (as in `pause`) until the
               daemon is started again and takes it off; it is started 500 ms after the takeover
             node, cable, pause, drain, rolling: as of the example `lab`, all processes of a node together";

/// An unsigned number as a figure.
fn figure(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn measure(bench: &mut Bench<'_>) -> io::Result<()> {
    for &system in bench.systems {
        match faults(system, bench.case, bench.runs) {
            Ok(summary) => report(bench, system, &summary)?,
            Err(error) => match error.downcast_ref::<NotMeasured>() {
                Some(reason) => bench.skip(system, &reason.to_string())?,
                // The others are measured all the same.
                None => bench.fail(system, &with_causes(&*error))?,
            },
        }
    }
    Ok(())
}

/// Why there is no figure, though nothing went wrong.
#[derive(Debug, thiserror::Error)]
enum NotMeasured {
    #[error("keepalived is not installed")]
    Missing,
    #[error("it has but one process: see the case `process`")]
    OneProcess,
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Makes the fault `runs` times, one after the other, each repaired before the next.
fn faults(system: &str, case: &str, runs: u32) -> Result<Summary, Box<dyn std::error::Error>> {
    let mut scenario = scenario()?;
    // keepalived has only the one that the client asks for.
    scenario.allocations.retain(|(_, address)| *address == scenario.target.ip());
    let mut options = options(system, case, runs)?;
    let interval = match system {
        "keepalived" => "1",
        "keepalived-100ms" => "0.1",
        "keepalived-20ms" => "0.02",
        _ if case == "daemon" => return Err(NotMeasured::OneProcess.into()),
        _ => return lab(&scenario, &options, &lab::lbcore_node),
    };
    let program = netns::locate("keepalived").ok_or(NotMeasured::Missing)?;
    let spared = match case {
        "process" => Some(Part::Daemon),
        "daemon" => Some(Part::Web),
        _ => None,
    };
    let node = |spared| {
        let (program, scenario) = (&program, &scenario);
        move |name: &str, _: &[String]| keepalived::node(program, scenario, name, interval, spared)
    };
    let mut summary = lab(&scenario, &options, &node(spared))?;
    if spared.is_some() {
        // The lab does not know what is spared, nor what that costs: here all processes are one group.
        options.faults.clear();
        summary.nodes = lab(&scenario, &options, &node(None))?.nodes;
    }
    Ok(summary)
}

/// Runs the lab, and leaves nothing of it behind.
fn lab(
    scenario: &Scenario,
    options: &Options,
    node: NodeCommand<'_>,
) -> Result<Summary, Box<dyn std::error::Error>> {
    let measured = lab::measure(scenario, options, node);
    end_children()?;
    Ok(measured?)
}

/// Ends all children, and theirs, which are this process's then: it is the first of its PID namespace. They would take
/// their share of the processors while the next system is measured.
fn end_children() -> io::Result<()> {
    let mut ended = true;
    while ended {
        ended = false;
        for thread in std::fs::read_dir("/proc/self/task")? {
            // A thread that has just ended has none.
            let children = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw) {
                // Its end is no news if it had come by itself.
                let _ = kill(child, Signal::SIGKILL);
                ended |= waitpid(child, None).is_ok();
            }
        }
    }
    Ok(())
}

fn scenario() -> Result<Scenario, LabError> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/lab"));
    Scenario::read(&[folder], "www.example.com", None)
}

fn options(system: &str, case: &str, runs: u32) -> Result<Options, clap::Error> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let mut line = vec!["lab", "--keep-going", "--steady=3s", "--hold", HOLD, "--settle=700ms"];
    for _ in 0..runs {
        line.extend(["--fault", if case == "daemon" { "process" } else { case }]);
    }
    if system == "lbcore-tuned" {
        line.extend(["--node-option=--heartbeat=20ms", "--node-option=--misses=3"]);
    }
    Ok(Line::try_parse_from(line)?.options)
}

fn report(bench: &mut Bench<'_>, system: &'static str, summary: &Summary) -> io::Result<()> {
    let faults = &summary.faults;
    let worst = |value: fn(&lab::report::FaultFigures) -> f64| faults.iter().map(value).fold(0.0, f64::max);
    let sum = |value: fn(&lab::report::FaultFigures) -> u64| figure(faults.iter().map(value).sum());
    bench.row(system, "gap_ms_p50", faults.iter().map(|fault| fault.gap_ms).collect(), "ms")?;
    bench.row(system, "gap_ms_worst", vec![worst(|fault| fault.gap_ms)], "ms")?;
    // Those outside the gaps have no fault: they are the system's all the same.
    let outside = figure(summary.tally.failed_outside_gaps);
    bench.row(system, "failed", vec![sum(|fault| fault.failed) + outside], "requests")?;
    bench.row(system, "failed_outside_gaps", vec![outside], "requests")?;
    bench.row(system, "cut", vec![sum(|fault| fault.cut)], "connections")?;
    bench.row(system, "two_owners_ms", vec![worst(|fault| fault.two_owners_ms)], "ms")?;
    let missed = faults.iter().filter(|fault| !fault.recovered).count();
    bench.row(system, "not_recovered", vec![figure(u64::try_from(missed).unwrap_or(u64::MAX))], "faults")?;
    let costs = summary.nodes.iter().map(|node| node.cpu_ms_per_s);
    let mean = costs.sum::<f64>() / figure(summary.nodes.len().max(1) as u64);
    bench.row(system, "cpu_ms_per_s", vec![mean], "ms a node")
}

#[cfg(test)]
mod tests {
    use lbcore_examples::lab::FaultKind;

    use super::*;

    #[test]
    fn each_case_is_a_fault_of_the_lab() {
        for case in TABLE.cases {
            let options = options("lbcore-tuned", case, 3).unwrap();
            assert_eq!(options.faults.len(), 3);
            let fault = if *case == "daemon" { "process" } else { case };
            assert_eq!(options.faults.first().map(|fault: &FaultKind| fault.name()), Some(fault));
            assert_eq!(options.node_options.len(), 2);
        }
        assert!(options("lbcore", "flood", 1).is_err());
    }
}
