//! Drivers over a store that is slow, loses, conflicts and refuses, and nodes that end, stand still and share a name.

#[expect(dead_code, reason = "shared with the other tests")]
mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, Virtual};
use elect_lease::memory::Fate;
use elect_lease::{Config, Fetched, LeaseElector, LeaseStore, RunError, StoreError, Versioned};
use lbcore::announce::Stop;
use lbcore::condition::{Condition, Status};
use lbcore::conformance::elector::Harness;
use lbcore::elect::lease::Revision;
use lbcore::elect::{Bid, Candidacy, LeaderElector};
use lbcore::id::Role;
use lbcore::time::Duration;
use proptest::prelude::*;

fn roles() -> Vec<Role> {
    (1..=4).map(|last| Role::Address([192, 0, 2, last].into())).collect()
}

fn bid_everywhere(cluster: &Cluster) {
    for node in &cluster.nodes {
        bid(&*node.elector);
    }
}

fn bid(elector: &dyn LeaderElector) {
    elector
        .set_candidacy(Arc::new(Candidacy::new(1, roles().into_iter().map(|role| (role, Bid::default())))));
}

/// The nodes of which a role has a lease that holds, whether they run or not.
fn holders(cluster: &Cluster, role: &Role) -> Vec<usize> {
    let now = cluster.time();
    let holds = |node: &usize| {
        let elector = &cluster.nodes[*node].elector;
        let lease = elector.ownership().borrow().mine.get(role).copied();
        lease.is_some_and(|lease| elector.renewals().borrow().0.get(&lease).is_some_and(|until| now < *until))
    };
    (0..cluster.nodes.len()).filter(holds).collect()
}

/// Lets `span` pass; no role ever has two holders in it.
fn watch(cluster: &Cluster, span: Duration) {
    for _ in 0..span.as_millis() / 5 {
        cluster.run(Duration::from_millis(5));
        for role in roles() {
            let holders = holders(cluster, &role);
            assert!(holders.len() <= 1, "{role} is held by {holders:?}");
        }
    }
}

/// How many roles each node holds.
fn loads(cluster: &Cluster) -> Vec<usize> {
    let mut loads = vec![0; cluster.nodes.len()];
    for role in roles() {
        for holder in holders(cluster, &role) {
            loads[holder] += 1;
        }
    }
    loads
}

fn settled(size: usize) -> Cluster {
    let cluster = Cluster::new(size);
    bid_everywhere(&cluster);
    watch(&cluster, cluster.takeover());
    cluster
}

fn condition(cluster: &Cluster, node: usize, kind: &str) -> (Status, String, String) {
    let conditions = cluster.nodes[node].elector.conditions();
    let conditions = conditions.borrow();
    let condition =
        conditions.iter().find(|condition| condition.kind == kind).expect("a condition of this kind");
    (condition.status, condition.reason.to_string(), condition.message.clone())
}

#[test]
fn who_withdraws_hands_over_before_it_ends() {
    let mut cluster = settled(2);
    assert_eq!(loads(&cluster), [2, 2]);
    let began = cluster.time();
    cluster.stop(0, Stop::Withdraw).unwrap();
    let took = cluster.time().saturating_since(began);
    assert!(took < Duration::from_secs(1), "a hand-over does not wait for a lease to run out: {took:?}");
    watch(&cluster, Duration::from_millis(300));
    assert_eq!(loads(&cluster), [0, 4]);
    assert!(!cluster.nodes[1].elector.ownership().borrow().members.contains_key("n1"));
}

#[test]
fn who_is_preserved_leaves_its_roles_to_the_end_of_its_lease() {
    let mut cluster = settled(2);
    cluster.stop(0, Stop::Preserve).unwrap();
    assert!(cluster.nodes[0].elector.ownership().borrow().mine.is_empty());
    watch(&cluster, Duration::from_millis(500));
    assert_eq!(loads(&cluster), [0, 2]);
    watch(&cluster, cluster.takeover());
    assert_eq!(loads(&cluster), [0, 4]);
}

#[test]
fn a_farewell_that_nobody_hears_is_told() {
    let mut cluster = settled(2);
    cluster.cut(0);
    let error = cluster.stop(0, Stop::Withdraw).unwrap_err();
    assert!(
        matches!(error, RunError::Farewell { within, .. } if within == Duration::from_secs(3)),
        "{error}"
    );
    assert_eq!(loads(&cluster)[0], 0);
    watch(&cluster, cluster.takeover());
    assert_eq!(loads(&cluster), [0, 4]);
}

#[test]
fn an_outage_of_the_store_silences_all_and_then_they_come_back() {
    let mut cluster = settled(3);
    let before: Vec<_> = roles().iter().map(|role| holders(&cluster, role)).collect();
    (0..3).for_each(|node| cluster.cut(node));
    watch(&cluster, Duration::from_secs(3));
    assert_eq!(loads(&cluster), [0, 0, 0]);
    let (up, reason, message) = condition(&cluster, 0, "StoreAvailable");
    assert_eq!((up, reason.as_str()), (Status::False, "NoAnswer"), "{message}");
    (0..3).for_each(|node| cluster.heal(node));
    watch(&cluster, Duration::from_secs(1));
    let after: Vec<_> = roles().iter().map(|role| holders(&cluster, role)).collect();
    assert_eq!(after, before, "nobody takes from those who could not renew");
}

#[test]
fn two_processes_of_one_name_are_one_node() {
    let names = ["n1", "n1", "n2", "n3"].map(str::to_owned);
    let mut cluster = Cluster::of(&names);
    bid_everywhere(&cluster);
    watch(&cluster, Duration::from_secs(8));
    let before = loads(&cluster);
    assert_eq!(before[0].min(before[1]), 0, "{before:?}");
    assert_eq!(before.iter().sum::<usize>(), 4, "{before:?}");
    let second = usize::from(before[0] > 0);
    let (held, reason, message) = condition(&cluster, second, "LeaseHeld");
    assert_eq!((held, reason.as_str()), (Status::False, "HeldByAnother"), "{message}");
    let condition_of_first = condition(&cluster, 1 - second, "LeaseHeld");
    assert_eq!(condition_of_first.0, Status::True, "{}", condition_of_first.2);
    // The second one does not keep the others from taking over.
    for _ in 0..3 {
        cluster.crash(3);
        watch(&cluster, cluster.takeover());
        let after = loads(&cluster);
        assert_eq!((after[3], after.iter().sum::<usize>()), (0, 4), "{after:?}");
        cluster.restart(3);
        bid(&*cluster.nodes[3].elector);
        watch(&cluster, Duration::from_secs(7));
    }
    // When the first one ends, the second is the node.
    cluster.crash(1 - second);
    watch(&cluster, cluster.takeover() * 2);
    assert!(loads(&cluster)[second] > 0, "{:?}", loads(&cluster));
}

#[test]
fn all_at_once_leaves_one_owner_each() {
    let mut cluster = settled(4);
    cluster.pause(0);
    cluster.crash(1);
    cluster.restart(1);
    bid(&*cluster.nodes[1].elector);
    cluster.cut(2);
    watch(&cluster, Duration::from_secs(4));
    cluster.resume(0);
    cluster.heal(2);
    watch(&cluster, cluster.takeover() * 2);
    assert_eq!(loads(&cluster), [1, 1, 1, 1]);
}

#[derive(Clone, Debug)]
enum Trouble {
    Fates(usize, Vec<Fate>),
    Delay(usize, u64, u64),
    Pause(usize),
    Restart(usize),
    Cut(usize),
    Mend,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let fate = prop::sample::select(vec![
        Fate::LoseRequest,
        Fate::LoseAnswer,
        Fate::Refuse,
        Fate::RefuseAfter,
        Fate::Forbid,
        Fate::Conflict,
        Fate::Deliver,
    ]);
    let node = 0..3_usize;
    prop_oneof![
        4 => (node.clone(), prop::collection::vec(fate, 1..12)).prop_map(|(node, fates)| Trouble::Fates(node, fates)),
        2 => (node.clone(), 0..120_u64, 0..200_u64).prop_map(|(node, there, back)| Trouble::Delay(node, there, back)),
        1 => node.clone().prop_map(Trouble::Pause),
        1 => node.clone().prop_map(Trouble::Restart),
        1 => node.prop_map(Trouble::Cut),
        1 => Just(Trouble::Mend),
    ]
}

fn mend(cluster: &mut Cluster) {
    for node in 0..cluster.nodes.len() {
        cluster.resume(node);
        cluster.heal(node);
        cluster.nodes[node].line.set_delay(Duration::ZERO, Duration::ZERO);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bad_store_makes_no_second_owner(troubles in prop::collection::vec((trouble(), 20..1500_u64), 1..12)) {
        let mut cluster = settled(3);
        for (trouble, span) in troubles {
            match trouble {
                Trouble::Fates(node, fates) => cluster.nodes[node].line.push_fates(fates),
                Trouble::Delay(node, there, back) => {
                    cluster.nodes[node].line.set_delay(Duration::from_millis(there), Duration::from_millis(back));
                }
                Trouble::Pause(node) => cluster.pause(node),
                Trouble::Restart(node) => {
                    cluster.crash(node);
                    cluster.restart(node);
                    bid(&*cluster.nodes[node].elector);
                }
                Trouble::Cut(node) => cluster.cut(node),
                Trouble::Mend => mend(&mut cluster),
            }
            watch(&cluster, Duration::from_millis(span));
        }
        mend(&mut cluster);
        watch(&cluster, cluster.takeover() * 2);
        let mut loads = loads(&cluster);
        loads.sort_unstable();
        prop_assert_eq!(loads, [1, 1, 2]);
    }
}

/// A store with a bug.
#[derive(Debug)]
struct Panics;

#[async_trait]
impl LeaseStore for Panics {
    async fn get(&self, _key: &str, _unless: Option<&Revision>) -> Result<Fetched, StoreError> {
        panic!("a bug in get")
    }

    async fn list(&self, _prefix: &str) -> Result<BTreeMap<String, Versioned>, StoreError> {
        panic!("a bug in list")
    }

    async fn compare_and_swap(
        &self,
        _key: &str,
        _expected: Option<&Revision>,
        _value: Bytes,
    ) -> Result<Revision, StoreError> {
        panic!("a bug in compare_and_swap")
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_is_one_that_does_not_answer() {
    let mut config = Config::new("n1");
    config.clock = Arc::new(Virtual::start());
    let (elector, driver) = LeaseElector::new(config, Arc::new(Panics)).unwrap();
    let mut conditions = elector.conditions();
    let waits = async {
        let down = |conditions: &Vec<Condition>| {
            conditions
                .iter()
                .any(|condition| condition.kind == "StoreAvailable" && condition.status == Status::False)
        };
        conditions.wait_for(down).await.map(drop)
    };
    tokio::select! {
        ended = driver.run(std::future::pending()) => panic!("{ended:?}"),
        waited = tokio::time::timeout(Duration::from_secs(60), waits) => waited.unwrap().unwrap(),
    }
}
