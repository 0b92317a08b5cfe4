//! The etcd by which the nodes elect, if they are to.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::LabError;
use crate::netns::{self, SCRATCH};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// The URL at which the nodes find the etcd of the machine with this address.
pub(super) fn url(address: IpAddr) -> String {
    http(address, CLIENT_PORT)
}

/// The command that runs it there.
pub(super) fn command(address: IpAddr) -> Result<Command, LabError> {
    let (clients, peers) = (url(address), http(address, PEER_PORT));
    let mut command = Command::new(netns::locate("etcd").ok_or(LabError::NoEtcd)?);
    command
        // Nothing is to outlive the lab.
        .args(["--name", "one", "--unsafe-no-fsync", "--auto-compaction-retention", "1m"])
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("one={peers}"), "--data-dir"])
        .arg(Path::new(SCRATCH).join("etcd"));
    Ok(command)
}

fn http(address: IpAddr, port: u16) -> String {
    format!("http://{}", std::net::SocketAddr::new(address, port))
}
