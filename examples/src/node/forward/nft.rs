//! Forwarding by the kernel: one nftables table of destination NAT, replaced in one transaction.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::conntrack::{self, State, Tracked};
use super::{Forwarding, Frontend};
use crate::node::delivery::{DeliveryError, Sysctls};
use lbcore::allocator::Protocol;

/// The table that is ours alone.
const TABLE: &str = "lbcore_node";
/// Marks connections that we redirected, so that only those get this node's source address.
const MARK: u32 = 0x6c62_0000;

/// Why the kernel cannot forward.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// The program is missing.
    #[error("cannot run nft: install nftables")]
    Missing(#[source] io::Error),
    /// The rules were not taken.
    #[error("nft refuses the rules: {0}")]
    Refused(String),
    /// The kernel does not tell which connections it redirects.
    #[error("the kernel does not tell which connections it redirects (CONFIG_NF_CT_NETLINK)")]
    Untold(#[source] io::Error),
    /// Forwarding is off and stays off.
    #[error(transparent)]
    Sysctl(#[from] DeliveryError),
}

/// The kernel's rules for plain services.
#[derive(Debug)]
pub struct Nft {
    sysctls: Sysctls,
    applied: Forwarding,
}

impl Nft {
    /// Takes an empty table, to learn whether the kernel lets us.
    ///
    /// # Errors
    /// `nft` is missing, or is refused.
    pub async fn new() -> Result<Self, NftError> {
        run(&ruleset(&Forwarding::new())).await?;
        Ok(Self { sysctls: Sysctls::default(), applied: Forwarding::new() })
    }

    /// Replaces the rules in one transaction; connections that are known to the kernel go on.
    ///
    /// # Errors
    /// The rules are refused; those before stay in force.
    pub async fn apply(&mut self, wanted: &Forwarding) -> Result<(), NftError> {
        if *wanted == self.applied {
            return Ok(());
        }
        if wanted.keys().any(|frontend| frontend.address.is_ipv4()) {
            self.sysctls.set("net.ipv4.ip_forward", "1")?;
        }
        if wanted.keys().any(|frontend| frontend.address.is_ipv6()) {
            self.sysctls.forward_ipv6()?;
        }
        run(&ruleset(wanted)).await?;
        self.applied = wanted.clone();
        Ok(())
    }

    /// How many TCP connections are redirected now; `None` if this kernel does not tell.
    pub fn open(&self) -> Option<usize> {
        if self.applied.is_empty() {
            return Some(0);
        }
        let connections = redirected().ok()?;
        Some(connections.iter().filter(|connection| connection.state == State::Established).count())
    }

    /// Removes the table and puts the settings back.
    pub async fn undo(mut self) {
        if let Err(error) = run(&without_table()).await {
            eprintln!("{error}");
        }
        self.sysctls.restore();
    }
}

fn without_table() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Removes what a process that was killed left behind. Where `nft` cannot, there is nothing.
pub(in crate::node) async fn remove_leftover() {
    let _ = run(&without_table()).await;
}

/// The TCP connections that this machine has redirected.
///
/// # Errors
/// As of [`conntrack::marked`].
pub(in crate::node) fn redirected() -> io::Result<Vec<Tracked>> {
    conntrack::marked(MARK)
}

/// Has `nft` take these rules, all or none.
pub(in crate::node) async fn run(rules: &str) -> Result<(), NftError> {
    // Ordinary users have it out of their path.
    let program = crate::netns::locate("nft").unwrap_or_else(|| "nft".into());
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).await.map_err(|error| NftError::Refused(error.to_string()))?;
    }
    let output = child.wait_with_output().await.map_err(|error| NftError::Refused(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(said.lines().next().unwrap_or("no reason given").to_owned()))
}

/// The whole table as text, made anew: `nft` applies it in one transaction.
fn ruleset(wanted: &Forwarding) -> String {
    let mut rules = String::new();
    for (frontend, endpoints) in wanted {
        if let Some(rule) = rule(frontend, endpoints) {
            rules.push_str("    ");
            rules.push_str(&rule);
            rules.push('\n');
        }
    }
    format!(
        "table inet {TABLE}\n\
         delete table inet {TABLE}\n\
         table inet {TABLE} {{\n\
         \x20 chain services {{\n{rules}  }}\n\
         \x20 chain prerouting {{\n\
         \x20   type nat hook prerouting priority dstnat; policy accept;\n\
         \x20   jump services\n\
         \x20 }}\n\
         \x20 chain output {{\n\
         \x20   type nat hook output priority -100; policy accept;\n\
         \x20   jump services\n\
         \x20 }}\n\
         \x20 chain postrouting {{\n\
         \x20   type nat hook postrouting priority srcnat; policy accept;\n\
         \x20   ct mark {MARK:#x} masquerade\n\
         \x20 }}\n\
         }}\n"
    )
}

fn rule(frontend: &Frontend, endpoints: &[SocketAddr]) -> Option<String> {
    let family = if frontend.address.is_ipv4() { "ip" } else { "ip6" };
    let protocol = match frontend.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        _ => return None,
    };
    if endpoints.is_empty() {
        return None;
    }
    let mut rule = format!(
        "{family} daddr {} {protocol} dport {} ct mark set {MARK:#x} dnat {family} to ",
        frontend.address, frontend.port
    );
    if let [only] = endpoints {
        let _ = write!(rule, "{only}");
    } else {
        let _ = write!(rule, "numgen inc mod {} map {{ ", endpoints.len());
        for (index, endpoint) in endpoints.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(rule, "{comma}{index} : {} . {}", endpoint.ip(), endpoint.port());
        }
        rule.push_str(" }");
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(address: &str, protocol: Protocol, port: u16) -> Frontend {
        Frontend { address: address.parse().unwrap(), protocol, port }
    }

    #[test]
    fn one_rule_a_frontend_that_has_endpoints() {
        let wanted = Forwarding::from([
            (
                frontend("192.0.2.200", Protocol::Tcp, 80),
                vec!["10.0.0.1:8080".parse().unwrap(), "10.0.0.2:8080".parse().unwrap()],
            ),
            (frontend("192.0.2.200", Protocol::Udp, 53), vec!["10.0.0.3:5353".parse().unwrap()]),
            (frontend("192.0.2.201", Protocol::Tcp, 81), vec![]),
            (frontend("fd00::1", Protocol::Tcp, 80), vec!["[fd00::2]:8080".parse().unwrap()]),
        ]);
        let rules: Vec<_> = wanted.iter().filter_map(|(frontend, ends)| rule(frontend, ends)).collect();
        assert_eq!(
            rules,
            [
                "ip daddr 192.0.2.200 tcp dport 80 ct mark set 0x6c620000 dnat ip to numgen inc mod 2 map \
                 { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8080 }",
                "ip daddr 192.0.2.200 udp dport 53 ct mark set 0x6c620000 dnat ip to 10.0.0.3:5353",
                "ip6 daddr fd00::1 tcp dport 80 ct mark set 0x6c620000 dnat ip6 to [fd00::2]:8080",
            ]
        );
        assert!(rules.iter().all(|rule| ruleset(&wanted).contains(rule.as_str())));
    }
}
