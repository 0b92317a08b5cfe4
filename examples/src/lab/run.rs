//! One run: build, wait for the first answer, break and repair, sum up.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lbcore::time::{Duration, Instant, parse_duration};
use serde_json::json;

use super::attempts::{self, Attempt, Gap};
use super::cluster::Cluster;
use super::faults::FaultKind;
use super::observe::{Observations, Observer};
use super::report::{self, FaultRecord, GAP_LIMIT, Run};
use super::scenario::Scenario;
use super::story::{Story, Style};
use super::{LabError, RUN_APP, RUN_PROBE, again, probe};
use crate::limits;
use crate::netns::{SCRATCH, TapFilter};

/// The name of the machine that asks.
const CLIENT: &str = "client";

/// Where the nodes hear each other.
const GOSSIP_PORT: u16 = 7946;

/// How long the start may take.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a repaired node may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// How long a node that was told to end may take: it lets its connections end first.
const END_LIMIT: Duration = Duration::from_secs(20);

/// The outcome of every attempt is known so long after its start.
const KNOWN_AFTER: Duration = probe::DEADLINE.saturating_add(Duration::from_millis(50));

/// What to do in a run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Tell it as JSON lines, the summary last
    #[arg(long)]
    pub json: bool,

    /// The faults to make, in this order
    #[arg(
        long = "fault",
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        default_value = "process,node,cable,drain"
    )]
    pub faults: Vec<FaultKind>,

    /// How long to watch before the first fault and after the last repair
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub steady: Duration,

    /// How long a fault lasts after another node took over; 250 ms at least, until the client has its answers
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub hold: Duration,

    /// How long to watch after a repair before the next fault
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub settle: Duration,

    /// Clients that keep their HTTP connection, beside the one that opens a connection a millisecond
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub kept_alive: usize,

    /// Go on with the next fault when one was not recovered from
    #[arg(long)]
    pub keep_going: bool,

    /// Show what the nodes and applications print, on standard error
    #[arg(short, long)]
    pub verbose: bool,

    /// An option for every node, such as --node-option=--heartbeat=20ms; may be given several times
    #[arg(long = "node-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub node_options: Vec<String>,
}

/// Builds the segment of `scenario`, does what `options` say and tells of it. Returns whether all was well.
///
/// `node_command` makes the program of a node from its command line. Must run inside
/// [`enter_sandbox`](crate::netns::enter_sandbox) or [`test`](crate::netns::test()).
pub fn run(
    begin: Instant,
    scenario: &Scenario,
    options: &Options,
    node_command: &dyn Fn(&[String]) -> Command,
) -> Result<bool, LabError> {
    // Client, applications and nodes inherit the limit: they are many connections.
    limits::raise_open_files();
    let style = if options.json { Style::Json } else { Style::Prose };
    let story = Story::new(begin, style, options.verbose);
    let observer = Observer::default();
    let mut lab = Lab {
        cluster: Cluster::new(&observer, &story)?,
        scenario,
        options,
        node_command,
        key: write_key()?,
        observer,
        story,
    };
    let run = lab.run(begin)?;
    let summary = report::summarize(&run);
    lab.tell_unexpected(&summary);
    if lab.story.is_prose() {
        lab.story.plain(&format!("\n{}", report::table(&run, &summary)));
    } else {
        lab.story.plain(&report::json_line(&run, &summary).to_string());
    }
    lab.story.failure().map_or(Ok(summary.ok), |error| Err(LabError::Output(error)))
}

/// The cluster's secret, new for each run.
fn write_key() -> Result<PathBuf, LabError> {
    let path = Path::new(SCRATCH).join("cluster.key");
    let write = || {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, key.map(|byte| format!("{byte:02x}")).concat().as_bytes())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(source) => Err(LabError::File { path, source }),
    }
}

struct Lab<'a> {
    scenario: &'a Scenario,
    options: &'a Options,
    node_command: &'a dyn Fn(&[String]) -> Command,
    key: PathBuf,
    cluster: Cluster,
    observer: Observer,
    story: Story,
}

impl Lab<'_> {
    fn run(&mut self, begin: Instant) -> Result<Run, LabError> {
        self.build()?;
        let mut probe = self.start()?;
        let first_answer = self.first_answer()?;
        self.await_nodes()?;
        self.watch(Instant::now() + self.options.steady)?;
        let mut faults = Vec::new();
        for kind in &self.options.faults {
            let (record, recovered) = match kind {
                FaultKind::Rolling => self.roll()?,
                kind => self.fault(*kind)?,
            };
            faults.push(record);
            if !recovered && !self.options.keep_going {
                break;
            }
        }
        if !faults.is_empty() {
            self.watch(Instant::now() + self.options.steady)?;
        }
        let end = Instant::now();
        self.watch(end + KNOWN_AFTER)?;
        // Its output has been read as far as it goes; it is a child that nobody else signals.
        let _ = probe.kill().and_then(|()| probe.wait());

        let state = self.observer.lock();
        if state.not_started > 0 {
            let (count, why) = (state.not_started, attempts::NOT_STARTED);
            let said = format!("{count} requests could not be begun: {why}");
            self.tell("not_started", json!({"count": count}), &said);
        }
        let mut log = state.attempts.clone();
        attempts::sort(&mut log);
        log.retain(|attempt| (first_answer..=end).contains(&attempt.start));
        let idle_cuts = state.idle_cuts.iter().filter(|at| (first_answer..=end).contains(at)).count();
        Ok(Run {
            begin,
            end,
            log,
            idle_cuts: u64::try_from(idle_cuts).unwrap_or(u64::MAX),
            not_started: state.not_started,
            claims: state.claims.clone(),
            addresses: self.scenario.addresses(),
            faults,
        })
    }

    fn build(&mut self) -> Result<(), LabError> {
        let scenario = self.scenario;
        let on_segment = |address| scenario.on_segment(address);
        for node in &scenario.nodes {
            self.cluster.add(&node.name, &[on_segment(node.address)])?;
        }
        for app in &scenario.apps {
            self.cluster.add(&app.name, &[on_segment(app.address)])?;
        }
        self.cluster.add(CLIENT, &[on_segment(scenario.client)])?;
        let tap = self.cluster.segment.tap(TapFilter::Neighbour)?;
        self.observer.watch_claims(tap, scenario.addresses(), &self.story);
        let names = |names: Vec<&str>| names.join(", ");
        let nodes = names(scenario.nodes.iter().map(|node| node.name.as_str()).collect());
        let apps = names(scenario.apps.iter().map(|app| app.name.as_str()).collect());
        let said = format!("segment {}: nodes {nodes}; applications {apps}; a client", scenario.segment);
        self.tell(
            "built",
            json!({"segment": scenario.segment.to_string(), "target": scenario.target}),
            &said,
        );
        for (owner, address) in &scenario.allocations {
            let fields = json!({"for": owner, "address": address});
            self.tell("allocated", fields, &format!("{owner} gets {address}"));
        }
        Ok(())
    }

    /// Starts all programs; the probe, whose end is not watched, is returned.
    fn start(&mut self) -> Result<std::process::Child, LabError> {
        for app in &self.scenario.apps {
            let mut command = again(RUN_APP);
            command.args(["--version", &app.name]);
            for port in &app.ports {
                command.args(["--listen", &SocketAddr::new(app.address, *port).to_string()]);
            }
            self.cluster.start(&app.name, &mut command)?;
        }
        for node in &self.scenario.nodes {
            self.start_node(&node.name)?;
        }
        let Scenario { target, host, .. } = self.scenario;
        let mut command = again(RUN_PROBE);
        command.args(["--target", &target.to_string(), "--host", host]);
        command.args(["--kept-alive", &self.options.kept_alive.to_string()]);
        let mut probe = self.cluster.spawn(CLIENT, &mut command)?;
        if let Some(output) = probe.stdout.take() {
            self.observer.watch_probe(output);
        }
        Ok(probe)
    }

    fn start_node(&mut self, name: &str) -> Result<(), LabError> {
        let mut args = vec!["--node".to_owned(), name.to_owned(), "--json".to_owned()];
        args.extend(["--manifests".to_owned(), self.scenario.manifests.display().to_string()]);
        args.extend(["--key-file".to_owned(), self.key.display().to_string()]);
        for node in &self.scenario.nodes {
            let option = if node.name == name { "--listen-gossip" } else { "--seed" };
            args.extend([option.to_owned(), SocketAddr::new(node.address, GOSSIP_PORT).to_string()]);
        }
        args.extend(self.options.node_options.iter().cloned());
        self.cluster.start(name, &mut (self.node_command)(&args))
    }

    /// When the first answer came: before that there was no service that could fail a request, though requests may
    /// have waited for it.
    fn first_answer(&mut self) -> Result<Instant, LabError> {
        let target = self.scenario.target;
        let deadline = Instant::now() + START_LIMIT;
        let answered =
            |state: &Observations| state.attempts.iter().find(|attempt| attempt.succeeded()).cloned();
        match self.wait(deadline, |state| answered(state))? {
            Some(attempt) => {
                let said =
                    format!("first answer from {target} ({} with the host {})", "GET /", self.scenario.host);
                self.story.tell(attempt.end, "first-answer", json!({}), &said);
                Ok(attempt.end)
            }
            None => {
                let state = self.observer.lock();
                let last = match state.attempts.last() {
                    Some(last) => format!("of the last one: {}", last.outcome.in_words()),
                    None => format!("none was begun: {}", attempts::NOT_STARTED),
                };
                Err(LabError::NoAnswer { target, within: START_LIMIT, last })
            }
        }
    }

    /// Waits until each node has said that it is ready, and none sees fewer members than there are.
    fn await_nodes(&mut self) -> Result<(), LabError> {
        let names: Vec<&str> = self.scenario.nodes.iter().map(|node| node.name.as_str()).collect();
        let count = names.len();
        let missing = |state: &Observations| {
            names.iter().copied().find(|name| !state.is_ready(name) || !state.sees_members(name, count))
        };
        let all_there = |state: &Observations| missing(state).is_none().then_some(());
        if self.wait(Instant::now() + READY_LIMIT, all_there)?.is_some() {
            return Ok(());
        }
        let state = self.observer.lock();
        match missing(&state) {
            None => Ok(()),
            Some(name) => Err(LabError::NotReady {
                name: name.to_owned(),
                within: READY_LIMIT,
                last_words: state.last_words(name),
            }),
        }
    }

    /// Restarts all nodes, one after the other, each when the one before is ready again.
    fn roll(&mut self) -> Result<(FaultRecord, bool), LabError> {
        let kind = FaultKind::Rolling;
        let address = self.scenario.target.ip();
        let owner = self.observer.lock().owner(address).map(str::to_owned);
        let owner = owner.ok_or(LabError::NoOwner(address))?;
        let names: Vec<String> = self.scenario.nodes.iter().map(|node| node.name.clone()).collect();
        let all = names.join(",");
        let at = Instant::now();
        self.tell_fault(at, "fault", kind, &all, &kind.deed(&all));
        for name in &names {
            kind.make(&mut self.cluster, name)?;
            let give_up = Instant::now() + END_LIMIT;
            while !self.cluster.has_left(name)? {
                if Instant::now() >= give_up {
                    let last_words = self.observer.lock().last_words(name);
                    return Err(LabError::NotEnded { name: name.clone(), within: END_LIMIT, last_words });
                }
                self.watch(Instant::now() + Duration::from_millis(10))?;
            }
            kind.repair(&mut self.cluster, name)?;
            self.start_node(name)?;
            self.await_nodes()?;
            self.watch(Instant::now() + self.options.hold)?;
        }
        self.watch(Instant::now() + self.options.hold.max(KNOWN_AFTER))?;
        let repaired = Instant::now();
        let (gap, moved) = {
            let state = self.observer.lock();
            (known_gap(&state, at, repaired), moved(&state, address, &owner, at).is_some())
        };
        let recovered = moved && !matches!(gap, Gap::Open { .. });
        self.tell_recovery(repaired, kind, &all, gap, recovered);
        self.tell_fault(repaired, "repair", kind, &all, &kind.remedy(&all));
        self.watch(Instant::now() + self.options.settle)?;
        Ok((FaultRecord { fault: kind.name(), node: all, at, repaired, moved }, recovered))
    }

    /// Makes a fault, waits for the recovery, repairs it. Also returns whether it was recovered from.
    fn fault(&mut self, kind: FaultKind) -> Result<(FaultRecord, bool), LabError> {
        let address = self.scenario.target.ip();
        let owner = self.observer.lock().owner(address).map(str::to_owned);
        let node = owner.ok_or(LabError::NoOwner(address))?;
        let at = Instant::now();
        self.tell_fault(at, "fault", kind, &node, &kind.deed(&node));
        kind.make(&mut self.cluster, &node)?;

        let give_up = at + GAP_LIMIT + KNOWN_AFTER;
        let hold = self.options.hold;
        let over = self.wait(give_up, |state| {
            let moved_at = moved(state, address, &node, at)?;
            is_over(state, at, moved_at, hold, Instant::now()).then_some(())
        })?;

        let repaired = Instant::now();
        let (gap, moved) = {
            let state = self.observer.lock();
            (known_gap(&state, at, repaired), moved(&state, address, &node, at).is_some())
        };
        let recovered = over.is_some();
        self.tell_recovery(repaired, kind, &node, gap, recovered);

        self.tell_fault(repaired, "repair", kind, &node, &kind.remedy(&node));
        if kind.repair(&mut self.cluster, &node)? {
            self.start_node(&node)?;
        }
        self.await_nodes()?;
        self.watch(Instant::now() + self.options.settle)?;
        Ok((FaultRecord { fault: kind.name(), node, at, repaired, moved }, recovered))
    }

    fn tell_recovery(&self, at: Instant, kind: FaultKind, node: &str, gap: Gap, recovered: bool) {
        let noticed = match gap {
            Gap::None => "the client noticed nothing".to_owned(),
            Gap::Closed { .. } => format!("the client was without an answer for {:.1?}", gap.length(at)),
            Gap::Open { .. } => "the client still gets no answers".to_owned(),
        };
        let millis = super::story::tenths(gap.length(at).as_micros());
        let fields = json!({"fault": kind.name(), "node": node, "gap_ms": millis, "recovered": recovered});
        self.story.tell(at, "recovery", fields, &noticed);
    }

    fn tell_fault(&self, at: Instant, event: &str, kind: FaultKind, node: &str, sentence: &str) {
        self.story.tell(at, event, json!({"fault": kind.name(), "node": node}), sentence);
    }

    fn tell(&self, event: &str, fields: serde_json::Value, sentence: &str) {
        self.story.tell(Instant::now(), event, fields, sentence);
    }

    /// The failures that nobody caused: the first of them one by one.
    fn tell_unexpected(&self, summary: &report::Summary) {
        const MOST: usize = 10;
        for attempt in summary.unexpected.iter().take(MOST) {
            let outcome = attempt.outcome.to_string();
            let connection = attempt.connection.to_string();
            let said = format!("a request on a {connection} connection failed outside the gaps: {outcome}");
            let fields = json!({"connection": connection, "outcome": outcome});
            self.story.tell(attempt.start, "failed-outside-gaps", fields, &said);
        }
    }

    fn watch(&mut self, until: Instant) -> Result<(), LabError> {
        self.wait(until, |_| None::<()>).map(drop)
    }

    /// Waits as [`Observer::wait`] does, and fails when a program ends by itself or an instrument breaks.
    fn wait<T>(
        &mut self,
        deadline: Instant,
        mut found: impl FnMut(&Observations) -> Option<T>,
    ) -> Result<Option<T>, LabError> {
        let Self { cluster, observer, story, .. } = self;
        let waited = observer.wait(deadline, |state| {
            if let Some(broken) = &state.broken {
                return Some(Err(LabError::Instrument(broken.clone())));
            }
            if let Some(error) = story.failure() {
                return Some(Err(LabError::Output(error)));
            }
            if let Some((name, status)) = cluster.ended() {
                let last_words = state.last_words(&name);
                return Some(Err(LabError::Ended { name, status, last_words }));
            }
            found(state).map(Ok)
        });
        waited.transpose()
    }
}

/// When another node than `former` first claimed the address after `fault`.
fn moved(state: &Observations, address: IpAddr, former: &str, fault: Instant) -> Option<Instant> {
    let since = state.claims.partition_point(|claim| claim.at < fault);
    let claims = state.claims.get(since..).unwrap_or_default();
    claims.iter().find(|claim| claim.address == address && claim.node != former).map(|claim| claim.at)
}

/// Whether a fault need not last longer: another node took over `hold` ago, so that it is known what became of the
/// requests before that, and the client has answers again.
fn is_over(state: &Observations, fault: Instant, moved: Instant, hold: Duration, now: Instant) -> bool {
    now >= moved + hold.max(KNOWN_AFTER) && !matches!(known_gap(state, fault, now), Gap::Open { .. })
}

/// The gap as far as it is known at `now`.
fn known_gap(state: &Observations, fault: Instant, now: Instant) -> Gap {
    let log: Vec<Attempt> = state.attempts_since(fault - KNOWN_AFTER);
    let known = log.partition_point(|attempt| attempt.start + KNOWN_AFTER <= now);
    match attempts::gap(&log[..known], fault, now) {
        // Of later attempts some are under way and missing in the log: only those that failed say something.
        Gap::None => attempts::gap(&log, fault, now),
        gap => gap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::attempts::{Connection, Outcome};

    fn at(millis: u64) -> Instant {
        Instant::from_millis(1000 + millis)
    }

    #[test]
    fn a_fault_lasts_until_its_victims_are_known() {
        // A request a millisecond. Those of 20 to 100 get no answer, which is known 200 ms later.
        let fate = |start: u64| match start {
            20..100 => (start + 200, Outcome::Silent),
            _ => (start, Outcome::Answered("appv1".to_owned())),
        };
        let mut attempts: Vec<Attempt> = (0..1000)
            .map(|start| (start, fate(start)))
            .map(|(start, (end, outcome))| Attempt {
                start: at(start),
                end: at(end),
                connection: Connection::Fresh,
                outcome,
            })
            .collect();
        attempts.sort_by_key(|attempt| attempt.end);
        let seen = |now: u64| {
            let mut state = Observations::default();
            state.attempts.extend(attempts.iter().filter(|attempt| attempt.end <= at(now)).cloned());
            state
        };
        let (fault, moved) = (at(10), at(100));
        let over = |now| is_over(&seen(now), fault, moved, Duration::ZERO, at(now));
        assert_eq!([100, 200, 349].map(over), [false; 3]);
        let first = (100..1000).find(|now| over(*now)).unwrap();
        assert_eq!(known_gap(&seen(first), fault, at(first)), Gap::Closed { from: at(19), to: at(100) });
        let held = |now| is_over(&seen(now), fault, moved, Duration::from_millis(500), at(now));
        assert_eq!([599, 600].map(held), [false, true]);
        // What failed a moment ago counts, too.
        assert_ne!(known_gap(&seen(230), fault, at(230)), Gap::None);
    }
}
