//! A node of keepalived as the lab runs one: the daemon, a web server on the same machine, and a parent of both that
//! understands the lab's signals.

#![expect(clippy::disallowed_methods, reason = "it waits for other programs by the real clock")]

use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use lbcore_examples::lab::{self, Scenario};
use lbcore_examples::netns::SCRATCH;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// What this program is when the lab starts it inside a machine.
const RUN_KEEPALIVED: &str = "run-keepalived";

/// How long the daemon may take until it is fit to take the address.
const PATIENCE: Duration = Duration::from_secs(10);

/// From one look into its log to the next.
const LOOK: Duration = Duration::from_millis(5);

/// What a node consists of, beside the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// keepalived, and who watches the web server for it.
    Daemon,
    /// The web server.
    Web,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Web => "web",
        }
    }
}

#[derive(Debug, Parser)]
#[command(name = RUN_KEEPALIVED)]
struct Args {
    #[arg(long)]
    program: PathBuf,
    #[arg(long)]
    node: String,
    /// The address to keep, and the port of the web server.
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    priority: u8,
    /// Between two advertisements, in seconds.
    #[arg(long)]
    interval: String,
    /// What lives on when the lab kills this node, which kills a process group, and is found again by the next one: in
    /// a group of its own. For faults that kill, only.
    #[arg(long)]
    spared: Option<Part>,
    /// Watches the web server, and does nothing else.
    #[arg(long)]
    watch: bool,
}

impl Args {
    fn file(&self, suffix: &str) -> PathBuf {
        Path::new(SCRATCH).join(format!("keepalived-{}.{suffix}", self.node))
    }

    /// Whether a part was spared when this node was killed.
    fn has_left(&self, part: Part) -> bool {
        let process = || std::fs::read_to_string(self.file(part.name())).ok();
        self.spared == Some(part) && process().is_some_and(|number| Path::new("/proc").join(number).exists())
    }

    /// Starts a part, in the group that it belongs to.
    fn start(&self, part: Part, command: &mut Command) -> io::Result<Child> {
        if self.spared != Some(part) {
            return command.stdin(Stdio::null()).spawn();
        }
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        std::fs::write(self.file(part.name()), child.id().to_string())?;
        Ok(child)
    }
}

/// The command of the node `name`.
pub(super) fn node(
    program: &Path,
    scenario: &Scenario,
    name: &str,
    interval: &str,
    spared: Option<Part>,
) -> Command {
    let rank = scenario.nodes.iter().position(|node| node.name == name).unwrap_or_default();
    let priority = 200 - 10 * u8::try_from(rank).unwrap_or(0);
    let mut command = Command::new("/proc/self/exe");
    command.arg(RUN_KEEPALIVED).arg("--program").arg(program);
    command.args(["--node", name, "--target", &scenario.target.to_string()]);
    command.args(["--priority", &priority.to_string(), "--interval", interval]);
    if let Some(part) = spared {
        command.args(["--spared", part.name()]);
    }
    command
}

/// Is that node, if this program was started as one.
pub(crate) fn play_role() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != RUN_KEEPALIVED {
        return None;
    }
    let args = Args::parse_from(std::env::args_os().skip(1));
    Some(match if args.watch { watch(&args) } else { run(&args) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

/// SIGUSR1 drains the node as one drains a keepalived: the daemon is stopped. SIGUSR2 starts it again, SIGTERM ends
/// both it and the web server.
fn run(args: &Args) -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let mut web = if args.has_left(Part::Web) { None } else { Some(web(args)?) };
    let mut daemon = if args.has_left(Part::Daemon) { None } else { Some(Daemon::start(args)?) };
    await_fitness(args, daemon.as_mut())?;
    println!("ready");
    loop {
        match signals.wait()? {
            Signal::SIGUSR1 => daemon.take().map_or(Ok(()), Daemon::stop)?,
            Signal::SIGUSR2 if daemon.is_none() => {
                daemon = Some(Daemon::start(args)?);
                await_fitness(args, daemon.as_mut())?;
            }
            Signal::SIGTERM => {
                daemon.take().map_or(Ok(()), Daemon::stop)?;
                return web.take().map_or(Ok(()), |mut web| web.kill().and_then(|()| web.wait().map(drop)));
            }
            _ => {}
        }
    }
}

fn web(args: &Args) -> io::Result<Child> {
    let any: IpAddr = match args.target {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let mut command = lab::application("appv1", [SocketAddr::new(any, args.target.port())]);
    let mut web = args.start(Part::Web, command.stdout(Stdio::piped()))?;
    let mut line = String::new();
    BufReader::new(web.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut line)?;
    Ok(web)
}

/// keepalived, and who watches the web server for it.
struct Daemon {
    keepalived: Child,
    watch: Child,
}

impl Daemon {
    fn start(args: &Args) -> io::Result<Self> {
        std::fs::write(args.file("conf"), configuration(args))?;
        std::fs::write(args.file("web.failures"), "0")?;
        let mut watch = Command::new("/proc/self/exe");
        let watch = args.start(Part::Daemon, watch.args(std::env::args_os().skip(1)).arg("--watch"))?;
        for left in ["pid", "vrrp.pid"] {
            // One that was killed left them, and its number may be another process's by now.
            let _ = std::fs::remove_file(args.file(left));
        }
        let mut command = Command::new(&args.program);
        command
            .args(["--dont-fork", "--log-console", "--vrrp"])
            .arg("--use-file")
            .arg(args.file("conf"))
            .arg(format!("--pid={}", args.file("pid").display()))
            .arg(format!("--vrrp_pid={}", args.file("vrrp.pid").display()))
            .stdout(Stdio::null())
            // Not a pipe: it may outlive who would read that.
            .stderr(File::create(args.file("log"))?);
        args.start(Part::Daemon, &mut command).map(|keepalived| Self { keepalived, watch })
    }

    fn stop(mut self) -> io::Result<()> {
        kill(Pid::from_raw(self.keepalived.id().cast_signed()), Signal::SIGTERM)?;
        self.keepalived.wait()?;
        self.watch.kill()?;
        self.watch.wait().map(drop)
    }
}

/// Waits until the daemon, ours or one that was spared, listens to the others and has nothing against the web server.
fn await_fitness(args: &Args, mut daemon: Option<&mut Daemon>) -> io::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let log = std::fs::read_to_string(args.file("log"))?;
        let state = log.lines().rfind(|line| line.contains("Entering "));
        if state.is_some_and(|line| !line.contains("FAULT")) {
            return Ok(());
        }
        let ended = daemon.as_mut().map_or(Ok(None), |daemon| daemon.keepalived.try_wait())?;
        if ended.is_some() || Instant::now() >= give_up {
            return Err(io::Error::other(format!(
                "keepalived is not fit to take the address; its log:\n{log}"
            )));
        }
        std::thread::sleep(LOOK);
    }
}

/// Tells keepalived, by a file that it watches, whether the web server is there: at once, from the end of a connection.
///
/// `track_process` would need the kernel's process events, which there are in the first network namespace only, and
/// `vrrp_script` cannot be run more often than once a second, nor by a user who may not set groups.
fn watch(args: &Args) -> io::Result<()> {
    let loopback: IpAddr = match args.target {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let mut told = None;
    loop {
        let connection = TcpStream::connect((loopback, args.target.port()));
        let failures = u8::from(connection.is_err());
        if told.replace(failures) != Some(failures) {
            std::fs::write(args.file("web.failures"), failures.to_string())?;
        }
        match connection {
            // It never says anything unasked: this returns when it has ended.
            Ok(mut stream) => drop(stream.read(&mut [0])),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// As a careful operator writes it: a node that returns does not take the address back, and one without its web server
/// gives it up.
fn configuration(args: &Args) -> String {
    let mut text = String::new();
    let Args { node, interval, priority, target, .. } = args;
    let (address, failures) = (target.ip(), args.file("web.failures"));
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "global_defs {{\n  router_id {node}\n  vrrp_version 3\n}}\n\
         track_file web {{\n  file {}\n  weight 0\n}}\n\
         vrrp_instance address {{\n  state BACKUP\n  nopreempt\n  interface eth0\n  virtual_router_id 51\n  \
         priority {priority}\n  advert_int {interval}\n  virtual_ipaddress {{\n    {address}\n  }}\n  \
         track_file {{\n    web\n  }}\n}}\n",
        failures.display()
    );
    text
}
