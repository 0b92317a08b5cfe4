//! One run: build, start, wait for the first answer, break and repair ([`super::acts`]), sum up.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use lbcore::time::{Duration, Instant, parse_duration};
use serde_json::json;

use super::attempts::{self, Attempt};
use super::cluster::Cluster;
use super::faults::FaultKind;
use super::observe::{Observations, Observer};
use super::report::{self, NodeFigures, Run, Summary};
use super::scenario::{Extra, Scenario};
use super::story::{Story, Style, tenths};
use super::witness::Witness;
use super::{LabError, RUN_NODE, RUN_PROBE, again, application, probe, store};
use crate::limits;
use crate::netns::{self, SCRATCH, TapFilter};
use crate::node::args::ElectorMode;

/// The names of the machines that ask, by number.
const CLIENTS: [(&str, Extra); 2] = [("client", Extra::Client), ("far-client", Extra::FarClient)];

/// The number of the client that there is always.
pub(super) const CLIENT: usize = 0;

/// The name of the machine that asks who has which address.
const WITNESS: &str = "witness";

/// The name of the machine with the nodes' etcd.
const STORE: &str = "etcd";

/// Where the nodes hear each other.
const GOSSIP_PORT: u16 = 7946;

/// How long the start may take.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What each address may take beside that: three probes and an announcement, 500 of them a second.
const START_OF_ONE: Duration = Duration::from_millis(10);

/// So many addresses are told of one by one.
const TOLD: usize = 32;

/// How long a repaired node may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// The outcome of every attempt is known so long after its start.
pub(super) const KNOWN_AFTER: Duration = probe::DEADLINE.saturating_add(Duration::from_millis(50));

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

    /// From one request on a connection of its own to the next
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = probe::parse_pace)]
    pub ask_every: Duration,

    /// Clients that keep their HTTP connection, beside the one that opens a connection for each request
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub kept_alive: usize,

    /// Clients that are always in the middle of an answer that takes a second
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub downloads: usize,

    /// How the nodes elect owners: `gossip` among themselves, `lease-etcd` by an etcd that the lab starts
    #[arg(long, value_enum, default_value = "gossip")]
    pub elector: ElectorMode,

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

/// Makes the program of a node from the node's name and its command line.
pub type NodeCommand<'a> = &'a dyn Fn(&str, &[String]) -> Command;

/// The program of a node of lbcore.
pub fn lbcore_node(_name: &str, arguments: &[String]) -> Command {
    let mut command = again(RUN_NODE);
    command.args(arguments);
    command
}

/// Builds the segment of `scenario`, does what `options` say and tells of it. Returns whether all was well.
///
/// Must run inside [`enter_sandbox`](crate::netns::enter_sandbox) or [`test`](crate::netns::test()).
pub fn run(
    begin: Instant,
    scenario: &Scenario,
    options: &Options,
    node_command: NodeCommand<'_>,
) -> Result<bool, LabError> {
    let style = if options.json { Style::Json } else { Style::Prose };
    let story = Story::new(begin, style, options.verbose);
    let (run, summary) = observe(&story, begin, scenario, options, node_command)?;
    match style {
        Style::Json => story.plain(&report::json_line(&run, &summary).to_string()),
        _ => story.plain(&format!("\n{}", report::table(&run, &summary))),
    }
    story.failure().map_or(Ok(summary.ok), |error| Err(LabError::Output(error)))
}

/// The same, and says nothing: for a program that wants the figures.
pub fn measure(
    scenario: &Scenario,
    options: &Options,
    node_command: NodeCommand<'_>,
) -> Result<Summary, LabError> {
    let begin = Instant::now();
    let story = Story::new(begin, Style::Silent, options.verbose);
    observe(&story, begin, scenario, options, node_command).map(|(_, summary)| summary)
}

fn observe(
    story: &Story,
    begin: Instant,
    scenario: &Scenario,
    options: &Options,
    node_command: NodeCommand<'_>,
) -> Result<(Run, Summary), LabError> {
    // Client, applications and nodes inherit the limit: they are many connections.
    limits::raise_open_files();
    let observer = Observer::default();
    let mut lab = Lab {
        cluster: Cluster::new(&observer, story)?,
        scenario,
        options,
        node_command,
        key: write_key()?,
        observer,
        story: story.clone(),
    };
    let run = lab.run(begin)?;
    let summary = report::summarize(&run);
    lab.tell_unexpected(&summary);
    Ok((run, summary))
}

/// The cluster's secret, new for each run.
fn write_key() -> Result<PathBuf, LabError> {
    let path = Path::new(SCRATCH).join("cluster.key");
    let write = || {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, key.map(|byte| format!("{byte:02x}")).concat().as_bytes())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(source) => Err(LabError::File { path, source }),
    }
}

pub(super) struct Lab<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) options: &'a Options,
    node_command: NodeCommand<'a>,
    key: PathBuf,
    pub(super) cluster: Cluster,
    pub(super) observer: Observer,
    pub(super) story: Story,
}

impl Lab<'_> {
    fn run(&mut self, begin: Instant) -> Result<Run, LabError> {
        self.build()?;
        self.tell_limits();
        let witness = self.witness()?;
        let probes = self.start()?;
        let first_answer = self.first_answer()?;
        self.await_nodes()?;
        self.await_owners()?;
        self.watch(Instant::now() + self.options.steady)?;
        let mut faults = Vec::new();
        for kind in &self.options.faults {
            let (record, recovered) = self.act(*kind)?;
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
        for mut probe in probes {
            // Its output has been read as far as it goes; it is a child that nobody else signals.
            let _ = probe.kill().and_then(|()| probe.wait());
        }
        drop(witness);
        let nodes = self.stand_by()?;

        let state = self.observer.lock();
        if state.not_started > 0 {
            let (count, why) = (state.not_started, attempts::NOT_STARTED);
            let said = format!("{count} requests could not be begun: {why}");
            self.tell("not_started", json!({"count": count}), &said);
        }
        let mut logs = state.logs.clone();
        for log in &mut logs {
            attempts::sort(log);
            log.retain(|attempt| (first_answer..=end).contains(&attempt.start));
        }
        let cuts = state.cuts.iter().copied().filter(|at| (first_answer..=end).contains(at));
        Ok(Run {
            begin,
            end,
            logs,
            cuts: cuts.collect(),
            not_started: state.not_started,
            claims: state.claims.clone(),
            addresses: self.scenario.addresses().into_iter().collect(),
            listed: TOLD,
            faults,
            nodes,
            keeps_connections: self.keeps_connections(),
        })
    }

    /// Whether the nodes were not told otherwise, and have what it takes.
    fn keeps_connections(&self) -> bool {
        let told = self.options.node_options.iter().any(|option| option.starts_with("--hand-over"));
        !told && netns::locate("nft").is_some()
    }

    /// Says what cannot be judged here.
    fn tell_limits(&self) {
        let plans = self.options.faults.iter().any(|kind| FaultKind::PLANNED.contains(kind));
        if plans && netns::locate("nft").is_none() {
            let said = "nft is not installed (Debian: nftables): connections that are open when an address moves \
                        are cut, and what is planned is not held to cost nothing";
            self.tell("limit", json!({"missing": "nft"}), said);
        }
    }

    /// Whether the segment falls apart in this run.
    fn is_partitioned(&self) -> bool {
        self.options.faults.contains(&FaultKind::Partition)
    }

    /// The names of the nodes on each part of a network that falls apart, by the number of its client.
    pub(super) fn parts(&self) -> [Vec<String>; 2] {
        let names: Vec<String> = self.scenario.nodes.iter().map(|node| node.name.clone()).collect();
        let (far, near) = names.split_at(names.len() / 2);
        [near.to_vec(), far.to_vec()]
    }

    fn build(&mut self) -> Result<(), LabError> {
        let scenario = self.scenario;
        let on_segment = |address| [scenario.on_segment(address)];
        let mut parts = [None; 2];
        if self.is_partitioned() {
            parts = [Some(self.cluster.add_part("near")?), Some(self.cluster.add_part("far")?)];
        }
        let [_, far] = self.parts();
        for node in &scenario.nodes {
            let part = parts[usize::from(far.contains(&node.name))];
            self.cluster.add(&node.name, &on_segment(node.address), part)?;
        }
        for app in &scenario.apps {
            self.cluster.add(&app.name, &on_segment(app.address), None)?;
        }
        for ((name, machine), part) in CLIENTS.into_iter().zip(parts).take(self.clients()) {
            self.cluster.add(name, &on_segment(scenario.address(machine)), part)?;
        }
        self.cluster.add(WITNESS, &on_segment(scenario.address(Extra::Witness)), None)?;
        if self.options.elector == ElectorMode::LeaseEtcd {
            // On the part of the many, as a majority of an etcd cluster would be.
            self.cluster.add(STORE, &on_segment(scenario.address(Extra::Store)), parts[CLIENT])?;
        }
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
        for (owner, address) in scenario.allocations.iter().take(TOLD) {
            let fields = json!({"for": owner, "address": address});
            self.tell("allocated", fields, &format!("{owner} gets {address}"));
        }
        let more = scenario.allocations.len().saturating_sub(TOLD);
        if more > 0 {
            self.tell("allocated-more", json!({"count": more}), &format!("{more} more get an address"));
        }
        Ok(())
    }

    /// So many clients there are.
    fn clients(&self) -> usize {
        if self.is_partitioned() { 2 } else { 1 }
    }

    fn witness(&mut self) -> Result<Witness, LabError> {
        let addresses: Vec<_> = self.scenario.addresses().into_iter().collect();
        let own = self.scenario.address(Extra::Witness);
        Ok(Witness::start(self.cluster.host(WITNESS)?, own, &addresses)?)
    }

    /// Starts all programs; the probes, whose end is not watched, are returned.
    fn start(&mut self) -> Result<Vec<Child>, LabError> {
        let scenario = self.scenario;
        for app in &scenario.apps {
            let listen = app.ports.iter().map(|port| SocketAddr::new(app.address, *port));
            self.cluster.start(&app.name, &mut application(&app.name, listen))?;
        }
        if self.options.elector == ElectorMode::LeaseEtcd {
            self.cluster.start(STORE, &mut store::command(scenario.address(Extra::Store))?)?;
        }
        for node in &scenario.nodes {
            self.start_node(&node.name)?;
        }
        let mut probes = Vec::new();
        for (client, (name, _)) in CLIENTS.into_iter().enumerate().take(self.clients()) {
            let mut command = again(RUN_PROBE);
            command.args(["--target", &scenario.target.to_string(), "--host", &scenario.host]);
            command.args(["--every", &format!("{}us", self.options.ask_every.as_micros())]);
            command.args(["--kept-alive", &self.options.kept_alive.to_string()]);
            command.args(["--downloads", &self.options.downloads.to_string()]);
            let mut probe = self.cluster.spawn(name, &mut command)?;
            if let Some(output) = probe.stdout.take() {
                self.observer.watch_probe(client, output);
            }
            probes.push(probe);
        }
        Ok(probes)
    }

    pub(super) fn start_node(&mut self, name: &str) -> Result<(), LabError> {
        let scenario = self.scenario;
        let mut args = vec!["--node".to_owned(), name.to_owned(), "--json".to_owned()];
        args.push("--manifests".to_owned());
        args.extend(scenario.manifests.iter().map(|path| path.display().to_string()));
        match self.options.elector {
            ElectorMode::Gossip => {
                args.extend(["--key-file".to_owned(), self.key.display().to_string()]);
                for node in &scenario.nodes {
                    let option = if node.name == name { "--listen-gossip" } else { "--seed" };
                    args.extend([option.to_owned(), SocketAddr::new(node.address, GOSSIP_PORT).to_string()]);
                }
            }
            ElectorMode::LeaseEtcd => {
                args.extend(["--elector", "lease-etcd", "--etcd"].map(str::to_owned));
                args.push(store::url(scenario.address(Extra::Store)));
            }
        }
        args.extend(self.options.node_options.iter().cloned());
        self.cluster.start(name, &mut (self.node_command)(name, &args))
    }

    /// When the first answer came: before that there was no service that could fail a request, though requests may
    /// have waited for it.
    fn first_answer(&mut self) -> Result<Instant, LabError> {
        let target = self.scenario.target;
        let deadline = Instant::now() + START_LIMIT;
        let answered = |state: &Observations| {
            let log = state.logs.get(CLIENT)?;
            log.iter().find(|attempt: &&Attempt| attempt.succeeded()).cloned()
        };
        match self.wait(deadline, |state| answered(state))? {
            Some(attempt) => {
                let said =
                    format!("first answer from {target} ({} with the host {})", "GET /", self.scenario.host);
                self.story.tell(attempt.end, "first-answer", json!({}), &said);
                Ok(attempt.end)
            }
            None => {
                let state = self.observer.lock();
                let last = match state.logs.get(CLIENT).and_then(|log| log.last()) {
                    Some(last) => format!("of the last one: {}", last.outcome.in_words()),
                    None => format!("none was begun: {}", attempts::NOT_STARTED),
                };
                Err(LabError::NoAnswer { target, within: START_LIMIT, last })
            }
        }
    }

    /// Waits until each node has said that it is ready, and none sees fewer members than there are.
    pub(super) fn await_nodes(&mut self) -> Result<(), LabError> {
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

    /// Waits until each address is claimed by somebody.
    fn await_owners(&mut self) -> Result<(), LabError> {
        let addresses = self.scenario.addresses();
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let within = START_LIMIT + START_OF_ONE * count;
        let unclaimed = |state: &Observations| {
            addresses.iter().filter(|address| state.owner(**address).is_none()).count()
        };
        let all = |state: &Observations| (unclaimed(state) == 0).then_some(());
        if self.wait(Instant::now() + within, all)?.is_some() {
            return Ok(());
        }
        let missing = unclaimed(&self.observer.lock());
        Err(LabError::Unclaimed { missing, count: addresses.len(), within })
    }

    /// What the nodes' programs cost while nobody asks and nothing happens.
    fn stand_by(&mut self) -> Result<Vec<NodeFigures>, LabError> {
        let names: Vec<&str> = self.scenario.nodes.iter().map(|node| node.name.as_str()).collect();
        let used = |cluster: &Cluster| names.iter().map(|name| cluster.used(name)).collect::<Vec<_>>();
        // What the last answers still cost.
        self.watch(Instant::now() + KNOWN_AFTER)?;
        let (before, from) = (used(&self.cluster), Instant::now());
        self.watch(from + self.options.steady)?;
        let (after, span) = (used(&self.cluster), Instant::now().saturating_since(from));
        let figures = names.iter().zip(before).zip(after).filter_map(|((name, before), after)| {
            let ((before, _), (after, peak_kib)) = (before?, after?);
            let cost = after.saturating_sub(before).as_micros();
            let second = Duration::from_secs(1).as_micros();
            let cpu_ms_per_s = tenths(cost * second / span.as_micros().max(1));
            Some(NodeFigures { node: (*name).to_owned(), cpu_ms_per_s, peak_kib })
        });
        Ok(figures.collect())
    }

    pub(super) fn tell(&self, event: &str, fields: serde_json::Value, sentence: &str) {
        self.story.tell(Instant::now(), event, fields, sentence);
    }

    /// The failures that nobody caused: the first of them one by one.
    fn tell_unexpected(&self, summary: &Summary) {
        const MOST: usize = 10;
        for attempt in summary.unexpected.iter().take(MOST) {
            let outcome = attempt.outcome.to_string();
            let connection = attempt.connection.to_string();
            let said = format!("a request on a {connection} connection failed outside the gaps: {outcome}");
            let fields = json!({"connection": connection, "outcome": outcome});
            self.story.tell(attempt.start, "failed-outside-gaps", fields, &said);
        }
    }

    pub(super) fn watch(&mut self, until: Instant) -> Result<(), LabError> {
        self.wait(until, |_| None::<()>).map(drop)
    }

    /// Waits as [`Observer::wait`] does, and fails when a program ends by itself or an instrument breaks.
    pub(super) fn wait<T>(
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
