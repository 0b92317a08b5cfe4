//! The agent of a node: reads MetalLB, Kubernetes and Gateway API manifests, elects, announces, delivers, serves.
//! `--help` says more.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use clap::Parser;

    /// Runs on every node: allocates addresses by the manifests, elects an owner for each with the other nodes, announces
    /// what this one owns, makes it deliverable, and serves.
    ///
    /// SIGTERM and SIGINT hand everything over and stop; SIGUSR1 drains, SIGUSR2 ends the drain; SIGHUP reads the manifests
    /// again at once.
    #[derive(Debug, Parser)]
    #[command(
        name = "node",
        version,
        after_help = "Exit status: 0 stopped as asked, 1 it could not start or could not go on, 2 bad arguments."
    )]
    struct Line {
        #[command(flatten)]
        node: lbcore_examples::node::args::NodeArgs,
    }
    lbcore_examples::node::main(&Line::parse().node)
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("node: needs Linux: packet sockets, netlink and nftables");
    ExitCode::from(2)
}
