//! The BGP announcer on a host of a segment, judged by the route tables of two routers beside it: BIRD 2 and FRR.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use announce_bgp::machine::{PeerStatus, State};
use announce_bgp::{BgpAnnouncer, BgpConfig, PORT, PeerConfig, RemoteAs};
use ipnet::IpNet;
use lbcore::announce::{AnnounceSet, AnnounceState, AnnounceStatus, Announcement, Announcer, Route, Stop};
use lbcore::time::Instant;
use lbcore_examples::netns::{self, Host, SCRATCH, Segment};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ours does not fit into two octets; nor does that of FRR.
const LOCAL_AS: u32 = 4_200_000_001;
const BIRD_AS: u32 = 65_001;
const FRR_AS: u32 = 4_200_000_002;

const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11);

/// The address of a router, by the family of the session.
fn router_address(transport: Transport, number: u8) -> IpAddr {
    match transport {
        Transport::V4 => Ipv4Addr::new(192, 0, 2, number).into(),
        Transport::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// What the sessions run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    V4,
    V6,
}

/// Who calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Node,
    Router,
}

/// How a session is set up, at both ends.
#[derive(Clone, Copy, Debug)]
struct Setup {
    transport: Transport,
    caller: Caller,
    /// Whether the routers are in our own AS.
    internal: bool,
    hold_time: u16,
}

impl Setup {
    const EXTERNAL: Self =
        Self { transport: Transport::V4, caller: Caller::Node, internal: false, hold_time: 90 };

    fn node_address(self) -> IpAddr {
        match self.transport {
            Transport::V4 => NODE_V4.into(),
            Transport::V6 => NODE_V6.into(),
        }
    }

    fn remote_as(self, external: u32) -> u32 {
        if self.internal { LOCAL_AS } else { external }
    }

    fn config(self) -> BgpConfig {
        let mut config = BgpConfig::new(LOCAL_AS, NODE_V4);
        if self.caller == Caller::Router {
            config.listen = vec![SocketAddr::new(self.node_address(), PORT)];
        }
        for (name, number, external) in [("bird", 1, BIRD_AS), ("frr", 2, FRR_AS)] {
            let address = router_address(self.transport, number);
            let remote_as = RemoteAs::Number(self.remote_as(external));
            let mut peer = PeerConfig::new(name, address, remote_as);
            peer.passive = self.caller == Caller::Router;
            peer.hold_time = Duration::from_secs(self.hold_time.into());
            peer.connect_retry = Duration::from_secs(1);
            // Of the family of the session this is what it would be anyway.
            (peer.next_hop_v4, peer.next_hop_v6) = (Some(NODE_V4), Some(NODE_V6));
            config = config.peer(peer);
        }
        config
    }
}

/// A route as a router has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Learnt {
    next_hop: IpAddr,
    as_path: Vec<u32>,
    communities: BTreeSet<String>,
    large_communities: BTreeSet<String>,
    local_pref: Option<u64>,
}

type Routes = BTreeMap<IpNet, Learnt>;

/// A router on a host of its own.
struct Router {
    kind: Kind,
    host: Host,
    folder: PathBuf,
    processes: Vec<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bird,
    Frr,
}

impl Router {
    fn new(segment: &Segment, kind: Kind, setup: Setup) -> Self {
        let (name, number) = match kind {
            Kind::Bird => ("bird", 1),
            Kind::Frr => ("frr", 2),
        };
        let addresses = [format!("192.0.2.{number}/24"), format!("fd00::{number}/64")];
        let host = segment.host(name, &addresses.map(|address| address.parse().unwrap())).unwrap();
        let folder = Path::new(SCRATCH).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let own = router_address(setup.transport, number);
        match kind {
            Kind::Bird => std::fs::write(folder.join("bird.conf"), bird_conf(own, setup)).unwrap(),
            Kind::Frr => {
                std::fs::create_dir_all(Path::new(SCRATCH).join("frr")).unwrap();
                admit_frr();
                std::fs::write(folder.join("bgpd.conf"), frr_conf(setup)).unwrap();
                for empty in ["zebra.conf", "vtysh.conf"] {
                    std::fs::write(folder.join(empty), "").unwrap();
                }
            }
        }
        let mut router = Self { kind, host, folder, processes: Vec::new() };
        router.start();
        router
    }

    fn start(&mut self) {
        let folder = self.folder.display().to_string();
        let log =
            || std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let launch = |program: &str, arguments: &[&str]| {
            let program = netns::find_program(program).unwrap();
            let mut command = Command::new(program);
            command.args(arguments).current_dir(&self.folder).stdout(log()).stderr(log());
            self.host.spawn(&mut command).unwrap()
        };
        self.processes = match self.kind {
            Kind::Bird => vec![launch("bird", &["-f", "-c", "bird.conf", "-s", "bird.ctl"])],
            Kind::Frr => {
                let daemon = |name: &str| {
                    let (conf, pid) = (format!("{folder}/{name}.conf"), format!("{folder}/{name}.pid"));
                    let zserv = format!("{folder}/zserv.api");
                    launch(
                        name,
                        &[
                            "-u",
                            "root",
                            "-g",
                            "root",
                            "-f",
                            &conf,
                            "-i",
                            &pid,
                            "-z",
                            &zserv,
                            "--vty_socket",
                            &folder,
                        ],
                    )
                };
                vec![daemon("zebra"), daemon("bgpd")]
            }
        };
    }

    fn signal(&self, signal: Signal) {
        for process in &self.processes {
            kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        for process in &mut self.processes {
            process.wait().unwrap();
        }
    }

    /// Asks it by its own command line.
    fn ask(&self, question: &str) -> String {
        let folder = self.folder.display().to_string();
        let mut command = match self.kind {
            Kind::Bird => {
                let mut command = Command::new(netns::find_program("birdc").unwrap());
                command.args(["-s", &format!("{folder}/bird.ctl"), question]);
                command
            }
            Kind::Frr => {
                let mut command = Command::new(netns::find_program("vtysh").unwrap());
                command.args(["--vty_socket", &folder, "--config_dir", &folder, "-c", question]);
                command
            }
        };
        String::from_utf8(self.host.output(&mut command).unwrap().stdout).unwrap()
    }

    /// The routes that it has from us.
    fn routes(&self) -> Routes {
        match self.kind {
            Kind::Bird => bird_routes(&self.ask("show route all protocol node")),
            Kind::Frr => ["ipv4", "ipv6"]
                .into_iter()
                .flat_map(|family| frr_routes(&self.ask(&format!("show bgp {family} unicast json detail"))))
                .collect(),
        }
    }

    /// Why it says that the last session ended.
    fn last_error(&self) -> String {
        match self.kind {
            Kind::Bird => {
                let protocol = self.ask("show protocols all node");
                let error = protocol.lines().find_map(|line| line.trim().strip_prefix("Last error:"));
                error.unwrap_or_default().trim().to_owned()
            }
            Kind::Frr => {
                let neighbours: Value =
                    serde_json::from_str(&self.ask("show bgp neighbors json")).unwrap_or_default();
                let neighbours = neighbours.as_object().into_iter().flatten();
                let reason = neighbours.filter_map(|(_, peer)| peer.get("lastNotificationReason")?.as_str());
                reason.collect()
            }
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            eprintln!("the log of {:?}:\n{log}", self.kind);
        }
    }
}

fn bird_conf(own: IpAddr, setup: Setup) -> String {
    let (node, hold, local_as) = (setup.node_address(), setup.hold_time, setup.remote_as(BIRD_AS));
    let passive = if setup.caller == Caller::Node { "yes" } else { "no" };
    format!(
        "log stderr all;
         router id 192.0.2.1;
         protocol device {{}}
         protocol direct {{ ipv4; ipv6; }}
         protocol bgp node {{
             local {own} as {local_as};
             neighbor {node} as {LOCAL_AS};
             passive {passive};
             hold time {hold};
             connect delay time 1;
             connect retry time 1;
             error wait time 1, 2;
             ipv4 {{ import all; export none; }};
             ipv6 {{ import all; export none; }};
         }}\n"
    )
}

fn frr_conf(setup: Setup) -> String {
    let (node, hold, local_as) = (setup.node_address(), setup.hold_time, setup.remote_as(FRR_AS));
    let keepalive = hold / 3;
    let passive =
        if setup.caller == Caller::Node { format!("neighbor {node} passive") } else { "!".to_owned() };
    format!(
        "log stdout
router bgp {local_as}
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor {node} remote-as {LOCAL_AS}
 neighbor {node} timers {keepalive} {hold}
 neighbor {node} timers connect 1
 {passive}
 address-family ipv4 unicast
  neighbor {node} activate
 exit-address-family
 address-family ipv6 unicast
  neighbor {node} activate
 exit-address-family
"
    )
}

/// FRR wants to be root, of a group that only root of the whole machine can make: it finds one here.
fn admit_frr() {
    const NOTHING: Option<&str> = None;
    let group = format!("{SCRATCH}/group");
    std::fs::write(&group, "root:x:0:\nfrrvty:x:0:root\n").unwrap();
    mount(Some(group.as_str()), "/etc/group", NOTHING, MsFlags::MS_BIND, NOTHING).unwrap();
}

/// Reads `show route all` of BIRD.
fn bird_routes(text: &str) -> Routes {
    let mut routes: Vec<(IpNet, BTreeMap<&str, &str>)> = Vec::new();
    for line in text.lines() {
        if let Some(prefix) = line.split(' ').next().and_then(|word| word.parse().ok()) {
            routes.push((prefix, BTreeMap::new()));
        } else if let Some((key, value)) = line.trim().split_once(':')
            && let Some((_, attributes)) = routes.last_mut()
        {
            attributes.insert(key, value.trim());
        }
    }
    // (65000,1) (65000,2), or (65000, 1, 2)
    let communities = |text: Option<&&str>| {
        let tuples = text.copied().unwrap_or_default().split(')').filter_map(|tuple| tuple.split_once('('));
        tuples.map(|(_, numbers)| numbers.replace(", ", ":").replace(',', ":")).collect()
    };
    let learnt = |(prefix, attributes): (IpNet, BTreeMap<&str, &str>)| {
        let path = attributes.get("BGP.as_path").copied().unwrap_or_default();
        let next_hop = attributes["BGP.next_hop"].split(' ').next().unwrap();
        let learnt = Learnt {
            next_hop: next_hop.parse().unwrap(),
            as_path: path.split_whitespace().map(|number| number.parse().unwrap()).collect(),
            communities: communities(attributes.get("BGP.community")),
            large_communities: communities(attributes.get("BGP.large_community")),
            local_pref: attributes.get("BGP.local_pref").map(|number| number.parse().unwrap()),
        };
        (prefix, learnt)
    };
    routes.into_iter().map(learnt).collect()
}

/// Reads `show bgp … unicast json detail` of FRR.
fn frr_routes(text: &str) -> Routes {
    let table: Value = serde_json::from_str(text).unwrap_or_default();
    let communities = |value: &Value| {
        let list = value["list"].as_array().into_iter().flatten();
        list.map(|community| community.as_str().unwrap().to_owned()).collect()
    };
    let learnt = |(prefix, paths): (&String, &Value)| {
        let path = paths.as_array()?.iter().find(|path| path.get("aspath").is_some())?;
        let segments = path["aspath"]["segments"].as_array().into_iter().flatten();
        let numbers = segments.flat_map(|segment| segment["list"].as_array().into_iter().flatten());
        let next_hop = path["nexthops"].as_array()?.iter().find(|hop| hop["scope"] != "link-local")?;
        let learnt = Learnt {
            next_hop: next_hop["ip"].as_str()?.parse().unwrap(),
            as_path: numbers.map(|number| u32::try_from(number.as_u64().unwrap()).unwrap()).collect(),
            communities: communities(&path["community"]),
            large_communities: communities(&path["largeCommunity"]),
            local_pref: path["locPrf"].as_u64(),
        };
        Some((prefix.parse().unwrap(), learnt))
    };
    table["routes"].as_object().into_iter().flatten().filter_map(learnt).collect()
}

/// An announcer whose driver runs in a host.
struct Node {
    announcer: BgpAnnouncer,
    stop: oneshot::Sender<Stop>,
    kill: oneshot::Sender<()>,
    driver: JoinHandle<()>,
}

impl Node {
    fn start(host: &Host, config: BgpConfig) -> Self {
        let (announcer, driver) = BgpAnnouncer::new(config).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        let life = async {
            tokio::select! {
                done = driver.run(async { stopped.await.unwrap_or_default() }) => done.unwrap(),
                // Dropped in the middle of its run: as good as killed.
                Ok(()) = killed => (),
            }
        };
        // A thread that is started inside stays inside.
        let driver = host.enter(|| std::thread::spawn(move || in_runtime(life)));
        Self { announcer, stop, kill, driver }
    }

    fn announce(&self, generation: u64, routes: &[Route]) {
        let entry = |route: &Route| (route.prefix.addr(), Announcement::routes([route.clone()]));
        self.announcer.set_desired(Arc::new(AnnounceSet::new(generation, routes.iter().map(entry))));
    }

    /// Waits until each router has been told everything of that generation.
    fn told_all(&self, generation: u64, routers: usize) {
        let told =
            |state: &AnnounceState| matches!(state, AnnounceState::Announced { to } if to.len() == routers);
        let all = |status: &AnnounceStatus| {
            status.generation == generation && !status.entries.is_empty() && status.entries.values().all(told)
        };
        wait(self.announcer.status(), |status| all(status));
    }

    fn peer(&self, name: &str, wanted: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let peers = wait(self.announcer.peers(), |peers| {
            peers.iter().any(|(peer, status)| peer.as_str() == name && wanted(status))
        });
        peers.iter().find(|(peer, _)| peer.as_str() == name).unwrap().1.clone()
    }

    fn stop(self, how: Stop) -> Arc<AnnounceStatus> {
        self.stop.send(how).unwrap();
        self.driver.join().unwrap();
        self.announcer.status().borrow().clone()
    }

    fn kill(self) {
        self.kill.send(()).unwrap();
        self.driver.join().unwrap();
    }
}

fn wait<T: Clone>(mut watched: watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) -> T {
    in_runtime(async {
        let value = tokio::time::timeout(PATIENCE, watched.wait_for(wanted)).await;
        value.expect("it becomes as it should").unwrap().clone()
    })
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Asks again and again until it is so.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if is_so(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not happen that {what}, but {answer:#?}");
    }
}

/// A segment with a node and both routers.
struct World {
    node: Host,
    routers: [Router; 2],
    _segment: Segment,
}

impl World {
    /// `None`, with a message, where a router is not installed.
    fn new(setup: Setup) -> Option<Self> {
        let programs = ["bird", "birdc", "zebra", "bgpd", "vtysh"];
        let missing = programs.iter().find(|program| netns::find_program(program).is_none());
        if missing.is_some() {
            return None;
        }
        let segment = Segment::new("fabric").unwrap();
        let addresses = [format!("{NODE_V4}/24"), format!("{NODE_V6}/64")];
        let node = segment.host("node", &addresses.map(|address| address.parse().unwrap())).unwrap();
        let routers = [Kind::Bird, Kind::Frr].map(|kind| Router::new(&segment, kind, setup));
        Some(Self { node, routers, _segment: segment })
    }

    /// Waits until each router has these routes and no others from us; returns what each has.
    fn have(&self, prefixes: &[IpNet]) -> Vec<Routes> {
        let has = |router: &Router| {
            let what = format!("{:?} has {prefixes:?}", router.kind);
            eventually(&what, || router.routes(), |routes| routes.keys().eq(prefixes))
        };
        self.routers.iter().map(has).collect()
    }
}

/// Two addresses of each family.
fn prefixes() -> [IpNet; 4] {
    ["10.0.0.1/32", "10.0.0.2/32", "fd01::1/128", "fd01::2/128"].map(|prefix| prefix.parse().unwrap())
}

/// Plain routes, and among them one of each family with all attributes.
fn routes() -> [Route; 4] {
    let mut routes = prefixes().map(Route::new);
    for index in [0, 2] {
        let route = &mut routes[index];
        route.local_pref = Some(200);
        route.communities = [65_000 << 16 | 1, 65_000 << 16 | 2].into();
        route.large_communities = [(LOCAL_AS, 1, 2)].into();
    }
    routes
}

/// What a router should have of `routes`.
fn expected(setup: Setup) -> Routes {
    let learnt = |route: Route| {
        let texts = |list: Vec<String>| list.into_iter().collect();
        let v4 = route.prefix.addr().is_ipv4();
        let learnt = Learnt {
            next_hop: if v4 { NODE_V4.into() } else { NODE_V6.into() },
            as_path: if setup.internal { vec![] } else { vec![LOCAL_AS] },
            communities: texts(
                route.communities.iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff)).collect(),
            ),
            large_communities: texts(
                route.large_communities.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect(),
            ),
            local_pref: setup.internal.then(|| route.local_pref.unwrap_or(100).into()),
        };
        (route.prefix, learnt)
    };
    routes().into_iter().map(learnt).collect()
}

/// From the first OPEN to the farewell, with both routers at once.
fn a_whole_life(setup: Setup) {
    let Some(world) = World::new(setup) else { return };
    let node = Node::start(&world.node, setup.config());
    node.announce(1, &routes());
    node.told_all(1, 2);
    for (router, mut routes) in world.routers.iter().zip(world.have(&prefixes())) {
        if !setup.internal {
            // LOCAL_PREF is not for the outside; BIRD shows its own default where there is none.
            for route in routes.values_mut() {
                let own = route.local_pref.take();
                assert!(own.is_none() || own == Some(100), "{own:?} at {:?}", router.kind);
            }
        }
        assert_eq!(routes, expected(setup), "{:?}", router.kind);
    }
    for (name, external) in [("bird", BIRD_AS), ("frr", FRR_AS)] {
        let peer = node.peer(name, |peer| peer.state == State::Established);
        assert_eq!((peer.remote_as, peer.prefixes_sent), (Some(setup.remote_as(external)), 4));
    }

    let fewer = [routes()[1].clone(), routes()[2].clone()];
    node.announce(2, &fewer);
    world.have(&[prefixes()[1], prefixes()[2]]);
    // What was withdrawn comes back.
    node.announce(3, &routes());
    world.have(&prefixes());

    assert!(node.stop(Stop::Withdraw).entries.is_empty());
    world.have(&[]);
    for router in &world.routers {
        let shutdown = |error: &String| {
            let error = error.to_lowercase();
            error.contains("administrative") && error.contains("shutdown")
        };
        eventually("the router was told of the shutdown", || router.last_error(), shutdown);
    }
}

#[test]
fn routes_come_and_go_over_ipv4() {
    netns::test("routes_come_and_go_over_ipv4", || a_whole_life(Setup::EXTERNAL));
}

#[test]
fn routes_come_and_go_over_ipv6() {
    netns::test("routes_come_and_go_over_ipv6", || {
        a_whole_life(Setup { transport: Transport::V6, ..Setup::EXTERNAL });
    });
}

#[test]
fn routes_come_and_go_within_our_own_as() {
    netns::test("routes_come_and_go_within_our_own_as", || {
        a_whole_life(Setup { internal: true, ..Setup::EXTERNAL });
    });
}

#[test]
fn routes_come_and_go_where_the_router_calls() {
    netns::test("routes_come_and_go_where_the_router_calls", || {
        a_whole_life(Setup { caller: Caller::Router, ..Setup::EXTERNAL });
    });
}

#[test]
fn a_router_that_was_killed_gets_the_routes_again() {
    netns::test("a_router_that_was_killed_gets_the_routes_again", || {
        let Some(mut world) = World::new(Setup::EXTERNAL) else { return };
        let node = Node::start(&world.node, Setup::EXTERNAL.config());
        node.announce(1, &routes());
        world.have(&prefixes());
        for (index, name) in ["bird", "frr"].into_iter().enumerate() {
            world.routers[index].kill();
            let lost = node.peer(name, |peer| peer.state != State::Established);
            assert_eq!(lost.prefixes_sent, 0, "{lost:?}");
            // The other one's routes stay, and so does the announcement.
            node.told_all(1, 1);
            world.routers[index].start();
            world.have(&prefixes());
            node.told_all(1, 2);
        }
    });
}

#[test]
fn a_frozen_router_is_noticed_by_the_hold_time() {
    netns::test("a_frozen_router_is_noticed_by_the_hold_time", || {
        let setup = Setup { hold_time: 3, ..Setup::EXTERNAL };
        let Some(world) = World::new(setup) else { return };
        let node = Node::start(&world.node, setup.config());
        node.announce(1, &routes());
        world.have(&prefixes());
        for router in &world.routers {
            router.signal(Signal::SIGSTOP);
        }
        for name in ["bird", "frr"] {
            let lost = node.peer(name, |peer| peer.state != State::Established);
            let error = lost.last_error.unwrap();
            assert!(error.contains("Hold Timer Expired"), "{error}");
        }
        let silent = |state: &AnnounceState| !state.is_announced();
        wait(node.announcer.status(), |status| status.entries.values().all(silent));
        for router in &world.routers {
            router.signal(Signal::SIGCONT);
        }
        node.told_all(1, 2);
        world.have(&prefixes());
    });
}

#[test]
fn a_node_that_dies_without_a_word_takes_its_routes_along() {
    netns::test("a_node_that_dies_without_a_word_takes_its_routes_along", || {
        let Some(world) = World::new(Setup::EXTERNAL) else { return };
        let node = Node::start(&world.node, Setup::EXTERNAL.config());
        node.announce(1, &routes());
        world.have(&prefixes());
        node.kill();
        world.have(&[]);
    });
}
