//! The agent that runs on every node: manifests in; elects, announces, makes addresses deliverable, serves.
//!
//! All nodes are given the same documents and come to the same allocations by themselves; the elector decides who
//! answers for which address. [`main`] is the whole program: the `node` example and the nodes of the lab are
//! both this function.

pub mod agreement;
pub mod args;
pub mod bgp;
pub mod controller;
pub mod delivery;
pub mod events;
pub mod forward;
pub mod gateway;
pub mod handover;
pub mod intent;
pub mod links;
pub mod listen;
pub mod manifests;
pub mod readiness;
pub mod services;

use std::error::Error as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use announce_bgp::BgpAnnouncer;
use announce_l2::driver::{self as l2, L2Announcer};
use announce_l2::machine::{self, Interface};
use elect_gossip::{BuildError, ClusterKey, GossipElector, Keyring, Timing};
use elect_lease::LeaseElector;
use elect_lease::etcd::{self, EtcdStore};
use lbcore::announce::{Announcer, Fenced, Stop};
use lbcore::elect::{LeaderElector, Solo, lease};
use lbcore::id::NodeName;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::args::{AnnouncePace, DeliveryMode, ElectorMode, ForwardMode, HandOverMode, NodeArgs};
use self::controller::{Controller, Hands};
use self::delivery::Delivery;
use self::events::{Event, Teller};
use self::forward::{Forwarder, nft::Nft, relay::Relay};
use self::gateway::Gateways;
use self::handover::HandOver;
use self::manifests::Manifests;
use self::readiness::Checks;
use crate::limits;

/// How long the others get to take this node's roles over when it stops.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long a node that gave everything away still accepts what arrives: a client that missed the first announcement of
/// the new owner hears the next one within this.
const LINGER: Duration = Duration::from_millis(300);
/// How often the documents' files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why the node ended, or never began.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct NodeError {
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl NodeError {
    fn plain(what: String) -> Self {
        Self { what, source: None }
    }

    fn new(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

/// Runs a node until SIGTERM or SIGINT; a second one ends the grace period. SIGUSR1 drains it, SIGUSR2 ends the drain, SIGHUP reads the documents and the
/// keys again.
///
/// To be called from a thread that has no runtime. Exit code 0 after an orderly stop, 1 if something that it needs
/// failed; then standard error says what, and what to do.
pub fn main(args: &NodeArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Drivers that stop together.
#[derive(Debug, Default)]
struct Stage {
    asked: watch::Sender<Option<Stop>>,
    tasks: JoinSet<Result<(), NodeError>>,
}

impl Stage {
    /// Runs the driver that `run` makes of the future by which it is stopped.
    fn spawn<F, E>(&mut self, name: &'static str, run: impl FnOnce(Stopped) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut asked = self.asked.subscribe();
        let running = run(Box::pin(async move {
            match asked.wait_for(Option::is_some).await {
                Ok(how) => how.unwrap_or_default(),
                Err(_) => Stop::Withdraw,
            }
        }));
        self.tasks.spawn(async move {
            running.await.map_err(|error| NodeError::new(format!("{name} failed"), error))
        });
    }

    /// Waits until one of them fails. Cancel safe.
    async fn failed(&mut self) -> NodeError {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return NodeError::new("a driver ended unexpectedly", error),
                Some(Ok(Ok(()))) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Stops them, and waits for their ends, but no longer than `bound`.
    async fn stop(&mut self, name: &str, bound: Duration) {
        self.asked.send_replace(Some(Stop::Withdraw));
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(bound, ended).await.is_err() {
            eprintln!("the {name} did not end within {bound:?}");
        }
    }

    /// Ends them where they are.
    fn abandon(&mut self) {
        self.tasks.abort_all();
    }
}

type Stopped = std::pin::Pin<Box<dyn Future<Output = Stop> + Send>>;

async fn run(args: &NodeArgs) -> Result<(), NodeError> {
    let me = NodeName::new(args.node.clone());
    let teller = Teller::new(me.clone(), args.json);
    let mut signals = Signals::new().map_err(|error| NodeError::new("cannot listen for signals", error))?;
    let (mut announcing, mut electing, mut serving) = (Stage::default(), Stage::default(), Stage::default());
    let connections = limits::connections(limits::raise_open_files());
    if let Some(path) = args.manifests.iter().find(|path| !path.exists()) {
        return Err(NodeError::plain(format!("there is no file or folder {}", path.display())));
    }
    if args.elector == ElectorMode::Gossip && !args.etcd.is_empty() {
        return Err(NodeError::plain("--etcd goes with --elector lease-etcd only".to_owned()));
    }
    let _only_one = args.changes_the_machine().then(claim_the_machine).transpose()?;
    if args.changes_the_machine() {
        // One that was killed may have forwarded and handed over where this one does not.
        forward::nft::remove_leftover().await;
        handover::remove_leftover().await;
    }

    let gossip = start_gossip(args, &me, &teller, &mut electing)?;
    let elector: Arc<dyn LeaderElector> = match (&gossip, args.elector) {
        (Some(gossip), _) => Arc::new(gossip.clone()),
        (None, ElectorMode::LeaseEtcd) => Arc::new(start_leases(args, &me, &mut electing)?),
        (None, ElectorMode::Gossip) => Arc::new(Solo::new(me.clone())),
    };
    let l2 = if args.announce.l2() { Some(start_l2(args, &mut announcing)?) } else { None };
    let fenced = l2.clone().map(|l2| Arc::new(Fenced::new(elector.clone(), Arc::new(l2))));
    let delivery = match args.delivery {
        DeliveryMode::Lo => {
            let delivery = Delivery::new().await;
            Some(delivery.map_err(|error| NodeError::new("cannot make addresses deliverable", error))?)
        }
        DeliveryMode::None => None,
    };
    let mut manifests = Manifests::new(&args.manifests);
    let bgp =
        if args.announce.bgp() { Some(start_bgp(args, &me, &mut manifests, &mut announcing)?) } else { None };
    let hands = Hands {
        elector: elector.clone(),
        l2: fenced.clone().map(|l2| l2 as Arc<dyn Announcer>),
        bgp: bgp.clone(),
        delivery,
        forwarder: start_forwarder(args, connections, &teller).await?,
        gateways: Gateways::start(&mut serving, args.grace, connections),
        hand_over: start_hand_over(args, &teller).await,
        alone: !args.elects(),
    };
    // Routes are announced by every node at once: only the segment needs leases.
    if let Some(fenced) = fenced {
        announcing.spawn("keeping to what is owned", |stop| keep(fenced, stop));
    }

    let announces_on_segment = l2.is_some();
    // Taken before the first candidacy, so that no answer to it is missed.
    let mut ownership = elector.ownership();
    let mut interfaces = l2.as_ref().map(L2Announcer::interfaces);
    let mut controller = Controller::new(me, teller.clone(), hands, manifests);
    let mut checks = Checks::start(&args.checks, args.check_pace());
    controller.set_readiness(checks.readiness()).await;
    if let Some(interfaces) = &mut interfaces {
        let now = interfaces.borrow_and_update().clone();
        heed_interfaces(&mut controller, &*elector, &now).await;
    }
    controller.reload().await;
    teller.tell(&Event::Ready);

    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            biased;
            _ = ownership.changed() => controller.apply().await,
            now = changed(&mut interfaces) => heed_interfaces(&mut controller, &*elector, &now).await,
            () = after(controller.due()) => controller.apply().await,
            () = checks.changed() => controller.set_readiness(checks.readiness()).await,
            asked = signals.next() => match asked {
                Asked::Stop => break Ok(()),
                Asked::Drain => controller.set_draining(true).await,
                Asked::Undrain => controller.set_draining(false).await,
                Asked::Reload => {
                    if let Some(gossip) = &gossip {
                        change_keys(args, gossip, &teller);
                    }
                    controller.reload().await;
                }
            },
            error = announcing.failed() => break Err(error),
            error = electing.failed() => break Err(error),
            error = serving.failed() => break Err(error),
            _ = looks.tick() => {
                if controller.manifests().look() {
                    controller.reload().await;
                }
                controller.retry().await;
                controller.tell_conditions();
            }
        }
    };
    teller.tell(&Event::Stopping);
    let mut patient = true;
    if ended.is_ok() && !controller.is_alone() {
        // The others take over while this node still serves what arrives; no other may be there to do so.
        let given = controller.owned();
        controller.set_draining(true).await;
        let handed_over = async {
            while !controller.is_taken_over(&given) && ownership.changed().await.is_ok() {
                controller.apply().await;
            }
        };
        let handing_over = async {
            if timeout(HAND_OVER, handed_over).await.is_ok() && announces_on_segment {
                tokio::time::sleep(LINGER + learning(args)).await;
            }
        };
        patient = signals.interrupt(handing_over).await;
    }
    announcing.stop("announcers", HAND_OVER).await;
    electing.stop("elector", HAND_OVER).await;
    let in_peace = if patient {
        let bound = args.grace + HAND_OVER;
        let connections_end = async {
            tokio::join!(serving.stop("gateways", bound), controller.connections_end(args.grace));
        };
        signals.interrupt(connections_end).await
    } else {
        false
    };
    if !in_peace {
        teller.tell(&Event::Notice("asked to stop again: connections that are open are cut".to_owned()));
        serving.abandon();
    }
    controller.undo().await;
    if ended.is_ok() {
        teller.tell(&Event::Stopped);
    }
    ended
}

/// How long a new owner may take to learn that it is one.
fn learning(args: &NodeArgs) -> Duration {
    match args.elector {
        ElectorMode::Gossip => Duration::ZERO,
        // It reads the assignment as often as it renews its lease.
        ElectorMode::LeaseEtcd => lease::Timing::of(args.lease).renew,
    }
}

/// Two nodes in one network namespace would undo each other's addresses and rules. The name is the namespace's own and
/// is free again when this process ends, however it does.
fn claim_the_machine() -> Result<UnixListener, NodeError> {
    let claim = || UnixListener::bind_addr(&SocketAddr::from_abstract_name("lbcore-node")?);
    claim().map_err(|error| {
        let what = "another node runs here already: stop it, or start this one with --delivery none, --forward none \
                    or relay, and --hand-over none";
        NodeError::new(what, error)
    })
}

/// Waits for other interfaces. Cancel safe. Without an announcer on the segment they never come.
async fn changed(interfaces: &mut Option<watch::Receiver<Arc<[Interface]>>>) -> Arc<[Interface]> {
    let Some(interfaces) = interfaces else { return std::future::pending().await };
    if interfaces.changed().await.is_err() {
        // The announcer's end is told by its stage.
        std::future::pending::<()>().await;
    }
    interfaces.borrow_and_update().clone()
}

async fn after(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

/// The others are told our hardware addresses, so that they can tell us from a stranger.
async fn heed_interfaces(controller: &mut Controller, elector: &dyn LeaderElector, now: &[Interface]) {
    elector.set_hardware(now.iter().map(|link| (link.name.clone(), link.mac.0)).collect());
    controller.set_interfaces(now).await;
}

fn start_gossip(
    args: &NodeArgs,
    me: &NodeName,
    teller: &Teller,
    stage: &mut Stage,
) -> Result<Option<GossipElector>, NodeError> {
    let (Some(listen), Some(key_file)) = (args.listen_gossip, &args.key_file) else { return Ok(None) };
    let keys = read_keys(key_file)?;
    if std::fs::metadata(key_file).is_ok_and(|metadata| metadata.mode() & 0o077 != 0) {
        let notice = format!("others can read the key: chmod 600 {}", key_file.display());
        teller.tell(&Event::Notice(notice));
    }
    let config = elect_gossip::Config::new(me.clone(), listen, keys)
        .with_seeds(args.seeds.iter().cloned())
        .with_timing(Timing::new(args.heartbeat, args.misses));
    let refused = |error| match error {
        BuildError::Advertise { bind } => NodeError::plain(format!(
            "the others cannot be told to reach this node at {bind}: give --listen-gossip an address of this node"
        )),
        error @ BuildError::Timing { .. } => {
            NodeError::new("cannot notice deaths as --heartbeat and --misses have it", error)
        }
        error => NodeError::new("cannot join the other nodes", error),
    };
    let (elector, driver) = GossipElector::new(&config).map_err(refused)?;
    stage.spawn("gossip", |stop| driver.run(stop));
    Ok(Some(elector))
}

/// The first line is the key to seal with; those that follow are accepted too.
fn read_keys(file: &Path) -> Result<Keyring, NodeError> {
    let unreadable = |error| {
        let what = format!("cannot read the key of the cluster, --key-file {}", file.display());
        NodeError::new(what, error)
    };
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let mut keys: Option<Keyring> = None;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (number, line) in lines {
        let wrong =
            |error| NodeError::new(format!("line {} of {} is no key", number + 1, file.display()), error);
        let key: ClusterKey = line.parse().map_err(wrong)?;
        keys = Some(match keys {
            None => Keyring::new(key),
            Some(keys) => keys.accepting(key),
        });
    }
    keys.ok_or_else(|| {
        let what = format!("{} holds no key: `openssl rand -hex 32` makes one", file.display());
        NodeError::plain(what)
    })
}

/// Goes on with the old keys if the new ones cannot be read.
fn change_keys(args: &NodeArgs, gossip: &GossipElector, teller: &Teller) {
    let Some(file) = &args.key_file else { return };
    match read_keys(file) {
        Ok(keys) => gossip.set_keys(keys),
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            teller.tell(&Event::Notice(format!("{error}{cause}; the keys stay as they were")));
        }
    }
}

fn start_leases(args: &NodeArgs, me: &NodeName, stage: &mut Stage) -> Result<LeaseElector, NodeError> {
    let mut etcd = etcd::Config::default();
    etcd.endpoints.clone_from(&args.etcd);
    let mut config = elect_lease::Config::new(me.clone());
    config.prefix.clone_from(&args.etcd_prefix);
    config.timing = lease::Timing::of(args.lease);
    let (elector, driver) = LeaseElector::new(config, Arc::new(EtcdStore::new(etcd)))
        .map_err(|error| NodeError::new("cannot elect by leases", error))?;
    stage.spawn("electing by leases", |stop| driver.run(stop));
    Ok(elector)
}

fn start_l2(args: &NodeArgs, stage: &mut Stage) -> Result<L2Announcer, NodeError> {
    let mut config = l2::Config::default();
    if args.no_probing {
        config.machine.probing = None;
    }
    config.machine.pace = match args.pace {
        AnnouncePace::Normal => machine::Pace::NORMAL,
        AnnouncePace::Guarded => machine::Pace::GUARDED,
    };
    if !args.interfaces.is_empty() {
        config.interfaces = l2::InterfaceFilter::only(&args.interfaces);
    }
    let (announcer, driver) =
        L2Announcer::new(config).map_err(|error| NodeError::new("cannot answer on the segment", error))?;
    stage.spawn("answering on the segment", |stop| driver.run(stop));
    Ok(announcer)
}

fn start_bgp(
    args: &NodeArgs,
    me: &NodeName,
    manifests: &mut Manifests,
    stage: &mut Stage,
) -> Result<BgpAnnouncer, NodeError> {
    // What is wrong with them is told when the controller reads them.
    manifests.load();
    let speaker = bgp::config(manifests.objects(), me, args.router_id).map_err(NodeError::plain)?;
    let (announcer, driver) = BgpAnnouncer::new(speaker)
        .map_err(|error| NodeError::new("the BGP speaker cannot be configured", error))?;
    stage.spawn("speaking BGP", |stop| driver.run(stop));
    Ok(announcer)
}

async fn start_hand_over(args: &NodeArgs, teller: &Teller) -> Option<HandOver> {
    if args.hand_over == HandOverMode::None || !args.elects() || !args.announce.l2() {
        return None;
    }
    match HandOver::new(args.grace).await {
        Ok(hand_over) => Some(hand_over),
        Err(error) => {
            let notice = format!("connections that are open when an address moves here will be cut: {error}");
            teller.tell(&Event::Notice(notice));
            None
        }
    }
}

async fn start_forwarder(
    args: &NodeArgs,
    connections: usize,
    teller: &Teller,
) -> Result<Option<Forwarder>, NodeError> {
    Ok(Some(match args.forward {
        ForwardMode::None => return Ok(None),
        ForwardMode::Relay => Forwarder::Relay(Relay::new(connections)),
        ForwardMode::Nft => {
            let nft = Nft::new().await;
            Forwarder::Nft(nft.map_err(|error| NodeError::new("the kernel cannot forward for us", error))?)
        }
        ForwardMode::Auto => {
            let (forwarder, why) = Forwarder::new(connections).await;
            if let Some(why) = why {
                let notice =
                    format!("plain services are relayed by this process, since the kernel cannot: {why}");
                teller.tell(&Event::Notice(notice));
            }
            forwarder
        }
    }))
}

/// Hands the elector's renewals and losses to the announcer until it is stopped.
async fn keep(fenced: Arc<Fenced>, stop: Stopped) -> Result<(), NodeError> {
    tokio::select! {
        () = fenced.run() => {}
        _ = stop => {}
    }
    Ok(())
}

/// What a signal asks for.
enum Asked {
    Stop,
    Drain,
    Undrain,
    Reload,
}

struct Signals {
    stop: [Signal; 2],
    drain: Signal,
    undrain: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?],
            drain: signal(SignalKind::user_defined1())?,
            undrain: signal(SignalKind::user_defined2())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one. Cancel safe.
    async fn next(&mut self) -> Asked {
        let [terminate, interrupt] = &mut self.stop;
        tokio::select! {
            _ = terminate.recv() => Asked::Stop,
            _ = interrupt.recv() => Asked::Stop,
            _ = self.drain.recv() => Asked::Drain,
            _ = self.undrain.recv() => Asked::Undrain,
            _ = self.reload.recv() => Asked::Reload,
        }
    }

    /// Does `work` unless this node is asked to stop once more meanwhile. Whether it was done.
    async fn interrupt(&mut self, work: impl Future<Output = ()>) -> bool {
        let asked = async { while !matches!(self.next().await, Asked::Stop) {} };
        tokio::select! {
            () = work => true,
            () = asked => false,
        }
    }
}
