//! Real sockets on the loopback interface. Nothing is asserted about time; the timeout is a safety net.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use elect_gossip::{BuildError, ClusterKey, Config, Driver, GossipElector, Keyring, Resolve, Seed, Timing};
use lbcore::announce::Stop;
use lbcore::condition::Condition;
use lbcore::elect::{Bid, Candidacy, LeaderElector, Ownership, Renewals};
use lbcore::id::{NodeName, Role};
use lbcore::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

fn key() -> Keyring {
    Keyring::new(ClusterKey::new([9; 32]))
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn roles() -> Vec<Role> {
    (1..=6).map(|last| Role::Address([192, 0, 2, last].into())).collect()
}

fn config(name: &str, seeds: &[SocketAddr]) -> Config {
    // Slow enough that a busy machine is not taken for a dead one.
    let timing = Timing::new(Duration::from_millis(50), 20);
    Config::new(name, any_port(), key()).with_seeds(seeds.iter().copied()).with_timing(timing)
}

async fn until(elector: &GossipElector, what: &str, holds: impl FnMut(&Arc<Ownership>) -> bool) {
    let mut ownership = elector.ownership();
    let waited = tokio::time::timeout(Duration::from_secs(60), ownership.wait_for(holds)).await;
    assert!(waited.is_ok(), "{what}: {:?}", elector.ownership().borrow());
}

fn members(ownership: &Ownership) -> BTreeSet<NodeName> {
    ownership.members.keys().cloned().collect()
}

fn owners(ownership: &Ownership) -> BTreeSet<NodeName> {
    ownership.roles.values().map(|owner| owner.node.clone()).collect()
}

fn bid(elector: &GossipElector) {
    let bids = roles().into_iter().map(|role| (role, Bid::default()));
    elector.set_candidacy(Arc::new(Candidacy::new(1, bids)));
}

#[tokio::test]
async fn three_nodes_elect_fail_over_and_leave() {
    let mut built: Vec<(GossipElector, Driver)> = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let seeds: Vec<_> = built.iter().map(|(_, driver)| driver.address()).collect();
        built.push(GossipElector::new(&config(name, &seeds)).unwrap());
    }
    let mut tasks = JoinSet::new();
    let mut electors = Vec::new();
    let mut stops = Vec::new();
    let mut crash = Vec::new();
    for (elector, driver) in built {
        elector.set_hardware(BTreeMap::from([("eth0".into(), [2, 0, 0, 0, 0, electors.len() as u8])]));
        bid(&elector);
        electors.push(elector);
        let (stop, stopped) = oneshot::channel::<Stop>();
        stops.push(stop);
        let run = driver.run(async { stopped.await.unwrap_or_default() });
        crash.push(tasks.spawn(async { run.await.unwrap() }));
    }
    let all: BTreeSet<NodeName> = ["n1", "n2", "n3"].map(NodeName::from).into();
    for elector in &electors {
        until(elector, "all own something, and all know it", |ownership| {
            ownership.candidacy == 1 && ownership.roles.len() == 6 && owners(ownership) == all
        })
        .await;
        let ownership = elector.ownership().borrow().clone();
        assert_eq!(members(&ownership), all);
        assert_eq!(ownership.members["n3"].hardware["eth0"], [2, 0, 0, 0, 0, 2]);
        assert_eq!(ownership.mine.len(), 2);
    }
    assert!(electors[0].renewals().borrow().0.len() == 1);

    // A crash: the future is dropped in the middle, the sockets close.
    crash[0].abort();
    for elector in &electors[1..] {
        until(elector, "the others take over", |ownership| {
            !ownership.members.contains_key("n1")
                && ownership.roles.len() == 6
                && !owners(ownership).contains("n1")
        })
        .await;
    }
    let gone = electors[0].ownership().borrow().clone();
    assert!(gone.mine.is_empty() && gone.roles.is_empty(), "a handle without a driver owns nothing");
    assert!(electors[0].renewals().borrow().0.is_empty());

    // A withdrawal: everything is given away before the driver returns.
    stops.remove(1).send(Stop::Withdraw).unwrap();
    until(&electors[2], "the last one owns everything", |ownership| ownership.mine.len() == 6).await;
    until(&electors[1], "the one that left owns nothing", |ownership| ownership.mine.is_empty()).await;
    assert!(electors[2].counters().sent > 0);
    stops.remove(1).send(Stop::Preserve).unwrap();
    while let Some(ended) = tasks.join_next().await {
        assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()));
    }
}

/// A DNS that is asked to its face.
#[derive(Debug, Default)]
struct FakeDns {
    answers: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    works: AtomicBool,
}

impl Resolve for FakeDns {
    fn resolve(
        &self,
        host: &str,
        _: u16,
    ) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> {
        assert!(self.works.load(Ordering::Relaxed), "a resolver with a fault");
        let known = self.answers.lock().expect("nobody panicked").get(host).cloned();
        let answer = known.ok_or_else(|| std::io::Error::other("no such host"));
        Box::pin(async move { answer })
    }
}

#[tokio::test]
async fn nodes_join_by_name_as_soon_as_it_is_known() {
    let dns = Arc::new(FakeDns::default());
    let seed: Seed = "gossip.test:7946".parse().unwrap();
    let named = |name| config(name, &[]).with_seeds([seed.clone()]);
    let (one, first) = GossipElector::new(&named("n1")).unwrap();
    let (two, second) = GossipElector::new(&named("n2")).unwrap();
    let addresses = [&first, &second].map(Driver::address);
    let mut tasks = JoinSet::new();
    tasks.spawn(first.with_resolver(dns.clone()).run(std::future::pending()));
    tasks.spawn(second.with_resolver(dns.clone()).run(std::future::pending()));
    // One that panics is asked again like any other.
    for why in ["the resolver panicked", "no such host"] {
        let told = |told: &Vec<Condition>| {
            told.iter().any(|it| it.reason == "NotResolved" && it.message.contains(why))
        };
        for elector in [&one, &two] {
            let mut conditions = elector.conditions();
            let waited = tokio::time::timeout(Duration::from_secs(60), conditions.wait_for(told)).await;
            let message = waited.unwrap().unwrap()[0].message.clone();
            assert!(message.contains("gossip.test:7946"), "{message}");
            assert_eq!(elector.ownership().borrow().members.len(), 1);
        }
        dns.works.store(true, Ordering::Relaxed);
    }
    // Both addresses, as of a headless service: each node finds its own among them.
    dns.answers.lock().unwrap().insert("gossip.test".into(), addresses.to_vec());
    let all: BTreeSet<NodeName> = ["n1", "n2"].map(NodeName::from).into();
    for elector in [&one, &two] {
        until(elector, "they meet", |ownership| members(ownership) == all).await;
        let mut conditions = elector.conditions();
        let gone = conditions.wait_for(Vec::is_empty);
        tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn three_nodes_change_their_keys_without_losing_a_lease() {
    let mut electors: Vec<GossipElector> = Vec::new();
    let mut seeds = Vec::new();
    let mut tasks = JoinSet::new();
    for name in ["n1", "n2", "n3"] {
        let (elector, driver) = GossipElector::new(&config(name, &seeds)).unwrap();
        seeds.push(driver.address());
        bid(&elector);
        tasks.spawn(driver.run(std::future::pending()));
        electors.push(elector);
    }
    let all: BTreeSet<NodeName> = ["n1", "n2", "n3"].map(NodeName::from).into();
    let even = |ownership: &Ownership| ownership.roles.len() == 6 && owners(ownership) == all;
    for elector in &electors {
        until(elector, "all own something", |ownership| even(ownership)).await;
    }
    let owned = electors[0].ownership().borrow().roles.clone();
    let (old, new) = (ClusterKey::new([9; 32]), ClusterKey::new([10; 32]));
    let steps = [
        Keyring::new(old.clone()).accepting(new.clone()),
        Keyring::new(new.clone()).accepting(old),
        Keyring::new(new),
    ];
    let longest = Timing::new(Duration::from_millis(50), 20).takeover();
    for keys in steps {
        // One node after the other, and each step done before the next.
        for elector in &electors {
            elector.set_keys(keys.clone());
            for elector in &electors {
                let lease = |renewals: &Renewals| renewals.0.values().copied().max();
                let mut renewals = elector.renewals();
                let before = lease(&renewals.borrow()).unwrap();
                // What holds now was answered after the change.
                let renewed =
                    renewals.wait_for(|now| lease(now).is_some_and(|until| until > before + longest / 10));
                tokio::time::timeout(Duration::from_secs(60), renewed).await.unwrap().unwrap();
            }
        }
    }
    for elector in &electors {
        assert_eq!(elector.counters().leases_lost, 0);
        assert_eq!(elector.counters().unauthentic, 0);
        assert_eq!(elector.ownership().borrow().roles, owned, "same owners, same terms");
    }
    // The old key is worth nothing now.
    let (late, driver) = GossipElector::new(&config("n4", &seeds)).unwrap();
    tasks.spawn(driver.run(std::future::pending()));
    let mut conditions = electors[0].conditions();
    let refused = conditions.wait_for(|told| told.iter().any(|it| it.reason == "ForeignKey"));
    tokio::time::timeout(Duration::from_secs(60), refused).await.unwrap().unwrap();
    assert_eq!(late.ownership().borrow().members.len(), 1);
}

#[tokio::test]
async fn a_stranger_is_not_listened_to() {
    let (inside, driver) = GossipElector::new(&config("n1", &[])).unwrap();
    let mut foreign = config("n2", &[driver.address()]);
    foreign.keys = Keyring::new(ClusterKey::new([8; 32]));
    let (stranger, other) = GossipElector::new(&foreign).unwrap();
    bid(&inside);
    bid(&stranger);
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run(std::future::pending()));
    tasks.spawn(other.run(std::future::pending()));
    until(&inside, "it owns its side", |ownership| ownership.mine.len() == 6).await;
    until(&stranger, "and so does the other", |ownership| ownership.mine.len() == 6).await;
    let heard = async {
        while inside.counters().unauthentic == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.unwrap();
    assert_eq!(members(&inside.ownership().borrow()), ["n1"].map(NodeName::from).into());
}

#[tokio::test]
async fn what_cannot_be_built_says_why() {
    let (_elector, driver) = GossipElector::new(&config("n1", &[])).unwrap();
    let taken = Config::new("n2", driver.address(), key());
    let error = GossipElector::new(&taken).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on UDP {}", driver.address()));
    assert!(
        matches!(error, BuildError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    );

    let nowhere = Config::new("n2", SocketAddr::from(([0, 0, 0, 0], 0)), key());
    assert!(matches!(GossipElector::new(&nowhere), Err(BuildError::Advertise { .. })));
    let (_elector, driver) =
        GossipElector::new(&nowhere.with_advertise("192.0.2.1:7946".parse().unwrap())).unwrap();
    assert_eq!(driver.address(), "192.0.2.1:7946".parse().unwrap());

    let nameless = GossipElector::new(&Config::new("", any_port(), key())).unwrap_err();
    assert_eq!(nameless.to_string(), "the name of a node has 1 to 253 bytes, not 0");
}

#[tokio::test]
async fn streams_of_strangers_make_room_for_those_that_come_later() {
    let (_elector, driver) = GossipElector::new(&config("n1", &[])).unwrap();
    let address = driver.address();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run(std::future::pending()));
    let attempt = async {
        let mut streams = Vec::new();
        for _ in 0..70 {
            streams.push(TcpStream::connect(address).await.unwrap());
        }
        // The oldest are closed to make room.
        assert_eq!(streams[0].read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(streams[5].read(&mut [0; 1]).await.unwrap(), 0);
        streams.split_off(6)
    };
    let mut kept = tokio::time::timeout(Duration::from_secs(60), attempt).await.unwrap();
    for stream in &mut kept {
        let end = stream.try_read(&mut [0; 1]);
        assert!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
}
