//! Drivers over one [`MemoryStore`], in one process under virtual time: nodes that crash, stand still and lose their
//! connection to the store.

#![expect(unreachable_pub, reason = "a module of several test programs")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use elect_lease::memory::Connection;
use elect_lease::{Config, LeaseElector, LeaseStore, MemoryStore, RunError};
use lbcore::announce::Stop;
use lbcore::conformance::elector::Harness;
use lbcore::elect::LeaderElector;
use lbcore::elect::lease::Timing;
use lbcore::id::NodeName;
use lbcore::time::{Clock, Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The clock of tokio, which a test pauses and moves on.
pub struct Virtual(tokio::time::Instant);

impl Virtual {
    #[expect(clippy::disallowed_methods, reason = "the clock of these tests")]
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl fmt::Debug for Virtual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Virtual")
    }
}

impl Clock for Virtual {
    fn now(&self) -> Instant {
        Instant::from_millis(1000) + self.0.elapsed()
    }
}

/// Whether a process stands still, and whom to wake when it goes on.
#[derive(Debug, Default)]
struct Gate(Mutex<(bool, Option<Waker>)>);

impl Gate {
    fn set(&self, still: bool) {
        let mut gate = self.0.lock().unwrap();
        gate.0 = still;
        if let Some(waker) = gate.1.take() {
            waker.wake();
        }
    }

    /// Polls `inner` only while the process does not stand still.
    async fn pass<F: Future>(&self, inner: F) -> F::Output {
        let mut inner = pin!(inner);
        std::future::poll_fn(|context: &mut Context<'_>| {
            {
                let mut gate = self.0.lock().unwrap();
                if gate.0 {
                    gate.1 = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
            inner.as_mut().poll(context)
        })
        .await
    }
}

/// A store, and the lines to it that nodes have.
pub trait Lines {
    type Line: LeaseStore + Clone + 'static;
    /// How much longer than in the worst case that is foreseen something may take.
    const SLACK: Duration = Duration::ZERO;

    /// A line of its own.
    fn connect(&self) -> Self::Line;
    /// Nothing gets through any more.
    fn cut(line: &Self::Line);
    /// It works again.
    fn heal(line: &Self::Line);
}

impl Lines for MemoryStore {
    type Line = Connection;

    fn connect(&self) -> Connection {
        Self::connect(self)
    }

    fn cut(line: &Connection) {
        line.cut();
    }

    fn heal(line: &Connection) {
        line.heal();
    }
}

pub struct Node<L = Connection> {
    pub name: NodeName,
    pub elector: Arc<LeaseElector>,
    pub line: L,
    gate: Arc<Gate>,
    stop: Option<oneshot::Sender<Stop>>,
    task: JoinHandle<Result<(), RunError>>,
}

pub struct Cluster<S: Lines = MemoryStore> {
    pub runtime: Runtime,
    pub store: S,
    pub nodes: Vec<Node<S::Line>>,
    clock: Arc<Virtual>,
    timing: Timing,
}

/// The names of so many nodes.
fn names(size: usize) -> Vec<String> {
    (1..=size).map(|number| format!("n{number}")).collect()
}

impl Cluster {
    pub fn new(size: usize) -> Self {
        Self::of(&names(size))
    }

    /// A node for each name.
    pub fn of(names: &[String]) -> Self {
        Self::over(MemoryStore::new(), names)
    }
}

impl<S: Lines> Cluster<S> {
    /// So many nodes over `store`.
    pub fn on(store: S, size: usize) -> Self {
        Self::over(store, &names(size))
    }

    fn over(store: S, names: &[String]) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let clock = Arc::new(runtime.block_on(async { Virtual::start() }));
        let timing = Timing::of(Duration::from_secs(1));
        let mut cluster = Self { runtime, store, nodes: Vec::new(), clock, timing };
        for name in names {
            let line = cluster.store.connect();
            let node = cluster.node(NodeName::from(name.as_str()), line);
            cluster.nodes.push(node);
        }
        cluster
    }

    fn node(&self, name: NodeName, line: S::Line) -> Node<S::Line> {
        let mut config = Config::new(name.clone());
        config.timing = self.timing;
        config.clock = self.clock.clone();
        let (elector, driver) = LeaseElector::new(config, Arc::new(line.clone())).unwrap();
        let (stop, stopped) = oneshot::channel::<Stop>();
        let gate = Arc::new(Gate::default());
        let run = driver.run(async { stopped.await.unwrap_or_default() });
        let task = self.runtime.spawn({
            let gate = gate.clone();
            async move { gate.pass(run).await }
        });
        Node { name, elector: Arc::new(elector), line, gate, stop: Some(stop), task }
    }

    pub fn run(&self, span: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(span).await });
    }

    /// Asks a driver to stop, and waits for its end.
    pub fn stop(&mut self, node: usize, how: Stop) -> Result<(), RunError> {
        let node = &mut self.nodes[node];
        node.stop.take().unwrap().send(how).unwrap();
        self.runtime.block_on(&mut node.task).unwrap()
    }

    pub fn time(&self) -> Instant {
        let _context = self.runtime.enter();
        self.clock.now()
    }
}

impl<S: Lines> Harness for Cluster<S> {
    fn nodes(&self) -> Vec<NodeName> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    fn elector(&self, node: usize) -> Arc<dyn LeaderElector> {
        self.nodes[node].elector.clone()
    }

    fn now(&self, _node: usize) -> Instant {
        self.time()
    }

    fn advance(&mut self, span: Duration) {
        self.run(span);
    }

    fn takeover(&self) -> Duration {
        // The lease runs out, it is fenced, its roles are moved, and moved once more to even the load.
        self.timing.duration * 2 + Duration::from_millis(700) + S::SLACK
    }

    fn crash(&mut self, node: usize) {
        self.nodes[node].task.abort();
        // Its requests die with it, and nothing is told.
        self.run(Duration::ZERO);
    }

    fn restart(&mut self, node: usize) {
        let line = self.store.connect();
        self.nodes[node] = self.node(self.nodes[node].name.clone(), line);
    }

    fn pause(&mut self, node: usize) {
        self.nodes[node].gate.set(true);
    }

    fn resume(&mut self, node: usize) {
        self.nodes[node].gate.set(false);
    }

    fn cut(&mut self, node: usize) {
        S::cut(&self.nodes[node].line);
    }

    fn heal(&mut self, node: usize) {
        S::heal(&self.nodes[node].line);
    }
}
