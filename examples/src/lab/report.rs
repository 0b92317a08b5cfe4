//! The end of the story: a table for a person, the summary line for a program.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use lbcore::time::{Duration, Instant};
use serde_json::{Value, json};

use super::attempts::{self, Attempt, Gap, Outcome, Tally};
use super::faults::FaultKind;
use super::owners::{self, Claim, Tenure};
use super::story::tenths;

/// A fault longer than this makes a run fail.
pub const GAP_LIMIT: Duration = Duration::from_secs(5);

/// A network that is whole again and has two owners for longer makes a run fail.
pub const HEAL_LIMIT: Duration = Duration::from_secs(1);

/// A fault as it was made, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// Its name, as of [`FaultKind::name`](super::FaultKind::name).
    pub fault: &'static str,
    /// The node that it hit.
    pub node: String,
    /// When it was made.
    pub at: Instant,
    /// When its repair began.
    pub repaired: Instant,
    /// Whether another node claimed the address before the repair; of a partition, `true`.
    pub moved: bool,
    /// What the network fell into, by the number of the client there: only of a partition.
    pub parts: Vec<Part>,
    /// Each node and when it was told to stop, in this order: only of a rolling restart.
    pub restarts: Vec<(String, Instant)>,
}

impl FaultRecord {
    /// The stretches of time that are judged each by itself, up to `end`: in each of them an address changes hands at
    /// most once each way.
    fn stretches(&self, end: Instant) -> Vec<(Instant, Instant)> {
        let begins: Vec<Instant> = match self.restarts.is_empty() {
            true => vec![self.at],
            false => self.restarts.iter().map(|(_, at)| *at).collect(),
        };
        let ends = begins.iter().skip(1).copied().chain([end]);
        begins.iter().copied().zip(ends).collect()
    }

    /// Whether it is one that operators make on purpose, and that is to cost nothing.
    fn is_planned(&self) -> bool {
        FaultKind::PLANNED.iter().any(|kind| kind.name() == self.fault)
    }
}

/// A part of a network that fell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The nodes on it.
    pub nodes: Vec<String>,
    /// Whether the elector promises an owner there.
    pub served: bool,
}

/// What a node's program cost while nobody asked and nothing happened.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFigures {
    /// Which.
    pub node: String,
    /// Milliseconds of a processor in a second.
    pub cpu_ms_per_s: f64,
    /// The most memory that it ever held, in KiB.
    pub peak_kib: u64,
}

/// All that a run observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// When the lab was started; all times count from here.
    pub begin: Instant,
    /// When measuring ended.
    pub end: Instant,
    /// By client, the attempts that were started after the first answer came, until the end, by their start.
    pub logs: Vec<Vec<Attempt>>,
    /// When connections were cut that no attempt tells of.
    pub cuts: Vec<Instant>,
    /// Attempts that the clients could not start.
    pub not_started: u64,
    /// In the order of time.
    pub claims: Vec<Claim>,
    /// The addresses that are watched, in order.
    pub addresses: Vec<IpAddr>,
    /// So many of them are told of one by one.
    pub listed: usize,
    /// In the order in which they were made.
    pub faults: Vec<FaultRecord>,
    /// The nodes whose programs were running at the end.
    pub nodes: Vec<NodeFigures>,
    /// Whether open connections are to outlive a move of their address between living nodes.
    pub keeps_connections: bool,
}

/// The figures of one fault.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultFigures {
    /// Its record.
    pub record: FaultRecord,
    /// The longest gap of all clients where the elector promises an owner.
    pub gap: Gap,
    /// Its length in milliseconds.
    pub gap_ms: f64,
    /// The longest gap of each restart, in milliseconds: only of a rolling restart.
    pub restarts_ms: Vec<f64>,
    /// Attempts that failed in the gaps.
    pub failed: u64,
    /// Connections that were cut after they were accepted, between this fault and the next.
    pub cut: u64,
    /// For how long an address had two owners between this fault and the next, in milliseconds; of a partition, until
    /// its end, and on one of its parts where its elector promises no more.
    pub two_owners_ms: f64,
    /// When the last address of the node that was hit was claimed by another one, in milliseconds after the fault; `None`
    /// of faults that hit more than one node.
    pub takeover_ms: Option<f64>,
    /// Addresses of the node that was hit which no other one claimed before the repair.
    pub lost: usize,
    /// Of a partition.
    pub partition: Option<PartitionFigures>,
    /// Whether the service came back in time, by another node.
    pub recovered: bool,
    /// Whether it was planned, and cost requests or connections that it should not.
    pub costly: bool,
}

/// The figures of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionFigures {
    /// By part.
    pub parts: Vec<PartFigures>,
    /// From its end until the last word of an owner that gives way to another, in milliseconds.
    pub heal_ms: f64,
    /// The longest gap that a client noticed after its end, from there on, in milliseconds.
    pub heal_gap_ms: f64,
}

/// The figures of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct PartFigures {
    /// What its client noticed, in milliseconds.
    pub gap_ms: f64,
    /// Its attempts that failed meanwhile.
    pub failed: u64,
    /// For how long an address had two owners there, in milliseconds.
    pub two_owners_ms: f64,
}

/// The figures of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Nothing failed outside the gaps, every fault was recovered from, no address had two owners, and what was planned
    /// cost nothing.
    pub ok: bool,
    /// The counts.
    pub tally: Tally,
    /// The faults.
    pub faults: Vec<FaultFigures>,
    /// For how long an address had two owners before the first fault, in milliseconds.
    pub two_owners_before_ms: f64,
    /// Who owned which address when, as the first client heard it.
    pub tenures: Vec<Tenure>,
    /// The attempts that failed outside the gaps.
    pub unexpected: Vec<Attempt>,
    /// What the nodes' programs cost.
    pub nodes: Vec<NodeFigures>,
}

/// More attempts than one in so many that the client could not start make a run worth nothing.
const START_MOST: u64 = 100;

/// What a client noticed of a fault.
#[derive(Clone, Copy, Debug)]
struct Noticed {
    /// The number of the fault.
    fault: usize,
    phase: Phase,
    gap: Gap,
    /// Attempts that failed in the gap.
    failed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In the stretch of the fault that has this number.
    During(usize),
    /// After the end of a partition.
    Healing,
}

/// Computes the figures.
pub fn summarize(run: &Run) -> Summary {
    let mut tally = Tally::default();
    let noticed: Vec<Vec<Noticed>> = run
        .logs
        .iter()
        .map(|log| {
            let mut noticed = notice(run, log);
            let gaps: Vec<Gap> = noticed.iter().map(|it| it.gap).collect();
            let of_client = attempts::tally(log, &gaps);
            for (it, failed) in noticed.iter_mut().zip(&of_client.failed_in_gap) {
                it.failed = *failed;
            }
            tally.add(&of_client);
            noticed
        })
        .collect();
    tally.cut += u64::try_from(run.cuts.len()).unwrap_or(u64::MAX);

    let first_fault = run.faults.first().map_or(Instant::FAR_FUTURE, |fault| fault.at);
    let two_owners_before_ms = millis(Stretch::of(run, Instant::ZERO, first_fault).two_owners(|_| true));
    let faults: Vec<FaultFigures> = (0..run.faults.len())
        .map(|index| {
            let of_clients =
                noticed.iter().map(|all| all.iter().filter(|it| it.fault == index).copied().collect());
            figures(run, index, &of_clients.collect::<Vec<_>>())
        })
        .collect();
    let one_owner = two_owners_before_ms == 0.0 && faults.iter().all(|fault| fault.two_owners_ms == 0.0);
    let heals = |fault: &FaultFigures| {
        fault.partition.as_ref().is_none_or(|partition| partition.heal_ms <= millis(HEAL_LIMIT))
    };
    let ok = tally.requests > 0
        && run.not_started <= tally.requests / START_MOST
        && tally.failed_outside_gaps == 0
        && one_owner
        && faults.iter().all(|fault| fault.recovered && fault.lost == 0 && !fault.costly && heals(fault));
    let outside = run.logs.iter().zip(&noticed).flat_map(|(log, noticed)| {
        log.iter()
            .filter(|attempt| !attempt.succeeded() && !noticed.iter().any(|it| it.gap.covers(attempt.start)))
    });
    let unexpected = outside.cloned().collect();
    Summary {
        ok,
        tally,
        faults,
        two_owners_before_ms,
        tenures: owners::tenures(run.claims.iter().filter(|claim| is_heard(run, claim))),
        unexpected,
        nodes: run.nodes.clone(),
    }
}

/// Whether the first client was in reach of who made this claim.
fn is_heard(run: &Run, claim: &Claim) -> bool {
    let apart = run.faults.iter().find(|fault| (fault.at..fault.repaired).contains(&claim.at));
    let part = apart.and_then(|fault| fault.parts.first());
    part.is_none_or(|part| part.nodes.contains(&claim.node))
}

/// The gaps of all faults in the log of one client; their failures are not counted yet.
fn notice(run: &Run, log: &[Attempt]) -> Vec<Noticed> {
    let mut noticed = Vec::new();
    for (fault, record) in run.faults.iter().enumerate() {
        for (number, (from, to)) in record.stretches(record.repaired).into_iter().enumerate() {
            let gap = attempts::gap(log, from, to);
            noticed.push(Noticed { fault, phase: Phase::During(number), gap, failed: 0 });
        }
        if !record.parts.is_empty() {
            let gap = attempts::gap(log, record.repaired, next_fault(run, fault));
            noticed.push(Noticed { fault, phase: Phase::Healing, gap, failed: 0 });
        }
    }
    noticed
}

fn next_fault(run: &Run, index: usize) -> Instant {
    run.faults.get(index + 1).map_or(Instant::FAR_FUTURE, |next| next.at)
}

fn millis(span: Duration) -> f64 {
    tenths(span.as_micros())
}

/// The figures of a fault, by what each client noticed of it.
fn figures(run: &Run, index: usize, clients: &[Vec<Noticed>]) -> FaultFigures {
    let record = &run.faults[index];
    let next = next_fault(run, index);
    let is_served = |client: usize| record.parts.get(client).is_none_or(|part| part.served);
    let served = clients.iter().enumerate().filter(|(client, _)| is_served(*client));
    let served: Vec<&Noticed> = served.flat_map(|(_, noticed)| noticed).collect();
    let longest = |is_in: &dyn Fn(Phase) -> bool| {
        let gaps = served.iter().filter(|it| is_in(it.phase)).map(|it| it.gap);
        gaps.max_by_key(|gap| gap.length(run.end)).unwrap_or(Gap::None)
    };
    let gap = longest(&|phase| phase != Phase::Healing);
    let length = gap.length(run.end);
    let restarts_ms = (0..record.restarts.len())
        .map(|number| millis(longest(&|phase| phase == Phase::During(number)).length(run.end)));
    // A request that was under way when the fault came is one of its victims.
    let since = run.logs.iter().flatten().filter(|attempt| (record.at..next).contains(&attempt.end));
    let cut = since.filter(|attempt| attempt.outcome == Outcome::Cut).count()
        + run.cuts.iter().filter(|at| (record.at..next).contains(at)).count();

    let (takeover_ms, lost) = match Stretch::of(run, record.at, next).takeover(record) {
        Some((last, lost)) => (last.map(|at| millis(at.saturating_since(record.at))), lost),
        None => (None, 0),
    };
    let partition = (!record.parts.is_empty()).then(|| {
        let stretch = Stretch::of(run, record.at, record.repaired);
        let parts = record.parts.iter().zip(clients).map(|(part, noticed)| {
            let during = noticed.iter().find(|it| it.phase != Phase::Healing);
            PartFigures {
                gap_ms: millis(during.map_or(Duration::ZERO, |it| it.gap.length(record.repaired))),
                failed: during.map_or(0, |it| it.failed),
                two_owners_ms: millis(stretch.two_owners(|node| part.nodes.iter().any(|name| name == node))),
            }
        });
        // What was away before goes on being away for a moment.
        let healing = clients.iter().flatten().filter(|it| it.phase == Phase::Healing);
        let after = healing.map(|it| match it.gap {
            Gap::Closed { from, to } => to.saturating_since(from.max(record.repaired)),
            gap => gap.length(run.end),
        });
        let after = after.max();
        PartitionFigures {
            parts: parts.collect(),
            heal_ms: millis(Stretch::of(run, record.repaired, next).settled_after()),
            heal_gap_ms: millis(after.unwrap_or_default()),
        }
    });
    let two_owners_ms = match &partition {
        // An elector that leaves a part without an owner promises that there are no two.
        Some(_) if record.parts.iter().any(|part| !part.served) => {
            millis(Stretch::of(run, record.at, next).two_owners(|_| true))
        }
        Some(partition) => partition.parts.iter().map(|part| part.two_owners_ms).fold(0.0, f64::max),
        None => {
            let stretches = record.stretches(next).into_iter();
            millis(
                stretches
                    .map(|(from, to)| Stretch::of(run, from, to).two_owners(|_| true))
                    .max()
                    .unwrap_or_default(),
            )
        }
    };
    let cut = u64::try_from(cut).unwrap_or(u64::MAX);
    let failed = clients.iter().flatten().map(|it| it.failed).sum();
    FaultFigures {
        record: record.clone(),
        gap,
        gap_ms: millis(length),
        restarts_ms: restarts_ms.collect(),
        failed,
        cut,
        two_owners_ms,
        takeover_ms,
        lost,
        partition,
        recovered: record.moved && !matches!(gap, Gap::Open { .. }) && length <= GAP_LIMIT,
        costly: record.is_planned() && run.keeps_connections && (failed > 0 || cut > 0),
    }
}

/// The claims of a stretch of time.
struct Stretch<'a> {
    from: Instant,
    before: &'a [Claim],
    by_address: BTreeMap<IpAddr, Vec<Claim>>,
}

impl<'a> Stretch<'a> {
    fn of(run: &'a Run, from: Instant, to: Instant) -> Self {
        let at = |instant: Instant| run.claims.partition_point(|claim| claim.at < instant);
        let mut by_address: BTreeMap<IpAddr, Vec<Claim>> = BTreeMap::new();
        for claim in &run.claims[at(from)..at(to)] {
            by_address.entry(claim.address).or_default().push(claim.clone());
        }
        Self { from, before: &run.claims[..at(from)], by_address }
    }

    fn owners_before(&self) -> BTreeMap<IpAddr, &'a str> {
        self.before.iter().map(|claim| (claim.address, claim.node.as_str())).collect()
    }

    /// For how long an address had two owners among the nodes that `counts` names.
    fn two_owners(&self, counts: impl Fn(&str) -> bool) -> Duration {
        let before = self.owners_before();
        let times = self.by_address.iter().map(|(address, claims)| {
            let claims: Vec<Claim> = claims.iter().filter(|claim| counts(&claim.node)).cloned().collect();
            let former = before.get(address).copied().filter(|node| counts(node));
            owners::two_owners(&claims, *address, former)
        });
        times.max().unwrap_or_default()
    }

    /// How long it took until no address was claimed any more by another node than the one that has it at the end.
    fn settled_after(&self) -> Duration {
        let times = self.by_address.values().filter_map(|claims| {
            let last = claims.last()?;
            let other = claims.iter().rfind(|claim| claim.node != last.node)?;
            Some(other.at.saturating_since(self.from))
        });
        times.max().unwrap_or_default()
    }

    /// When the last address that the node hit had was claimed by another one, and how many none claimed before the
    /// repair. `None` if more than one node was hit.
    fn takeover(&self, record: &FaultRecord) -> Option<(Option<Instant>, usize)> {
        let single = record.parts.is_empty() && !record.node.contains(',');
        let before = self.owners_before();
        let owned = before.iter().filter(|(_, node)| **node == record.node).map(|(address, _)| address);
        let claimed = owned.map(|address| {
            let claims = self.by_address.get(address).into_iter().flatten();
            let mut others = claims.filter(|claim| claim.node != record.node && claim.at < record.repaired);
            others.next().map(|claim| claim.at)
        });
        let claimed: Vec<Option<Instant>> = claimed.collect();
        let lost = claimed.iter().filter(|at| at.is_none()).count();
        single.then(|| (claimed.into_iter().flatten().max(), lost))
    }
}

/// The summary as the last JSON line has it.
pub fn json_line(run: &Run, summary: &Summary) -> Value {
    let since_begin = |at: Instant| millis(at.saturating_since(run.begin));
    let faults = summary.faults.iter().map(|fault| {
        let mut line = json!({
            "fault": fault.record.fault,
            "gap_ms": fault.gap_ms,
            "failed": fault.failed,
            "cut": fault.cut,
            "two_owners_ms": fault.two_owners_ms,
        });
        if let Some(takeover_ms) = fault.takeover_ms {
            line["takeover_ms"] = takeover_ms.into();
        }
        if !fault.record.restarts.is_empty() {
            let restarts = fault.record.restarts.iter().zip(&fault.restarts_ms);
            line["restarts"] =
                restarts.map(|((node, _), gap_ms)| json!({"node": node, "gap_ms": gap_ms})).collect();
        }
        if let Some(partition) = &fault.partition {
            let parts = fault.record.parts.iter().zip(&partition.parts).map(|(part, figures)| {
                json!({
                    "nodes": part.nodes,
                    "served": part.served,
                    "gap_ms": figures.gap_ms,
                    "failed": figures.failed,
                    "two_owners_ms": figures.two_owners_ms,
                })
            });
            line["parts"] = parts.collect();
            line["heal_ms"] = partition.heal_ms.into();
            line["heal_gap_ms"] = partition.heal_gap_ms.into();
        }
        line
    });
    let owners = listed(run, summary).map(|tenure| {
        json!({
            "address": tenure.address,
            "node": tenure.node,
            "from_ms": since_begin(tenure.from),
            "to_ms": tenure.to.map(since_begin),
        })
    });
    let nodes = summary.nodes.iter().map(|figures| {
        json!({
            "node": figures.node,
            "cpu_ms_per_s": figures.cpu_ms_per_s,
            "peak_kib": figures.peak_kib,
        })
    });
    json!({
        "event": "summary",
        "ok": summary.ok,
        "requests": summary.tally.requests,
        "failed": summary.tally.failed,
        "failed_outside_gaps": summary.tally.failed_outside_gaps,
        "cut": summary.tally.cut,
        "split": summary.tally.split,
        "faults": faults.collect::<Vec<_>>(),
        "owners": owners.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

/// The tenures of the addresses that are told of one by one.
fn listed<'a>(run: &Run, summary: &'a Summary) -> impl Iterator<Item = &'a Tenure> {
    let last = run.addresses.iter().take(run.listed).next_back().copied();
    summary.tenures.iter().filter(move |tenure| Some(tenure.address) <= last)
}

/// The summary as a table.
pub fn table(run: &Run, summary: &Summary) -> String {
    let seconds = |at: Instant| format!("{:.3}s", at.saturating_since(run.begin).as_secs_f64());
    let mut text = String::new();
    let mut rows =
        vec![["fault", "hit", "at", "gap", "failed", "cut", "two owners", "takeover", ""].map(str::to_owned)];
    for fault in &summary.faults {
        let verdict = match (fault.recovered, &fault.gap) {
            (true, _) => "recovered",
            (false, Gap::Open { .. }) => "NOT RECOVERED",
            (false, _) if !fault.record.moved => "NO OTHER NODE TOOK OVER",
            (false, _) => "TOO SLOW",
        };
        let verdict = match &fault.partition {
            Some(partition) => format!("{verdict}, healed after {:.1} ms", partition.heal_ms),
            None if fault.lost > 0 => format!("{} ADDRESSES LOST", fault.lost),
            None if fault.costly => format!("{verdict}, BUT IT WAS TO COST NOTHING"),
            None => verdict.to_owned(),
        };
        rows.push([
            fault.record.fault.to_owned(),
            fault.record.node.clone(),
            seconds(fault.record.at),
            format!("{:.1} ms", fault.gap_ms),
            fault.failed.to_string(),
            fault.cut.to_string(),
            format!("{:.1} ms", fault.two_owners_ms),
            fault.takeover_ms.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1} ms")),
            verdict,
        ]);
    }
    align(&mut text, &rows);
    let mut rows = vec![["address", "owner", "from", "to"].map(str::to_owned)];
    for tenure in listed(run, summary) {
        rows.push([
            tenure.address.to_string(),
            tenure.node.clone(),
            seconds(tenure.from),
            tenure.to.map_or_else(|| "the end".to_owned(), seconds),
        ]);
    }
    text.push('\n');
    align(&mut text, &rows);
    let tally = &summary.tally;
    let answers = tally.split.values().sum::<u64>().max(1);
    let split = tally.split.iter().map(|(version, count)| {
        format!("{version} {:.1} %", tenths(u128::from(*count) * 100_000 / u128::from(answers)))
    });
    let mut line = |what: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<22}{value}");
    };
    line("\nrequests", &format!(" {}", tally.requests));
    line("failed", &format!("{}, of them outside the gaps {}", tally.failed, tally.failed_outside_gaps));
    line("connections cut", &tally.cut.to_string());
    line("split", &split.collect::<Vec<_>>().join(", "));
    let nodes = summary.nodes.iter().map(|figures| {
        format!("{} {:.1} ms/s, {:.1} MiB", figures.node, figures.cpu_ms_per_s, mebibytes(figures.peak_kib))
    });
    line("cost of standing by", &nodes.collect::<Vec<_>>().join("; "));
    if summary.two_owners_before_ms > 0.0 {
        line("two owners at start", &format!("{:.1} ms", summary.two_owners_before_ms));
    }
    if run.not_started > 0 {
        line("not started", &format!("{}: {}", run.not_started, attempts::NOT_STARTED));
    }
    line("verdict", if summary.ok { "ok" } else { "NOT OK" });
    text
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// Columns as wide as their widest cell.
fn align<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::attempts::{Connection, Outcome};

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 201));

    fn at(millis: u64) -> Instant {
        Instant::from_millis(1000 + millis)
    }

    fn claim(millis: u64, node: &str) -> Claim {
        Claim { at: at(millis), address: ADDRESS, node: node.to_owned(), announcement: true }
    }

    /// A run of 200 ms: n1 is killed at 50 ms, requests fail until 80 ms, n2 claims the address at 79 ms.
    fn run() -> Run {
        let attempt = |millis: u64| Attempt {
            start: at(millis),
            end: at(millis),
            connection: Connection::Fresh,
            outcome: match millis {
                50..80 => Outcome::Refused,
                millis if millis % 2 == 0 => Outcome::Answered("appv1".to_owned()),
                _ => Outcome::Answered("appv2".to_owned()),
            },
        };
        let fault = FaultRecord {
            fault: "process",
            node: "n1".to_owned(),
            at: at(50),
            repaired: at(150),
            moved: true,
            parts: Vec::new(),
            restarts: Vec::new(),
        };
        Run {
            begin: at(0),
            end: at(200),
            logs: vec![(0..200).map(attempt).collect()],
            cuts: vec![at(51), at(52)],
            not_started: 0,
            claims: vec![claim(0, "n1"), claim(79, "n2")],
            addresses: vec![ADDRESS],
            listed: 1,
            faults: vec![fault],
            nodes: vec![NodeFigures { node: "n2".to_owned(), cpu_ms_per_s: 1.5, peak_kib: 10_240 }],
            keeps_connections: true,
        }
    }

    #[test]
    fn the_summary_line_is_the_promised_one() {
        let run = run();
        let expected = json!({
            "event": "summary", "ok": true, "requests": 200, "failed": 30, "failed_outside_gaps": 0, "cut": 2,
            "split": {"appv1": 85, "appv2": 85},
            "faults": [{"fault": "process", "gap_ms": 31.0, "failed": 30, "cut": 2, "two_owners_ms": 0.0, "takeover_ms": 29.0}],
            "owners": [
                {"address": "192.0.2.201", "node": "n1", "from_ms": 0.0, "to_ms": 79.0},
                {"address": "192.0.2.201", "node": "n2", "from_ms": 79.0, "to_ms": null},
            ],
            "nodes": [{"node": "n2", "cpu_ms_per_s": 1.5, "peak_kib": 10240}],
        });
        assert_eq!(json_line(&run, &summarize(&run)), expected);
        assert_eq!(summarize(&run).unexpected, []);
    }

    #[test]
    fn what_makes_a_run_fail() {
        type Spoil = fn(&mut Run);
        let cases: [(&str, Spoil); 9] = [
            ("a failure outside the gap", |run| run.logs[0][120].outcome = Outcome::Cut),
            ("a failure before the fault", |run| run.logs[0][10].outcome = Outcome::Silent),
            ("the service never comes back", |run| run.logs[0].truncate(85)),
            ("it comes back too late", |run| {
                for attempt in &mut run.logs[0][80..] {
                    attempt.start += GAP_LIMIT;
                    attempt.end = attempt.start;
                }
            }),
            ("nobody took over", |run| run.faults[0].moved = false),
            ("the former owner goes on claiming", |run| {
                run.claims.extend([claim(90, "n1"), claim(95, "n2")]);
            }),
            ("two owners before the first fault", |run| {
                run.claims.splice(1..1, [claim(10, "n3"), claim(11, "n1"), claim(12, "n3")]);
            }),
            ("no request at all", |run| run.logs[0].clear()),
            ("the client could not start every 50th request", |run| run.not_started = 4),
        ];
        assert!(summarize(&run()).ok);
        for (name, spoil) in cases {
            let mut run = run();
            spoil(&mut run);
            let summary = summarize(&run);
            assert!(!summary.ok, "{name}");
            assert_eq!(summary.unexpected.len(), usize::try_from(summary.tally.failed_outside_gaps).unwrap());
        }
    }

    #[test]
    fn what_is_planned_is_to_cost_nothing() {
        let planned = |fault: &'static str| {
            let mut run = run();
            run.faults[0].fault = fault;
            run.cuts.clear();
            run.logs[0].retain(Attempt::succeeded);
            run
        };
        for fault in ["drain", "rolling"] {
            assert!(summarize(&planned(fault)).ok, "{fault}");
            let failed = Run { logs: run().logs, ..planned(fault) };
            assert!(!summarize(&failed).ok, "{fault}: requests failed");
            let cut = Run { cuts: vec![at(60)], ..planned(fault) };
            assert!(!summarize(&cut).ok, "{fault}: a connection was cut");
            let cannot = Run { keeps_connections: false, logs: run().logs, ..cut };
            assert!(summarize(&cannot).ok, "{fault}: nodes that cannot hand connections over");
        }
        let cut = Run { cuts: vec![at(60)], ..planned("process") };
        assert!(summarize(&cut).ok, "who is killed cannot go on serving");
    }

    #[test]
    fn each_restart_is_judged_by_itself() {
        let mut run = run();
        run.faults[0].fault = "rolling";
        run.faults[0].restarts = vec![("n1".to_owned(), at(50)), ("n2".to_owned(), at(100))];
        // n1 stops and n2 owns; n2 stops and n1 owns again: with one restart after the other no duel.
        run.claims.extend([claim(104, "n1"), claim(106, "n1")]);
        run.logs[0][103].outcome = Outcome::Refused;
        let summary = summarize(&run);
        let fault = &summary.faults[0];
        assert_eq!((fault.two_owners_ms, &fault.restarts_ms), (0.0, &vec![31.0, 2.0]));
        assert_eq!((fault.gap_ms, fault.failed, summary.tally.failed_outside_gaps), (31.0, 31, 0));
        let line = json_line(&run, &summary);
        assert_eq!(line["faults"][0]["restarts"][1], json!({"node": "n2", "gap_ms": 2.0}));
        run.claims.push(Claim { announcement: false, ..claim(108, "n2") });
        assert_eq!(summarize(&run).faults[0].two_owners_ms, 4.0);
    }

    #[test]
    fn a_request_that_was_under_way_is_a_victim_of_the_fault() {
        let mut run = run();
        let attempt = &mut run.logs[0][49];
        (attempt.outcome, attempt.end) = (Outcome::Cut, at(70));
        let before = FaultRecord { at: at(20), repaired: at(30), fault: "drain", ..run.faults[0].clone() };
        run.faults.insert(0, before);
        let cut: Vec<u64> = summarize(&run).faults.iter().map(|fault| fault.cut).collect();
        assert_eq!(cut, [0, 3]);
    }

    #[test]
    fn the_table_says_it_to_a_person() {
        let run = Run { not_started: 2, ..run() };
        let text = table(&run, &summarize(&run));
        for line in [
            "process  n1   0.050s  31.0 ms  30      2    0.0 ms      29.0 ms   recovered",
            "192.0.2.201  n2     0.079s  the end",
            "failed                30, of them outside the gaps 0",
            "split                 appv1 50.0 %, appv2 50.0 %",
            "not started           2: this machine is too busy, or its limit of open files (`ulimit -n`) too low",
            "cost of standing by   n2 1.5 ms/s, 10.0 MiB",
            "verdict               ok",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
