//! The store in etcd, and electors over it, judged on a real `etcd`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "a real server takes real time")]

#[expect(dead_code, reason = "shared with the other tests")]
mod cluster;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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

/// An etcd of one member or more, which ends with the test.
struct Etcd {
    /// One at a time: a server that waits for a processor is not what these tests are about.
    _turn: MutexGuard<'static, ()>,
    members: Vec<Member>,
    processes: Vec<Child>,
}

/// Where a member listens, and keeps its data.
struct Member {
    client: String,
    peer: String,
    data: tempfile::TempDir,
}

/// Whether there is an etcd to test with.
fn have_etcd() -> bool {
    have("etcd", "etcd-server")
}

/// Whether a program is there. In CI it must be.
fn have(program: &str, package: &str) -> bool {
    let found = ["/usr/bin", "/usr/local/bin"].iter().any(|path| Path::new(path).join(program).exists());
    assert!(found || std::env::var_os("CI").is_none(), "{program} is missing: install {package}");
    if !found {
        eprintln!("skipped: {program} is missing");
    }
    found
}

/// Has an etcd do what a store never asks for, by its JSON gateway.
fn post(url: &str, path: &str, body: &str) {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
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
        Self::of(1)
    }

    /// With so many members.
    fn of(size: usize) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let member =
            |_| Member { client: free_address(), peer: free_address(), data: tempfile::tempdir().unwrap() };
        let mut etcd = Self { _turn: turn, members: (0..size).map(member).collect(), processes: Vec::new() };
        etcd.processes = (0..size).map(|number| etcd.run(number)).collect();
        etcd.await_ready();
        etcd
    }

    fn run(&self, number: usize) -> Child {
        let Member { client, peer, data } = &self.members[number];
        let peers = self.members.iter().enumerate();
        let peers: Vec<_> = peers.map(|(number, member)| format!("m{number}={}", member.peer)).collect();
        Command::new("etcd")
            .args(["--name", &format!("m{number}"), "--unsafe-no-fsync"])
            .args(["--logger", "zap", "--log-outputs", "/dev/null"])
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &peers.join(",")])
            .arg("--data-dir")
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn await_ready(&self) {
        let runtime = in_real_time();
        let ready = |member: &Member| {
            let store = EtcdStore::new(Config::new([&*member.client]).unwrap());
            let answers = || runtime.block_on(async { within(store.get("ready", None)).await.is_some() });
            (0..200).any(|_| {
                let answers = answers();
                if !answers {
                    std::thread::sleep(Duration::from_millis(50));
                }
                answers
            })
        };
        assert!(self.members.iter().all(ready), "etcd does not answer");
    }

    fn clients(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    fn config(&self) -> Config {
        Config::new(self.members.iter().map(|member| &*member.client)).unwrap()
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(self.config())
    }

    /// SIGKILL.
    fn kill(&mut self, number: usize) {
        self.processes[number].kill().unwrap();
        self.processes[number].wait().unwrap();
    }

    /// Begins again with its data.
    fn restart(&mut self, number: usize) {
        self.processes[number] = self.run(number);
        self.await_ready();
    }

    /// Takes connections and requests from now on, and answers none.
    fn freeze(&self, number: usize) {
        self.signal(number, "STOP");
    }

    /// Answers all that came meanwhile, and goes on.
    fn thaw(&self, number: usize) {
        self.signal(number, "CONT");
        self.await_ready();
    }

    fn signal(&self, number: usize, signal: &str) {
        let command = format!("kill -s {signal} {}", self.processes[number].id());
        assert!(Command::new("sh").arg("-c").arg(command).status().unwrap().success());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill().and_then(|()| process.wait());
        }
    }
}

/// The answer, if one came within the time that a driver waits for it.
async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(500), call).await.ok()?.ok()
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
    patience: Arc<AtomicU32>,
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
        let patience = Duration::from_millis(self.patience.load(Ordering::Relaxed).into());
        let answer = tokio::task::spawn_blocking(move || {
            real.block_on(async { tokio::time::timeout(patience, call(store, prefix)).await })
        });
        match answer.await.unwrap() {
            Ok(answer) if !self.cut.load(Ordering::Relaxed) => answer,
            // Until the node no longer waits for it.
            _ => std::future::pending().await,
        }
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
    clients: Vec<String>,
    real: Arc<Runtime>,
    patience: Arc<AtomicU32>,
    prefix: Arc<str>,
}

impl Part {
    fn new(etcd: &Etcd) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test{}/", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (clients, real) = (etcd.clients(), Arc::new(in_real_time()));
        Self { clients, real, patience: Arc::new(AtomicU32::new(10_000)), prefix: prefix.into() }
    }

    /// What has no answer after so many milliseconds will have none: short while a member answers nothing, or else
    /// long, so that a machine that is busy is not taken for one.
    fn set_patience(&self, millis: u32) {
        self.patience.store(millis, Ordering::Relaxed);
    }
}

impl Lines for Part {
    type Line = Line;
    /// Who comes first differs from run to run, and so does how often something is written in vain.
    const SLACK: Duration = Duration::from_secs(1);

    fn connect(&self) -> Line {
        let Self { real, patience, prefix, .. } = self;
        let mut config = Config::new(self.clients.iter().map(String::as_str)).unwrap();
        config.connect_timeout = Duration::from_secs(10);
        let store = Arc::new(EtcdStore::new(config));
        let (real, patience, prefix) = (real.clone(), patience.clone(), prefix.clone());
        Line { store, real, patience, cut: Arc::default(), prefix }
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

        let post = |path: &str, body: &str| post(&etcd.members[0].client, &format!("/v3/kv/{path}"), body);
        // What is compacted is the past, and nobody reads it.
        let latest = put("b/2", None, "later").await.unwrap();
        post("compaction", &format!(r#"{{"revision":"{}"}}"#, latest.as_str()));
        assert_eq!(store.get("a/1", Some(&second)).await.unwrap(), Fetched::Unchanged);
        assert_eq!(store.list("a/").await.unwrap(), listed);
        assert!(matches!(put("a/1", Some(&first), "late").await, Err(StoreError::Conflict)));
        // An operator deletes it: its revisions do not come back.
        post("deleterange", r#"{"key":"YS8x"}"#);
        assert_eq!(store.get("a/1", Some(&second)).await.unwrap(), Fetched::Absent);
        let anew = put("a/1", None, "anew").await.unwrap();
        assert!(anew != first && anew != second);
        assert!(matches!(put("a/1", Some(&second), "late").await, Err(StoreError::Conflict)));
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
    let (gone, client) = (free_address(), etcd.members[0].client.clone());
    let store = EtcdStore::new(Config::new([&*gone, &*client]).unwrap());
    let runtime = in_real_time();
    let put =
        |at: Option<&Revision>| runtime.block_on(store.compare_and_swap("a", at, Bytes::from_static(b"x")));
    let first = put(None).unwrap();
    etcd.kill(0);
    assert!(matches!(put(Some(&first)), Err(StoreError::Unavailable(_))));
    etcd.restart(0);
    // The connection that was kept is dead, which the first call may learn by failing.
    let again = put(Some(&first)).or_else(|_| put(Some(&first))).unwrap();
    assert_ne!(again, first);

    // One that was emptied is not taken for it.
    etcd.kill(0);
    etcd.members[0].data = tempfile::tempdir().unwrap();
    etcd.restart(0);
    let refused = (0..3).map(|_| put(Some(&again))).find(|it| !matches!(it, Err(StoreError::Unavailable(_))));
    let Some(Err(StoreError::Permanent(why))) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("stop all electors"), "{why}");
}

/// Swaps once: reads, and writes at what was read. `None` if there was no answer in time.
async fn swap(store: &EtcdStore) -> Option<Revision> {
    let at = match within(store.get("a", None)).await? {
        Fetched::Found(found) => Some(found.revision),
        _ => None,
    };
    within(store.compare_and_swap("a", at.as_ref(), Bytes::from_static(b"x"))).await
}

#[test]
fn of_three_members_any_one_may_be_killed_or_stand_still() {
    if !have_etcd() {
        return;
    }
    let mut etcd = Etcd::of(3);
    let (store, runtime) = (etcd.store(), in_real_time());
    // If it led, the others elect another first, within seconds.
    let soon = || (0..20).any(|_| runtime.block_on(swap(&store)).is_some());
    assert!(soon());
    for number in 0..3 {
        etcd.freeze(number);
        assert!(soon(), "member {number} takes requests and answers none");
        etcd.thaw(number);
        etcd.kill(number);
        assert!(soon(), "member {number} was killed");
        etcd.restart(number);
    }
    assert!(soon());
}

#[test]
fn a_user_is_authenticated_and_a_token_that_ran_out_is_renewed() {
    if !have("etcd", "etcd-server") || !have("etcdctl", "etcd-client") {
        return;
    }
    let etcd = Etcd::start();
    let run = |arguments: &str| {
        let command = format!("--endpoints {} {arguments}", etcd.members[0].client);
        let words = command.split_whitespace();
        let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(words).output().unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    for arguments in ["user add root:secret", "user grant-role root root", "auth enable"] {
        run(arguments);
    }
    let with = |password: &str| {
        let user = User { name: "root".to_owned(), password: password.to_owned() };
        EtcdStore::new(etcd.config().with_user(user))
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
    etcd.kill(0);
    // Without a store nobody owns anything when the leases have run out.
    watch(&cluster, takeover, 0);
    etcd.restart(0);
    // When it is back there are owners again.
    watch(&cluster, takeover * 2, 6);
    let after = terms(&cluster);
    assert!(before.iter().all(|(role, term)| after[role] > *term), "{before:?} {after:?}");

    // It stands still for longer than a lease, and is then given what was sent to it meanwhile.
    let before = terms(&cluster);
    cluster.store.set_patience(100);
    etcd.freeze(0);
    watch(&cluster, takeover, 0);
    etcd.thaw(0);
    cluster.store.set_patience(10_000);
    watch(&cluster, takeover * 2, 6);
    let after = terms(&cluster);
    assert!(before.iter().all(|(role, term)| after[role] > *term), "{before:?} {after:?}");

    // Killed and started again within a lease: nobody falls silent.
    let before = terms(&cluster);
    etcd.kill(0);
    etcd.restart(0);
    watch(&cluster, takeover, 6);
    assert_eq!(terms(&cluster), before, "and nothing moved");
}

#[test]
fn electors_go_on_while_members_of_their_etcd_are_lost() {
    if !have_etcd() {
        return;
    }
    let mut etcd = Etcd::of(3);
    let takeover = Duration::from_secs(3);
    let mut cluster = Cluster::on(Part::new(&etcd), 3);
    cluster.store.set_patience(1000);
    for node in &cluster.nodes {
        let bids = roles().into_iter().map(|role| (role, Bid::default()));
        node.elector.set_candidacy(Arc::new(Candidacy::new(1, bids)));
    }
    watch(&cluster, takeover, 6);
    for number in 0..3 {
        etcd.kill(number);
        watch(&cluster, takeover * 2, 6);
        // A node dies meanwhile.
        cluster.crash(number);
        watch(&cluster, takeover, 6);
        cluster.restart(number);
        let bids = roles().into_iter().map(|role| (role, Bid::default()));
        cluster.nodes[number].elector.set_candidacy(Arc::new(Candidacy::new(1, bids)));
        etcd.restart(number);
        watch(&cluster, takeover, 6);
    }
}
