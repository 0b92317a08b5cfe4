//! The lab: a few nodes, a client and two versions of a web application on one segment, in namespaces, without root.
//!
//! It allocates the addresses that the manifests ask for, lets the nodes elect an owner, answer ARP and route HTTP,
//! then breaks things while the client keeps asking, and measures what the client noticed. The nodes run the very
//! code of the `node` example; everything is judged from outside: by the client ([`attempts`]) and by the frames on
//! the segment ([`owners`]).

mod acts;
pub mod attempts;
mod cluster;
mod documents;
mod faults;
mod http;
mod observe;
pub mod owners;
mod probe;
pub mod report;
mod run;
mod scenario;
mod store;
mod story;
mod witness;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use clap::Parser;
use lbcore::time::{Duration, Instant};

use crate::netns::{self, Entered};
use crate::node::{self, args::NodeArgs};

pub use documents::OwnDocuments;
pub use faults::FaultKind;
pub use probe::ProbeArgs;
pub use run::{NodeCommand, Options, lbcore_node, measure, run};
pub use scenario::{App, Node, Scenario};

/// Why the lab could not do its work. (That a fault was not recovered from is a result, not an error.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A namespace, cable or address could not be made.
    #[error("cannot build the segment")]
    Network(#[from] netns::Error),
    /// The manifests do not describe a lab.
    #[error("{0}")]
    Manifests(String),
    /// A program could not be started.
    #[error("cannot start the program of {name}")]
    Start {
        /// On which machine.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A program could not be signalled.
    #[error("cannot send a signal")]
    Signal(#[source] io::Error),
    /// A file of the lab's own could not be written.
    #[error("cannot write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program ended by itself.
    #[error("the program of {name} ended by itself ({status}); its last words:{last_words}")]
    Ended {
        /// On which machine.
        name: String,
        /// How.
        status: ExitStatus,
        /// The end of its output.
        last_words: String,
    },
    /// No request was answered.
    #[error("no request to {target} was answered within {within:?}; {last}")]
    NoAnswer {
        /// The address asked.
        target: SocketAddr,
        /// The time given.
        within: Duration,
        /// What the last attempt got.
        last: String,
    },
    /// A node did not become ready.
    #[error("{name} was not ready within {within:?}; its last words:{last_words}")]
    NotReady {
        /// Which.
        name: String,
        /// The time given.
        within: Duration,
        /// The end of its output.
        last_words: String,
    },
    /// A node did not end.
    #[error("{name} was told to end and did not within {within:?}; its last words:{last_words}")]
    NotEnded {
        /// Which.
        name: String,
        /// The time given.
        within: Duration,
        /// The end of its output.
        last_words: String,
    },
    /// Nobody claimed the address on the wire.
    #[error("no node claims {0} on the wire")]
    NoOwner(std::net::IpAddr),
    /// Some of many addresses are not claimed by anybody.
    #[error("{missing} of {count} addresses were not claimed on the wire within {within:?}")]
    Unclaimed {
        /// So many.
        missing: usize,
        /// Of so many.
        count: usize,
        /// The time given.
        within: Duration,
    },
    /// A program that an option asks for.
    #[error("--elector lease-etcd needs the program etcd: `apt-get install etcd-server`, or see etcd.io")]
    NoEtcd,
    /// A machine that the scenario does not have.
    #[error("there is no machine {0}")]
    NoSuchMachine(String),
    /// The probe or the tap stopped working.
    #[error("{0}")]
    Instrument(String),
    /// What happens could not be told. (That nobody listens is no error.)
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// A few load-balancing nodes, a client and a web application, on one network segment in your machine
///
/// Builds the segment in network namespaces (no root needed), allocates the addresses that the manifests ask for,
/// elects the node that answers for them, and routes the client's requests to two versions of the application. Then
/// it breaks the owner in several ways, each repaired before the next, while the client asks once a millisecond, and
/// tells what the client noticed.
///
/// In a partition each of the two parts has nodes, a client and a way to the applications, and is judged alone; with
/// --elector lease-etcd the one without the etcd is to have no owner. Then it is judged how long the addresses that have
/// two owners keep them once the network is whole again.
///
/// Exit code: 0 if nothing failed outside the gaps, every fault was recovered from, no address had two owners, and a
/// drain or rolling restart cost neither a request nor a connection;
/// 1 if not; 2 if the lab could not run at all.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct LabArgs {
    #[command(flatten)]
    options: Options,

    /// Folder of MetalLB, Kubernetes and Gateway API documents [default: examples/manifests/lab of the repository]
    ///
    /// The segment is IPv4 or IPv6 as the first node's InternalIP is.
    #[arg(long, value_name = "DIR", conflicts_with = "OwnDocuments")]
    manifests: Option<PathBuf>,

    #[command(flatten)]
    own: OwnDocuments,

    /// The host name that the client asks for
    #[arg(long, value_name = "NAME", default_value = "www.example.com", value_parser = host_name)]
    host: String,

    /// The port that the client connects to [default: 80 of a Gateway, the first one of a Service]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

fn host_name(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{text:?} is no host name: write one like www.example.com"));
    }
    Ok(text.to_owned())
}

/// What this program is when the lab starts it again inside a machine.
#[derive(Debug, Parser)]
enum Role {
    #[command(name = RUN_NODE)]
    Node(Box<NodeArgs>),
    #[command(name = RUN_PROBE)]
    Probe(ProbeArgs),
    #[command(name = RUN_APP)]
    App {
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
        #[arg(long)]
        version: String,
    },
}

const RUN_NODE: &str = "run-node";
const RUN_PROBE: &str = "run-probe";
const RUN_APP: &str = "run-app";

/// The program.
pub fn main() -> ExitCode {
    let begin = Instant::now();
    if let Some(code) = play_role() {
        return code;
    }
    let args = LabArgs::parse();
    match netns::enter_sandbox() {
        Ok(Entered::Outside(code)) => code,
        Ok(Entered::Interrupted(code)) => {
            eprintln!("lab: interrupted; everything is removed");
            code
        }
        Ok(Entered::Inside) => match lab(begin, &args) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => complain(&error),
        },
        Err(error) => complain(&error),
    }
}

/// Plays the role that [`run`] started this program for, if it did: a node, the client or an application.
///
/// A program that calls [`run`] calls this first in its `main`.
pub fn play_role() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1)?;
    if ![RUN_NODE, RUN_PROBE, RUN_APP].iter().any(|role| first == *role) {
        return None;
    }
    Some(play(Role::parse()).unwrap_or_else(|error| complain(&error)))
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("lab: {}", with_causes(error));
    ExitCode::from(2)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn lab(begin: Instant, args: &LabArgs) -> Result<bool, LabError> {
    let manifests = match &args.manifests {
        Some(folder) => vec![folder.clone()],
        None => args.own.files()?,
    };
    let scenario = Scenario::read(&manifests, &args.host, args.port)?;
    run(begin, &scenario, &args.options, &lbcore_node)
}

/// The program of a machine that serves the application at `listen`, and answers with `version`.
pub fn application(version: &str, listen: impl IntoIterator<Item = SocketAddr>) -> Command {
    let mut command = again(RUN_APP);
    command.args(["--version", version]);
    for address in listen {
        command.args(["--listen", &address.to_string()]);
    }
    command
}

/// This program once more, in another role.
fn again(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(role);
    command
}

fn play(role: Role) -> io::Result<ExitCode> {
    match role {
        Role::Node(args) => Ok(node::main(&args)),
        Role::Probe(args) => probe::run(&args).map(|()| ExitCode::SUCCESS),
        Role::App { listen, version } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(http::serve(listen, version)).map(|()| ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_named_once() {
        let error = netns::Error::new("make something", io::Error::other("no"));
        assert_eq!(with_causes(&LabError::from(error)), "cannot build the segment: make something: no");
    }

    #[test]
    fn what_nobody_can_ask_for_is_refused() {
        for (word, said) in [
            ("--port=0", "0 is not in 1..=65535"),
            ("--host=www example.com", "\"www example.com\" is no host name: write one like www.example.com"),
            ("--host=", "is no host name"),
            ("--host=www\r\nA:b", "\"www\\r\\nA:b\" is no host name"),
            ("--version", concat!("lab ", env!("CARGO_PKG_VERSION"))),
        ] {
            let error = LabArgs::try_parse_from(["lab", word]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        LabArgs::try_parse_from(["lab", "--host=[2001:db8::1]:8080", "--port=65535"]).unwrap();
    }
}
