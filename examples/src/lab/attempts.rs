//! What the client experienced, and the figures that are made of it. Pure functions over a log.
//!
//! A request on a fresh connection and one on a kept-alive connection are both an *attempt*: one log, one rule.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use lbcore::time::{Duration, Instant};

/// This many successive successes end a gap.
pub const RECOVERY: usize = 20;

/// The connection that an attempt was made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// One of its own, opened for it and reset after it.
    Fresh,
    /// One that earlier requests used already, if it was still there.
    KeptAlive,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer, by this version of the application.
    Answered(String),
    /// The connection was refused.
    Refused,
    /// No connection within the deadline.
    Silent,
    /// The network had no way there.
    Unreachable,
    /// The connection was accepted, then broken or silent until the deadline.
    Cut,
    /// An answer with this HTTP status: not the application's.
    Status(u16),
}

impl Outcome {
    /// The same for a person who looks for the cause.
    pub fn in_words(&self) -> String {
        let words = match self {
            Self::Answered(version) => return format!("it was answered by {version}"),
            Self::Refused => "its connection was refused",
            Self::Silent => "there was no connection within the deadline",
            Self::Unreachable => "the network had no way there",
            Self::Cut => "its connection was accepted, then broken or left without an answer",
            Self::Status(0) => "it was answered, but not in HTTP",
            Self::Status(code) => {
                return format!("it was answered with the HTTP status {code}: see --host, and the routes");
            }
        };
        words.to_owned()
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it was started.
    pub start: Instant,
    /// When its outcome was known.
    pub end: Instant,
    /// On what.
    pub connection: Connection,
    /// How it ended.
    pub outcome: Outcome,
}

impl Attempt {
    /// Whether the application answered.
    pub fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Answered(_))
    }
}

/// What it takes that no attempt is [`Record::NotStarted`].
pub const NOT_STARTED: &str = "this machine is too busy, or its limit of open files (`ulimit -n`) too low";

/// One line of the probe's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A request ended.
    Attempt(Attempt),
    /// A connection was broken that no attempt tells of: a kept-alive one while no request was under way and without
    /// having been told to close, or one in the middle of a long answer.
    Cut(Instant),
    /// So many attempts could not be started: the client itself was too late or had no socket left.
    NotStarted(u64),
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fresh => "fresh",
            Self::KeptAlive => "kept",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(version) => write!(f, "answered {version}"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("silent"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Cut => f.write_str("cut"),
            Self::Status(code) => write!(f, "status {code}"),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt(Attempt { start, end, connection, outcome }) => {
                write!(f, "{connection} {} {} {outcome}", start.as_nanos(), end.as_nanos())
            }
            Self::Cut(at) => write!(f, "cut {}", at.as_nanos()),
            Self::NotStarted(count) => write!(f, "not-started {count}"),
        }
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("not a record of the probe: {line:?}");
        let words: Vec<&str> = line.split(' ').collect();
        let instant = |word: &str| word.parse().map(Instant::from_nanos).map_err(|_| bad());
        let (connection, rest) = match words.as_slice() {
            ["fresh", rest @ ..] => (Connection::Fresh, rest),
            ["kept", rest @ ..] => (Connection::KeptAlive, rest),
            ["cut", at] => return Ok(Self::Cut(instant(at)?)),
            ["not-started", count] => return count.parse().map(Self::NotStarted).map_err(|_| bad()),
            _ => return Err(bad()),
        };
        let (times, outcome) = match rest {
            [start, end, "answered", version] => ((start, end), Outcome::Answered((*version).to_owned())),
            [start, end, "refused"] => ((start, end), Outcome::Refused),
            [start, end, "silent"] => ((start, end), Outcome::Silent),
            [start, end, "unreachable"] => ((start, end), Outcome::Unreachable),
            [start, end, "cut"] => ((start, end), Outcome::Cut),
            [start, end, "status", code] => ((start, end), Outcome::Status(code.parse().map_err(|_| bad())?)),
            _ => return Err(bad()),
        };
        let (start, end) = (instant(times.0)?, instant(times.1)?);
        Ok(Self::Attempt(Attempt { start, end, connection, outcome }))
    }
}

/// How long the service was away because of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Nothing failed before the repair.
    None,
    /// From the start of the last success before the first failure to the start of the first of [`RECOVERY`]
    /// successive successes after it.
    Closed {
        /// The start of that last success.
        from: Instant,
        /// The start of the first of those successes.
        to: Instant,
    },
    /// The log ends before such successes.
    Open {
        /// As above.
        from: Instant,
    },
}

impl Gap {
    /// Its length; an open one counts until `now`.
    pub fn length(&self, now: Instant) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Closed { from, to } => to.saturating_since(*from),
            Self::Open { from } => now.saturating_since(*from),
        }
    }

    /// Whether an attempt that was started at `start` belongs to it.
    pub fn covers(&self, start: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Closed { from, to } => (*from..*to).contains(&start),
            Self::Open { from } => *from <= start,
        }
    }
}

/// Puts the log in the order that all functions here expect: by the start of the attempts.
pub fn sort(log: &mut [Attempt]) {
    log.sort_by_key(|attempt| (attempt.start, attempt.end));
}

/// The gap of a fault that was made at `fault` and repaired at `repair`.
///
/// The failure that opens it is the first one, by the start of the attempts, that became known between the two: a
/// request under way when the fault came is one of its victims.
pub fn gap(log: &[Attempt], fault: Instant, repair: Instant) -> Gap {
    let opens = |attempt: &Attempt| !attempt.succeeded() && fault <= attempt.end && attempt.end <= repair;
    let Some(first) = log.iter().position(opens) else { return Gap::None };
    let (before, after) = log.split_at(first);
    let last_success = before.iter().rfind(|attempt| attempt.succeeded());
    let from = last_success.unwrap_or(&after[0]).start;
    let recovered = after.windows(RECOVERY).find(|window| window.iter().all(Attempt::succeeded));
    match recovered {
        Some(window) => Gap::Closed { from, to: window[0].start },
        None => Gap::Open { from },
    }
}

/// The counts over a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All attempts.
    pub requests: u64,
    /// Those that got no answer of the application.
    pub failed: u64,
    /// Those of them that no gap covers.
    pub failed_outside_gaps: u64,
    /// Connections that were accepted, then broken. Those with a request under way are among `failed`.
    pub cut: u64,
    /// Answers by version of the application.
    pub split: BTreeMap<String, u64>,
    /// Failed attempts by gap, in the order given.
    pub failed_in_gap: Vec<u64>,
}

impl Tally {
    /// Adds the counts of another client, whose gaps are of the same faults.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.failed_outside_gaps += other.failed_outside_gaps;
        self.cut += other.cut;
        for (version, count) in &other.split {
            *self.split.entry(version.clone()).or_default() += count;
        }
        self.failed_in_gap.resize(self.failed_in_gap.len().max(other.failed_in_gap.len()), 0);
        for (sum, count) in self.failed_in_gap.iter_mut().zip(&other.failed_in_gap) {
            *sum += count;
        }
    }
}

/// Counts the log of one client. A failure is counted for the first gap that covers it.
pub fn tally(log: &[Attempt], gaps: &[Gap]) -> Tally {
    let mut tally = Tally { failed_in_gap: vec![0; gaps.len()], ..Tally::default() };
    for attempt in log {
        tally.requests += 1;
        if let Outcome::Answered(version) = &attempt.outcome {
            *tally.split.entry(version.clone()).or_default() += 1;
            continue;
        }
        tally.failed += 1;
        tally.cut += u64::from(attempt.outcome == Outcome::Cut);
        match gaps.iter().position(|gap| gap.covers(attempt.start)) {
            Some(index) => tally.failed_in_gap[index] += 1,
            None => tally.failed_outside_gaps += 1,
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn attempt(start: u64, end: u64, outcome: Outcome) -> Attempt {
        Attempt { start: at(start), end: at(end), connection: Connection::Fresh, outcome }
    }

    fn answered() -> Outcome {
        Outcome::Answered("appv1".to_owned())
    }

    /// A log with one attempt each millisecond: `.` succeeds after a millisecond, `r` is refused at once, `s` stays
    /// without an answer for 200 ms, `c` is cut after 5 ms.
    fn log(picture: &str) -> Vec<Attempt> {
        let attempts = picture.chars().zip(0..).map(|(kind, start)| match kind {
            'r' => attempt(start, start, Outcome::Refused),
            's' => attempt(start, start + 200, Outcome::Silent),
            'c' => attempt(start, start + 5, Outcome::Cut),
            _ => attempt(start, start + 1, answered()),
        });
        attempts.collect()
    }

    const TWENTY: &str = "....................";

    struct Case {
        name: &'static str,
        picture: String,
        fault: u64,
        repair: u64,
        gap: Gap,
    }

    impl Case {
        fn run(&self) {
            assert_eq!(gap(&log(&self.picture), at(self.fault), at(self.repair)), self.gap, "{}", self.name);
        }
    }

    #[test]
    fn the_gap_of_a_fault() {
        let closed = |from, to| Gap::Closed { from: at(from), to: at(to) };
        let cases = [
            Case {
                name: "nothing fails",
                picture: format!("...{TWENTY}"),
                fault: 2,
                repair: 20,
                gap: Gap::None,
            },
            Case {
                name: "from the last success before to the first of twenty after",
                picture: format!("...rrrr{TWENTY}"),
                fault: 3,
                repair: 100,
                gap: closed(2, 7),
            },
            Case {
                name: "nineteen successes do not end it",
                picture: format!("...r{}r{TWENTY}", &TWENTY[1..]),
                fault: 3,
                repair: 100,
                gap: closed(2, 24),
            },
            Case {
                name: "twenty do, whatever comes later",
                picture: format!("...r{TWENTY}r{TWENTY}"),
                fault: 3,
                repair: 100,
                gap: closed(2, 4),
            },
            Case {
                name: "a request under way when the fault came opens it",
                picture: format!("..c.rr{TWENTY}"),
                fault: 5,
                repair: 100,
                gap: closed(1, 6),
            },
            Case {
                name: "a failure known before the fault is none of its",
                picture: format!(".r..{TWENTY}"),
                fault: 3,
                repair: 100,
                gap: Gap::None,
            },
            Case {
                name: "a failure after the repair is none of its",
                picture: format!(".....r{TWENTY}"),
                fault: 1,
                repair: 3,
                gap: Gap::None,
            },
            Case {
                name: "a failure that becomes known after the repair is none of its",
                picture: format!("..s{TWENTY}"),
                fault: 1,
                repair: 150,
                gap: Gap::None,
            },
            Case {
                name: "the repair does not end it",
                picture: format!("..rrrrrr{TWENTY}"),
                fault: 2,
                repair: 4,
                gap: closed(1, 8),
            },
            Case {
                name: "no recovery in the log",
                picture: "..rrr....".to_owned(),
                fault: 2,
                repair: 5,
                gap: Gap::Open { from: at(1) },
            },
            Case {
                name: "no success before the first failure",
                picture: format!("rr{TWENTY}"),
                fault: 0,
                repair: 5,
                gap: closed(0, 2),
            },
            Case {
                name: "only successes right before count as the last one before",
                picture: format!(".r.rr{TWENTY}"),
                fault: 3,
                repair: 50,
                gap: closed(2, 5),
            },
        ];
        for case in &cases {
            case.run();
        }
    }

    #[test]
    fn a_gap_covers_its_beginning_and_not_its_end() {
        let gap = Gap::Closed { from: at(2), to: at(5) };
        assert_eq!([1, 2, 4, 5].map(|start| gap.covers(at(start))), [false, true, true, false]);
        assert_eq!(gap.length(at(100)), Duration::from_millis(3));
        let open = Gap::Open { from: at(2) };
        assert_eq!([1, 2, 500].map(|start| open.covers(at(start))), [false, true, true]);
        assert_eq!(open.length(at(9)), Duration::from_millis(7));
        assert!(!Gap::None.covers(at(0)));
    }

    #[test]
    fn every_failure_is_in_one_gap_or_outside() {
        let mut log = log(&format!("r..rc.{TWENTY}..ss{TWENTY}r"));
        log[1].outcome = Outcome::Answered("appv2".to_owned());
        let first = gap(&log, at(3), at(20));
        let second = gap(&log, at(28), at(400));
        let mut sum = tally(&log, &[first, second]);
        let expected = |clients: u64| Tally {
            requests: 51 * clients,
            failed: 6 * clients,
            failed_outside_gaps: 2 * clients,
            cut: clients,
            split: BTreeMap::from([("appv1".to_owned(), 44 * clients), ("appv2".to_owned(), clients)]),
            failed_in_gap: vec![2 * clients, 2 * clients],
        };
        assert_eq!(sum, expected(1));
        sum.add(&expected(1));
        assert_eq!(sum, expected(2));
    }

    #[test]
    fn an_answer_of_somebody_else_is_a_failure() {
        let log = [attempt(0, 1, Outcome::Status(503)), attempt(1, 2, Outcome::Unreachable)];
        let tally = tally(&log, &[]);
        assert_eq!((tally.failed, tally.failed_outside_gaps, tally.cut), (2, 2, 0));
    }

    #[test]
    fn a_cause_is_named_in_words() {
        assert_eq!(Outcome::Refused.in_words(), "its connection was refused");
        let status = |code| Outcome::Status(code).in_words();
        assert_eq!(status(404), "it was answered with the HTTP status 404: see --host, and the routes");
        assert_eq!(status(0), "it was answered, but not in HTTP");
    }

    #[test]
    fn the_log_is_ordered_by_the_start() {
        let mut log = vec![
            attempt(3, 3, Outcome::Refused),
            attempt(1, 201, Outcome::Silent),
            attempt(2, 3, answered()),
        ];
        sort(&mut log);
        assert_eq!(log.iter().map(|attempt| attempt.start).collect::<Vec<_>>(), [at(1), at(2), at(3)]);
    }

    #[test]
    fn records_read_back_as_they_were_written() {
        let kept = |outcome| {
            Record::Attempt(Attempt { connection: Connection::KeptAlive, ..attempt(1, 2, outcome) })
        };
        for (record, line) in [
            (Record::Attempt(attempt(1, 2, answered())), "fresh 1000000 2000000 answered appv1"),
            (kept(Outcome::Refused), "kept 1000000 2000000 refused"),
            (kept(Outcome::Silent), "kept 1000000 2000000 silent"),
            (kept(Outcome::Unreachable), "kept 1000000 2000000 unreachable"),
            (kept(Outcome::Cut), "kept 1000000 2000000 cut"),
            (kept(Outcome::Status(404)), "kept 1000000 2000000 status 404"),
            (Record::Cut(at(7)), "cut 7000000"),
            (Record::NotStarted(4), "not-started 4"),
        ] {
            assert_eq!(record.to_string(), line);
            assert_eq!(line.parse::<Record>().unwrap(), record);
        }
        for bad in
            ["", "fresh", "fresh 1 2", "fresh 1 x refused", "kept 1 2 status 99999", "cut", "hello world"]
        {
            bad.parse::<Record>().unwrap_err();
        }
    }
}
