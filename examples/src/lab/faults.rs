//! What can be done to the owner of an address, and how it is repaired.

use clap::ValueEnum;
use nix::sys::signal::Signal;

use super::LabError;
use super::cluster::Cluster;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FaultKind {
    /// The node's process is killed; its kernel still closes its connections
    Process,
    /// The node's cable is cut, then all its processes are killed: nothing is heard of it again
    Node,
    /// The node's cable is cut, and mended later
    Cable,
    /// The node is told to give its addresses up
    Drain,
    /// The node's process stands still, and goes on later: its kernel still takes connections
    Pause,
    /// The network falls into two parts, each with nodes, a client and a way to the applications, and grows together again
    Partition,
    /// Each node in turn is stopped in an orderly way and started again, as for an upgrade
    Rolling,
}

impl FaultKind {
    /// What operators do on purpose.
    pub(super) const PLANNED: [Self; 2] = [Self::Drain, Self::Rolling];

    /// As options, events and the summary name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Node => "node",
            Self::Cable => "cable",
            Self::Drain => "drain",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::Rolling => "rolling",
        }
    }

    /// What is done to `node`, for a person.
    pub(super) fn deed(self, node: &str) -> String {
        match self {
            Self::Process => format!("the process of {node} is killed"),
            Self::Node => format!("{node} loses its power"),
            Self::Cable => format!("the cable of {node} is cut"),
            Self::Drain => format!("{node} is drained"),
            Self::Pause => format!("the process of {node} stands still"),
            Self::Partition => format!("the network falls apart: {node}"),
            Self::Rolling => format!("{node} are restarted one after the other"),
        }
    }

    /// How that is repaired, for a person.
    pub(super) fn remedy(self, node: &str) -> String {
        match self {
            Self::Process => format!("the process of {node} is started again"),
            Self::Node => format!("{node} gets its power back"),
            Self::Cable => format!("the cable of {node} is mended"),
            Self::Drain => format!("{node} is given back to the cluster"),
            Self::Pause => format!("the process of {node} goes on"),
            Self::Partition => format!("the network is whole again: {node}"),
            Self::Rolling => format!("{node} have all been restarted"),
        }
    }

    /// Does it; of a rolling restart the first half, to one node.
    pub(super) fn make(self, cluster: &mut Cluster, node: &str) -> Result<(), LabError> {
        match self {
            Self::Process => cluster.kill(node),
            Self::Node => cluster.lose_power(node),
            Self::Cable => cluster.cut(node),
            Self::Drain => cluster.tell(node, Signal::SIGUSR1),
            Self::Pause => cluster.signal(node, Signal::SIGSTOP),
            Self::Partition => cluster.set_partition(true),
            Self::Rolling => cluster.terminate(node),
        }
    }

    /// Undoes it; of a rolling restart the second half. Whether the node's process must be started again.
    pub(super) fn repair(self, cluster: &mut Cluster, node: &str) -> Result<bool, LabError> {
        match self {
            Self::Process | Self::Rolling => Ok(true),
            Self::Node => cluster.restore(node).map(|()| true),
            Self::Cable => cluster.restore(node).map(|()| false),
            Self::Drain => cluster.tell(node, Signal::SIGUSR2).map(|()| false),
            Self::Pause => cluster.signal(node, Signal::SIGCONT).map(|()| false),
            Self::Partition => cluster.set_partition(false).map(|()| false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_named_as_its_option() {
        for kind in FaultKind::value_variants() {
            let option = kind.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(option.as_deref(), Some(kind.name()));
            assert!(kind.deed("n7").contains("n7") && kind.remedy("n7").contains("n7"));
        }
    }
}
