//! The store in etcd, and electors over it, judged on a real `etcd`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "a real server takes real time")]

#[expect(dead_code, reason = "shared with the other tests")]
mod cluster;

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Cluster, Lines};
use elect_lease::etcd::{Config, EtcdStore, User};
use elect_lease::{Fetched, LeaseStore, StoreError, Versioned};
use lbcore::conformance::elector::{self, CLAUSES, Harness};
use lbcore::elect::lease::Revision;
use lbcore::elect::{Bid, Candidacy, LeaderElector, Term};
use lbcore::id::Role;
use tokio::runtime::{Builder, Runtime};

/// An etcd of one member, which ends with the test.
struct Etcd {
    /// One at a time: a server that waits for a processor is not what these tests are about.
    _turn: MutexGuard<'static, ()>,
    process: Child,
    data: tempfile::TempDir,
    client: String,
    peer: String,
}

/// Whether there is an etcd to test with. In CI there must be.
fn have_etcd() -> bool {
    let found = ["/usr/bin/etcd", "/usr/local/bin/etcd"].iter().any(|path| Path::new(path).exists());
    assert!(found || std::env::var_os("CI").is_none(), "etcd is missing: install etcd-server");
    if !found {
        eprintln!("skipped: etcd is missing");
    }
    found
}

/// Below the ports that the kernel gives to clients, so that it stays free while an etcd restarts.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(37);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = format!("127.0.0.1:{}", 12_000 + number % 18_000);
        if TcpListener::bind(&address).is_ok() {
            return format!("http://{address}");
        }
    }
}

impl Etcd {
    fn start() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (data, client, peer) = (tempfile::tempdir().unwrap(), free_address(), free_address());
        let process = Self::run(data.path(), &client, &peer);
        let mut etcd = Self { _turn: turn, process, data, client, peer };
        etcd.await_ready();
        etcd
    }

    fn run(data: &Path, client: &str, peer: &str) -> Child {
        Command::new("etcd")
            .args(["--name", "one", "--unsafe-no-fsync", "--logger", "zap", "--log-outputs", "/dev/null"])
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn await_ready(&mut self) {
        let (store, runtime) = (self.store(), in_real_time());
        let answers = || runtime.block_on(store.get("ready", None)).is_ok();
        for _ in 0..200 {
            if answers() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("etcd does not answer");
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(Config::new([&*self.client]).unwrap())
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Begins again with its data.
    fn restart(&mut self) {
        self.process = Self::run(self.data.path(), &self.client, &self.peer);
        self.await_ready();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn in_real_time() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A line to etcd from the virtual time of the nodes. That stands still while a call is on its way, which is longer or
/// shorter as the machine is busy: for the nodes etcd answers at once.
#[derive(Clone)]
struct Line {
    store: Arc<EtcdStore>,
    real: Arc<Runtime>,
    cut: Arc<AtomicBool>,
    prefix: Arc<str>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Line {
    /// tokio's virtual time does not move on by itself while there is work of this kind.
    async fn call<T: Send + 'static>(
        &self,
        call: impl AsyncFnOnce(Arc<EtcdStore>, Arc<str>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.cut.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let (real, store, prefix) = (self.real.clone(), self.store.clone(), self.prefix.clone());
        let answer = tokio::task::spawn_blocking(move || real.block_on(call(store, prefix)));
        let answer = answer.await.unwrap();
        if self.cut.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        answer
    }
}

#[async_trait]
impl LeaseStore for Line {
    async fn get(&self, key: &str, unless: Option<&Revision>) -> Result<Fetched, StoreError> {
        let (key, unless) = (key.to_owned(), unless.cloned());
        self.call(async move |store, prefix| store.get(&format!("{prefix}{key}"), unless.as_ref()).await)
            .await
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>, StoreError> {
        let under = prefix.to_owned();
        self.call(async move |store, prefix| {
            let records = store.list(&format!("{prefix}{under}")).await?;
            Ok(records.into_iter().map(|(key, value)| (key[prefix.len()..].to_owned(), value)).collect())
        })
        .await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        let (key, expected) = (key.to_owned(), expected.cloned());
        self.call(async move |store, prefix| {
            store.compare_and_swap(&format!("{prefix}{key}"), expected.as_ref(), value).await
        })
        .await
    }
}

/// A part of an etcd that no other test uses.
struct Part {
    client: String,
    real: Arc<Runtime>,
    prefix: Arc<str>,
}

impl Part {
    fn new(etcd: &Etcd) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test{}/", NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { client: etcd.client.clone(), real: Arc::new(in_real_time()), prefix: prefix.into() }
    }
}

impl Lines for Part {
    type Line = Line;
    /// Who comes first differs from run to run, and so does how often something is written in vain.
    const SLACK: Duration = Duration::from_secs(1);

    fn connect(&self) -> Line {
        let (real, prefix) = (self.real.clone(), self.prefix.clone());
        let mut config = Config::new([&*self.client]).unwrap();
        config.connect_timeout = Duration::from_secs(10);
        let store = EtcdStore::new(config);
        Line { store: Arc::new(store), real, cut: Arc::default(), prefix }
    }

    fn cut(line: &Line) {
        line.cut.store(true, Ordering::Relaxed);
    }

    fn heal(line: &Line) {
        line.cut.store(false, Ordering::Relaxed);
    }
}

fn found(fetched: Fetched) -> (Revision, Bytes) {
    match fetched {
        Fetched::Found(Versioned { revision, value }) => (revision, value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_are_swapped_only_at_the_revision_that_was_seen() {
    if !have_etcd() {
        return;
    }
    let etcd = Etcd::start();
    let store = etcd.store();
    in_real_time().block_on(async {
        let put = async |key: &str, at: Option<&Revision>, value: &'static str| {
            store.compare_and_swap(key, at, Bytes::from_static(value.as_bytes())).await
        };
        assert_eq!(store.get("a/1", None).await.unwrap(), Fetched::Absent);
        let first = put("a/1", None, "one").await.unwrap();
        assert!(matches!(put("a/1", None, "other").await, Err(StoreError::Conflict)), "it is there already");
        assert_eq!(found(store.get("a/1", None).await.unwrap()), (first.clone(), Bytes::from_static(b"one")));
        assert_eq!(store.get("a/1", Some(&first)).await.unwrap(), Fetched::Unchanged);
        let second = put("a/1", Some(&first), "two").await.unwrap();
        assert!(matches!(put("a/1", Some(&first), "late").await, Err(StoreError::Conflict)));
        assert_eq!(
            found(store.get("a/1", Some(&first)).await.unwrap()),
            (second.clone(), Bytes::from_static(b"two"))
        );

        for key in ["a/2", "a0", "b/1"] {
            put(key, None, "").await.unwrap();
        }
        let listed = store.list("a/").await.unwrap();
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["a/1", "a/2"]);
        assert_eq!(listed["a/1"].revision, second);
        assert_eq!(listed["a/2"].value, Bytes::new());

        // An operator deletes it: its revisions do not come back.
        let deleted = Command::new("curl")
            .args([
                "--silent",
                "--fail",
                "--data",
                r#"{"key":"YS8x"}"#,
                &format!("{}/v3/kv/deleterange", etcd.client),
            ])
            .output();
        if deleted.is_ok_and(|output| output.status.success()) {
            assert_eq!(store.get("a/1", Some(&second)).await.unwrap(), Fetched::Absent);
            let anew = put("a/1", None, "anew").await.unwrap();
            assert!(anew != first && anew != second);
            assert!(matches!(put("a/1", Some(&second), "late").await, Err(StoreError::Conflict)));
        }
        let foreign = Revision::new("seven");
        assert!(matches!(put("a/1", Some(&foreign), "").await, Err(StoreError::Permanent(_))));
    });
}

#[test]
fn of_many_who_swap_at_once_one_wins() {
    if !have_etcd() {
        return;
    }
    let etcd = Etcd::start();
    in_real_time().block_on(async {
        let mut at = None;
        for round in 0..20 {
            let swaps = (0..8).map(|number| {
                let (store, at) = (etcd.store(), at.clone());
                let value = Bytes::from(format!("{round} {number}"));
                async move { store.compare_and_swap("contended", Option::as_ref(&at), value).await }
            });
            let mut racing = tokio::task::JoinSet::new();
            swaps.for_each(|swap| drop(racing.spawn(swap)));
            let outcomes = racing.join_all().await;
            let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
            assert_eq!(won.len(), 1, "{outcomes:?}");
            assert!(
                outcomes.iter().all(|it| matches!(it, Ok(_) | Err(StoreError::Conflict))),
                "{outcomes:?}"
            );
            at = Some(won[0].clone());
        }
    });
}

#[test]
fn an_endpoint_that_is_gone_is_passed_over_and_a_restart_is_survived() {
    if !have_etcd() {
        return;
    }
    let mut etcd = Etcd::start();
    let (gone, client) = (free_address(), etcd.client.clone());
    let store = EtcdStore::new(Config::new([&*gone, &*client]).unwrap());
    let runtime = in_real_time();
    let put =
        |at: Option<&Revision>| runtime.block_on(store.compare_and_swap("a", at, Bytes::from_static(b"x")));
    let first = put(None).unwrap();
    etcd.kill();
    assert!(matches!(put(Some(&first)), Err(StoreError::Unavailable(_))));
    etcd.restart();
    // The connection that was kept is dead, which the first call may learn by failing.
    let again = put(Some(&first)).or_else(|_| put(Some(&first))).unwrap();
    assert_ne!(again, first);

    // One that was emptied is not taken for it.
    etcd.kill();
    etcd.data = tempfile::tempdir().unwrap();
    etcd.restart();
    let refused = (0..3).map(|_| put(Some(&again))).find(|it| !matches!(it, Err(StoreError::Unavailable(_))));
    let Some(Err(StoreError::Permanent(why))) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("stop all electors"), "{why}");
}

#[test]
fn a_user_is_authenticated_and_a_token_that_ran_out_is_renewed() {
    if !have_etcd() || !Path::new("/usr/bin/etcdctl").exists() {
        return;
    }
    let etcd = Etcd::start();
    let run = |arguments: &str| {
        let command = format!("--endpoints {} {arguments}", etcd.client);
        let words = command.split_whitespace();
        let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(words).output().unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    for arguments in ["user add root:secret", "user grant-role root root", "auth enable"] {
        run(arguments);
    }
    let with = |password: &str| {
        let user = User { name: "root".to_owned(), password: password.to_owned() };
        EtcdStore::new(Config::new([&*etcd.client]).unwrap().with_user(user))
    };
    in_real_time().block_on(async {
        assert!(
            matches!(etcd.store().get("a", None).await, Err(StoreError::Permanent(_))),
            "it wants a user"
        );
        let wrong = with("guess").get("a", None).await.unwrap_err();
        let why = std::error::Error::source(&wrong).unwrap().to_string();
        assert!(why.contains("authentication failed"), "{why}");
        let store = with("secret");
        assert_eq!(store.get("a", None).await.unwrap(), Fetched::Absent);
        // A change of the users invalidates all tokens.
        run("--user root:secret user add other:secret");
        store.compare_and_swap("a", None, Bytes::from_static(b"x")).await.unwrap();
    });
}

#[test]
fn the_contract_of_electors_holds_over_etcd() {
    if !have_etcd() {
        return;
    }
    let etcd = Etcd::start();
    for (name, nodes, clause) in CLAUSES {
        eprintln!("{name}");
        clause(&mut elector::Cluster::new(Box::new(Cluster::on(Part::new(&etcd), *nodes))));
    }
}

fn roles() -> Vec<Role> {
    (1..=6).map(|last| Role::Address([192, 0, 2, last].into())).collect()
}

/// The nodes of which a role has a lease that holds, whether they run or not.
fn holders(cluster: &Cluster<Part>, role: &Role) -> Vec<usize> {
    let now = cluster.time();
    let holds = |node: &usize| {
        let elector = &cluster.nodes[*node].elector;
        let lease = elector.ownership().borrow().mine.get(role).copied();
        lease.is_some_and(|lease| elector.renewals().borrow().0.get(&lease).is_some_and(|until| now < *until))
    };
    (0..cluster.nodes.len()).filter(holds).collect()
}

/// How many roles have a holder; none has two.
fn held(cluster: &Cluster<Part>) -> usize {
    let held = |role: &Role| {
        let holders = holders(cluster, role);
        assert!(holders.len() <= 1, "{role} is held by {holders:?}");
        !holders.is_empty()
    };
    roles().iter().filter(|role| held(role)).count()
}

/// Lets `span` pass, in which no role ever has two holders, and then more until so many have one: one that moves to
/// even the load has none for a moment.
fn watch(cluster: &Cluster<Part>, span: Duration, expected: usize) {
    let step = Duration::from_millis(20);
    for _ in 0..span.as_millis() / step.as_millis() {
        cluster.run(step);
        held(cluster);
    }
    for _ in 0..50 {
        if held(cluster) == expected {
            return;
        }
        cluster.run(step);
    }
    panic!("{} roles have an owner, not {expected}", held(cluster));
}

fn terms(cluster: &Cluster<Part>) -> BTreeMap<Role, Term> {
    let ownership = cluster.nodes[0].elector.ownership();
    ownership.borrow().roles.iter().map(|(role, owner)| (role.clone(), owner.term)).collect()
}

#[test]
fn owners_pause_are_cut_off_and_lose_their_etcd_without_a_second_owner() {
    if !have_etcd() {
        return;
    }
    let mut etcd = Etcd::start();
    let takeover = Duration::from_secs(3);
    let mut cluster = Cluster::on(Part::new(&etcd), 3);
    let bids = || roles().into_iter().map(|role| (role, Bid::default()));
    for node in &cluster.nodes {
        node.elector.set_candidacy(Arc::new(Candidacy::new(1, bids())));
    }
    watch(&cluster, takeover, 6);

    cluster.pause(0);
    // The others have what the one that stands still had.
    watch(&cluster, takeover, 6);
    cluster.resume(0);
    watch(&cluster, takeover, 6);

    cluster.cut(1);
    watch(&cluster, takeover, 6);
    assert!(roles().iter().all(|role| holders(&cluster, role) != [1]), "who is cut off owns nothing");
    cluster.heal(1);
    watch(&cluster, takeover, 6);

    let before = terms(&cluster);
    etcd.kill();
    // Without a store nobody owns anything when the leases have run out.
    watch(&cluster, takeover, 0);
    etcd.restart();
    // When it is back there are owners again.
    watch(&cluster, takeover * 2, 6);
    let after = terms(&cluster);
    assert!(before.iter().all(|(role, term)| after[role] > *term), "{before:?} {after:?}");

    // Killed and started again within a lease: nobody falls silent.
    let before = terms(&cluster);
    etcd.kill();
    etcd.restart();
    watch(&cluster, takeover, 6);
    assert_eq!(terms(&cluster), before, "and nothing moved");
}
