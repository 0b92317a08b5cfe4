//! The client: a process of its own in the client's namespace, which asks and writes down what became of it.
//!
//! One attempt each millisecond, or as it is told, on a fresh TCP connection that is reset after its answer, so that ports do not run
//! out; and a few clients that keep their connection. No attempt is repeated. Records go to standard output, one a
//! line.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;

use lbcore::time::{Duration, Instant, parse_duration};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::attempts::{Attempt, Connection, Outcome, Record};
use super::http::{Answer, LONG_ANSWER, PIECE_INTERVAL, parse};

/// An attempt without an answer after this time has failed.
pub(super) const DEADLINE: Duration = Duration::from_millis(200);
/// From one request of a kept-alive client to its next.
const KEPT_INTERVAL: Duration = Duration::from_millis(20);
/// When the probe itself was held up for longer than so many attempts, the others are given up as not started.
const MOST_AT_ONCE: u64 = 50;

/// What the client asks.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ProbeArgs {
    /// Where to connect to.
    #[arg(long)]
    pub target: SocketAddr,
    /// The host name to ask for.
    #[arg(long)]
    pub host: String,
    /// From one attempt to the next.
    #[arg(long, default_value = "1ms", value_parser = parse_pace)]
    pub every: Duration,
    /// So many clients that keep their connection.
    #[arg(long, default_value_t = 4)]
    pub kept_alive: usize,
    /// So many clients that are always in the middle of a long answer.
    #[arg(long, default_value_t = 0)]
    pub downloads: usize,
}

/// From one attempt to the next at least: no more are begun in time.
const LEAST_PACE: Duration = Duration::from_micros(100);

/// Reads [`ProbeArgs::every`].
pub(super) fn parse_pace(text: &str) -> Result<Duration, String> {
    let every = parse_duration(text).map_err(|error| error.to_string())?;
    match every >= LEAST_PACE {
        true => Ok(every),
        false => Err("it must be 100us at least".to_owned()),
    }
}

/// Runs until it is killed or nobody reads its output any more.
pub(super) fn run(args: &ProbeArgs) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let probe = Rc::new(Probe {
        target: args.target,
        every: args.every,
        request: request("/", &args.host),
        long_request: request(LONG_ANSWER, &args.host),
        output: RefCell::new(String::new()),
    });
    let tasks = LocalSet::new();
    for index in 0..args.kept_alive {
        tasks.spawn_local(probe.clone().keep_asking(index));
    }
    for _ in 0..args.downloads {
        tasks.spawn_local(probe.clone().keep_downloading());
    }
    match tasks.block_on(&runtime, probe.pace()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

fn request(path: &str, host: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

struct Probe {
    target: SocketAddr,
    every: Duration,
    request: Vec<u8>,
    long_request: Vec<u8>,
    output: RefCell<String>,
}

/// How a request on an open connection ended, and whether the connection can be used again.
struct Reply {
    outcome: Outcome,
    reusable: bool,
}

impl Probe {
    /// Starts an attempt each [`every`](ProbeArgs::every), by an absolute schedule, and writes out the records.
    async fn pace(self: Rc<Self>) -> io::Result<()> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::Interval(TimeSpec::from(self.every)), TimerSetTimeFlags::empty())?;
        // A timer reads like a pipe that has the eight bytes of a count; tokio's own timers have whole milliseconds.
        let mut timer = pipe::Receiver::from_owned_fd_unchecked(timer.into())?;
        let begin = Instant::now();
        let mut started = 0;
        loop {
            timer.read_u64_le().await?;
            let elapsed = Instant::now().saturating_since(begin);
            let due = u64::try_from(elapsed.as_nanos() / self.every.as_nanos()).unwrap_or(u64::MAX);
            let late = (due - started).saturating_sub(MOST_AT_ONCE);
            if late > 0 {
                self.record(&Record::NotStarted(late));
            }
            for _ in started + late..due {
                tokio::task::spawn_local(self.clone().ask_once());
            }
            started = due;
            let written = self.output.take();
            if !written.is_empty() {
                let mut stdout = io::stdout().lock();
                stdout.write_all(written.as_bytes())?;
                stdout.flush()?;
            }
        }
    }

    fn record(&self, record: &Record) {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = writeln!(self.output.borrow_mut(), "{record}");
    }

    /// One attempt on a connection of its own.
    async fn ask_once(self: Rc<Self>) {
        let start = Instant::now();
        let mut accepted = false;
        let attempt = async {
            let mut stream = match self.connect().await {
                Ok(stream) => stream,
                Err(error) => return refusal(&error),
            };
            accepted = true;
            Some(self.ask(&mut stream).await.outcome)
        };
        let outcome = timeout(DEADLINE, attempt).await.unwrap_or(Some(Outcome::Silent));
        self.ended(start, Connection::Fresh, outcome, accepted);
    }

    fn ended(&self, start: Instant, connection: Connection, outcome: Option<Outcome>, accepted: bool) {
        let outcome = match outcome {
            None => return self.record(&Record::NotStarted(1)),
            Some(Outcome::Silent) if accepted => Outcome::Cut,
            Some(outcome) => outcome,
        };
        self.record(&Record::Attempt(Attempt { start, end: Instant::now(), connection, outcome }));
    }

    /// A connection whose closing is a reset: nothing of it stays behind.
    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_zero_linger()?;
        socket.set_nodelay(true)?;
        socket.connect(self.target).await
    }

    async fn ask(&self, stream: &mut TcpStream) -> Reply {
        let cut = Reply { outcome: Outcome::Cut, reusable: false };
        if stream.write_all(&self.request).await.is_err() {
            return cut;
        }
        let mut received = Vec::with_capacity(512);
        loop {
            match stream.read_buf(&mut received).await {
                Ok(0) | Err(_) => return cut,
                Ok(_) => {}
            }
            match parse(&received) {
                Answer::Partial => {}
                Answer::Malformed => return Reply { outcome: Outcome::Status(0), reusable: false },
                Answer::Complete { status: 200, body, close } if !body.is_empty() && !body.contains(' ') => {
                    return Reply { outcome: Outcome::Answered(body), reusable: !close };
                }
                Answer::Complete { status, close, .. } => {
                    return Reply { outcome: Outcome::Status(status), reusable: !close };
                }
            }
        }
    }

    /// A client that keeps its connection and opens another one when it is gone.
    async fn keep_asking(self: Rc<Self>, index: usize) {
        let mut kept: Option<TcpStream> = None;
        // The clients take turns.
        tokio::time::sleep(KEPT_INTERVAL / 4 * u32::try_from(index % 4).unwrap_or(0)).await;
        let mut ticks = tokio::time::interval(KEPT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = gone(kept.as_mut()) => {
                    self.record(&Record::Cut(Instant::now()));
                    kept = None;
                    continue;
                }
            }
            let start = Instant::now();
            let mut accepted = kept.is_some();
            let attempt = async {
                let mut stream = match kept.take() {
                    Some(stream) => stream,
                    None => match self.connect().await {
                        Ok(stream) => stream,
                        Err(error) => return (None, refusal(&error)),
                    },
                };
                accepted = true;
                let reply = self.ask(&mut stream).await;
                (reply.reusable.then_some(stream), Some(reply.outcome))
            };
            let (stream, outcome) = timeout(DEADLINE, attempt).await.unwrap_or((None, Some(Outcome::Silent)));
            kept = stream;
            self.ended(start, Connection::KeptAlive, outcome, accepted);
        }
    }
}

/// A long answer whose next piece does not come for so long is cut.
const STALLED: Duration = Duration::from_secs(2);

impl Probe {
    /// A client that asks for one long answer after the other, each on a connection of its own. That none can be had at
    /// times is told by the other clients; this one tells when an answer was begun and is not finished.
    async fn keep_downloading(self: Rc<Self>) {
        loop {
            if let Ok(Ok(mut stream)) = timeout(DEADLINE, self.connect()).await {
                self.download(&mut stream).await;
            }
            // An application that answers at once is not asked in a busy loop.
            tokio::time::sleep(PIECE_INTERVAL).await;
        }
    }

    async fn download(&self, stream: &mut TcpStream) {
        let start = Instant::now();
        let cut = |at| self.record(&Record::Cut(at));
        if stream.write_all(&self.long_request).await.is_err() {
            return cut(start);
        }
        let mut received = Vec::with_capacity(512);
        loop {
            let asked = Instant::now();
            match timeout(STALLED, stream.read_buf(&mut received)).await {
                Ok(Ok(1..)) => {}
                // Broken now, or since a piece did not come, which may have been late by then.
                Ok(_) => return cut(Instant::now()),
                Err(_) => return cut(asked + PIECE_INTERVAL * 2),
            }
            let outcome = match parse(&received) {
                Answer::Partial => continue,
                Answer::Complete { status: 200, .. } => return,
                Answer::Complete { status, .. } => Outcome::Status(status),
                Answer::Malformed => Outcome::Status(0),
            };
            let end = Instant::now();
            return self.record(&Record::Attempt(Attempt {
                start,
                end,
                connection: Connection::Fresh,
                outcome,
            }));
        }
    }
}

/// Returns when an idle connection is closed, reset or spoken on; never without one.
async fn gone(stream: Option<&mut TcpStream>) {
    match stream {
        Some(stream) => {
            let _ = stream.read(&mut [0]).await;
        }
        None => std::future::pending().await,
    }
}

/// What a refused connection means; `None` if this machine had none to give.
fn refusal(error: &io::Error) -> Option<Outcome> {
    use io::ErrorKind;
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset, _) => Some(Outcome::Refused),
        (ErrorKind::TimedOut, _) => Some(Outcome::Silent),
        (ErrorKind::AddrNotAvailable, _) => None,
        (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)) => None,
        _ => Some(Outcome::Unreachable),
    }
}
