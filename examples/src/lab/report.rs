//! The end of the story: a table for a person, the summary line for a program.

use std::fmt::Write;
use std::net::IpAddr;

use lbcore::time::{Duration, Instant};
use serde_json::{Value, json};

use super::attempts::{self, Attempt, Gap, Outcome, Tally};
use super::owners::{self, Claim, Tenure};
use super::story::tenths;

/// A fault longer than this makes a run fail.
pub const GAP_LIMIT: Duration = Duration::from_secs(5);

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
    /// Whether another node claimed the address before the repair.
    pub moved: bool,
}

/// All that a run observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// When the lab was started; all times count from here.
    pub begin: Instant,
    /// When measuring ended.
    pub end: Instant,
    /// The attempts that were started after the first answer came, until the end, by their start.
    pub log: Vec<Attempt>,
    /// Idle connections that were cut.
    pub idle_cuts: u64,
    /// Attempts that the client could not start.
    pub not_started: u64,
    /// In the order of time.
    pub claims: Vec<Claim>,
    /// The addresses that are watched.
    pub addresses: Vec<IpAddr>,
    /// In the order in which they were made.
    pub faults: Vec<FaultRecord>,
}

/// The figures of one fault.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultFigures {
    /// Its record.
    pub record: FaultRecord,
    /// The gap.
    pub gap: Gap,
    /// The gap's length in milliseconds.
    pub gap_ms: f64,
    /// Attempts that failed in the gap.
    pub failed: u64,
    /// Attempts between this fault and the next whose connection was cut after it was accepted.
    pub cut: u64,
    /// For how long an address had two owners between this fault and the next, in milliseconds.
    pub two_owners_ms: f64,
    /// Whether the service came back in time, by another node.
    pub recovered: bool,
}

/// The figures of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Nothing failed outside the gaps, every fault was recovered from, no address had two owners.
    pub ok: bool,
    /// The counts.
    pub tally: Tally,
    /// The faults.
    pub faults: Vec<FaultFigures>,
    /// For how long an address had two owners before the first fault, in milliseconds.
    pub two_owners_before_ms: f64,
    /// Who owned which address when.
    pub tenures: Vec<Tenure>,
    /// The attempts that failed outside the gaps.
    pub unexpected: Vec<Attempt>,
}

/// Computes the figures.
pub fn summarize(run: &Run) -> Summary {
    let gaps: Vec<Gap> =
        run.faults.iter().map(|fault| attempts::gap(&run.log, fault.at, fault.repaired)).collect();
    let tally = attempts::tally(&run.log, run.idle_cuts, &gaps);
    let two_owners = |from: Instant, to: Instant| {
        let at = |instant: Instant| run.claims.partition_point(|claim| claim.at < instant);
        let (before, during) = (&run.claims[..at(from)], &run.claims[at(from)..at(to)]);
        let longest = run
            .addresses
            .iter()
            .map(|address| owners::two_owners(during, *address, owners::owner(before, *address)));
        tenths(longest.max().unwrap_or_default().as_micros())
    };
    let first_fault = run.faults.first().map_or(Instant::FAR_FUTURE, |fault| fault.at);
    let two_owners_before_ms = two_owners(Instant::ZERO, first_fault);
    let mut faults = Vec::new();
    for (index, (record, gap)) in run.faults.iter().zip(&gaps).enumerate() {
        let next = run.faults.get(index + 1).map_or(Instant::FAR_FUTURE, |next| next.at);
        let length = gap.length(run.end);
        let since = run.log.iter().filter(|attempt| (record.at..next).contains(&attempt.start));
        let cut = since.filter(|attempt| attempt.outcome == Outcome::Cut).count();
        faults.push(FaultFigures {
            record: record.clone(),
            gap: *gap,
            gap_ms: tenths(length.as_micros()),
            failed: tally.failed_in_gap[index],
            cut: u64::try_from(cut).unwrap_or(u64::MAX),
            two_owners_ms: two_owners(record.at, next),
            recovered: record.moved && !matches!(gap, Gap::Open { .. }) && length <= GAP_LIMIT,
        });
    }
    let one_owner = two_owners_before_ms == 0.0 && faults.iter().all(|fault| fault.two_owners_ms == 0.0);
    let ok = tally.requests > 0
        && tally.failed_outside_gaps == 0
        && one_owner
        && faults.iter().all(|fault| fault.recovered);
    let outside =
        |attempt: &&Attempt| !attempt.succeeded() && !gaps.iter().any(|gap| gap.covers(attempt.start));
    let unexpected = run.log.iter().filter(outside).cloned().collect();
    Summary { ok, tally, faults, two_owners_before_ms, tenures: owners::tenures(&run.claims), unexpected }
}

/// The summary as the last JSON line has it.
pub fn json_line(run: &Run, summary: &Summary) -> Value {
    let millis = |at: Instant| tenths(at.saturating_since(run.begin).as_micros());
    let faults = summary.faults.iter().map(|fault| {
        json!({
            "fault": fault.record.fault,
            "gap_ms": fault.gap_ms,
            "failed": fault.failed,
            "cut": fault.cut,
            "two_owners_ms": fault.two_owners_ms,
        })
    });
    let owners = summary.tenures.iter().map(|tenure| {
        json!({
            "address": tenure.address,
            "node": tenure.node,
            "from_ms": millis(tenure.from),
            "to_ms": tenure.to.map(millis),
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
    })
}

/// The summary as a table.
pub fn table(run: &Run, summary: &Summary) -> String {
    let seconds = |at: Instant| format!("{:.3}s", at.saturating_since(run.begin).as_secs_f64());
    let mut text = String::new();
    let mut rows = vec![["fault", "hit", "at", "gap", "failed", "cut", "two owners", ""].map(str::to_owned)];
    for fault in &summary.faults {
        let verdict = match (fault.recovered, &fault.gap) {
            (true, _) => "recovered",
            (false, Gap::Open { .. }) => "NOT RECOVERED",
            (false, _) if !fault.record.moved => "NO OTHER NODE TOOK OVER",
            (false, _) => "TOO SLOW",
        };
        rows.push([
            fault.record.fault.to_owned(),
            fault.record.node.clone(),
            seconds(fault.record.at),
            format!("{:.1} ms", fault.gap_ms),
            fault.failed.to_string(),
            fault.cut.to_string(),
            format!("{:.1} ms", fault.two_owners_ms),
            verdict.to_owned(),
        ]);
    }
    align(&mut text, &rows);
    let mut rows = vec![["address", "owner", "from", "to"].map(str::to_owned)];
    for tenure in &summary.tenures {
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
    if summary.two_owners_before_ms > 0.0 {
        line("two owners at start", &format!("{:.1} ms", summary.two_owners_before_ms));
    }
    if run.not_started > 0 {
        line("not started", &format!("{}: {}", run.not_started, attempts::NOT_STARTED));
    }
    line("verdict", if summary.ok { "ok" } else { "NOT OK" });
    text
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
        };
        Run {
            begin: at(0),
            end: at(200),
            log: (0..200).map(attempt).collect(),
            idle_cuts: 2,
            not_started: 0,
            claims: vec![claim(0, "n1"), claim(79, "n2")],
            addresses: vec![ADDRESS],
            faults: vec![fault],
        }
    }

    #[test]
    fn the_summary_line_is_the_promised_one() {
        let run = run();
        let expected = json!({
            "event": "summary", "ok": true, "requests": 200, "failed": 30, "failed_outside_gaps": 0, "cut": 2,
            "split": {"appv1": 85, "appv2": 85},
            "faults": [{"fault": "process", "gap_ms": 31.0, "failed": 30, "cut": 0, "two_owners_ms": 0.0}],
            "owners": [
                {"address": "192.0.2.201", "node": "n1", "from_ms": 0.0, "to_ms": 79.0},
                {"address": "192.0.2.201", "node": "n2", "from_ms": 79.0, "to_ms": null},
            ],
        });
        assert_eq!(json_line(&run, &summarize(&run)), expected);
        assert_eq!(summarize(&run).unexpected, []);
    }

    #[test]
    fn what_makes_a_run_fail() {
        type Spoil = fn(&mut Run);
        let cases: [(&str, Spoil); 8] = [
            ("a failure outside the gap", |run| run.log[120].outcome = Outcome::Cut),
            ("a failure before the fault", |run| run.log[10].outcome = Outcome::Silent),
            ("the service never comes back", |run| run.log.truncate(85)),
            ("it comes back too late", |run| {
                for attempt in &mut run.log[80..] {
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
            ("no request at all", |run| run.log.clear()),
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
    fn the_table_says_it_to_a_person() {
        let run = Run { not_started: 7, ..run() };
        let text = table(&run, &summarize(&run));
        for line in [
            "process  n1   0.050s  31.0 ms  30      0    0.0 ms      recovered",
            "192.0.2.201  n2     0.079s  the end",
            "failed                30, of them outside the gaps 0",
            "split                 appv1 50.0 %, appv2 50.0 %",
            "not started           7: this machine is too busy, or its limit of open files (`ulimit -n`) too low",
            "verdict               ok",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
