//! What the node tells about itself, as lines for a person or as JSON lines.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::elect::Term;
use lbcore::id::{NodeName, OwnerKey};
use serde_json::{Value, json};

/// Something that happened on this node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Everything runs.
    Ready,
    /// The cluster's live nodes, as this one sees them.
    Members(BTreeSet<NodeName>),
    /// An address has another owner; `None` if it has none.
    Owner {
        /// The address.
        address: IpAddr,
        /// Its owner and the term.
        owner: Option<(NodeName, Term)>,
    },
    /// A service or gateway has these addresses now.
    Allocated {
        /// Whose.
        owner: OwnerKey,
        /// The addresses; none if they were taken back.
        addresses: Vec<IpAddr>,
    },
    /// This node tells the network of an address.
    Announced {
        /// The address.
        address: IpAddr,
        /// By which announcer: `l2` or `bgp`.
        by: &'static str,
        /// The interfaces or peers; none if it says nothing any more.
        to: Vec<Arc<str>>,
    },
    /// Something is not as wished.
    Condition {
        /// What it is about: a service, an announcer, a file.
        about: String,
        /// What.
        condition: Condition,
    },
    /// The condition of this kind no longer holds.
    Cleared {
        /// What it was about.
        about: String,
        /// Its reason.
        reason: String,
    },
    /// A document has a problem, with its place and the fix.
    Problem(String),
    /// Something worth knowing about the documents.
    Notice(String),
    /// The node is fit to serve, or why not.
    Readiness(Result<(), String>),
    /// The node gives its roles away, or takes part again.
    Draining(bool),
    /// The node stops.
    Stopping,
    /// It stopped, and took back what it did to this machine.
    Stopped,
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct Teller {
    node: NodeName,
    json: bool,
}

impl Teller {
    /// Tells in the name of `node`.
    pub fn new(node: NodeName, json: bool) -> Self {
        Self { node, json }
    }

    /// Tells `event`. A reader that went away is no reason to stop.
    pub fn tell(&self, event: &Event) {
        let line = if self.json {
            self.as_json(event).to_string()
        } else {
            format!("{}: {}", self.node, text(event))
        };
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    fn as_json(&self, event: &Event) -> Value {
        let mut value = match event {
            Event::Ready => json!({"event": "ready"}),
            Event::Members(members) => json!({"event": "members", "members": texts(members)}),
            Event::Owner { address, owner } => json!({
                "event": "owner",
                "address": address,
                "owner": owner.as_ref().map(|(node, _)| node.as_str()),
                "term": owner.as_ref().map(|(_, term)| term.0),
            }),
            Event::Allocated { owner, addresses } => {
                json!({"event": "allocated", "owner": owner.to_string(), "addresses": addresses})
            }
            Event::Announced { address, by, to } => {
                json!({"event": "announced", "address": address, "by": by, "to": texts(to)})
            }
            Event::Condition { about, condition } => json!({
                "event": "condition",
                "about": about,
                "type": condition.kind,
                "status": condition.status.to_string(),
                "reason": condition.reason,
                "message": condition.message,
            }),
            Event::Cleared { about, reason } => json!({"event": "cleared", "about": about, "reason": reason}),
            Event::Problem(message) => json!({"event": "problem", "message": message}),
            Event::Notice(message) => json!({"event": "notice", "message": message}),
            Event::Readiness(Ok(())) => json!({"event": "readiness", "ready": true}),
            Event::Readiness(Err(why)) => json!({"event": "readiness", "ready": false, "reason": why}),
            Event::Draining(draining) => json!({"event": "draining", "draining": draining}),
            Event::Stopping => json!({"event": "stopping"}),
            Event::Stopped => json!({"event": "stopped"}),
        };
        value["node"] = json!(self.node.as_str());
        value
    }
}

fn text(event: &Event) -> String {
    match event {
        Event::Ready => "ready".to_owned(),
        Event::Members(members) => format!("members: {}", texts(members).join(", ")),
        Event::Owner { address, owner: Some((node, term)) } => {
            format!("{address} is owned by {node} ({term})")
        }
        Event::Owner { address, owner: None } => format!("{address} has no owner"),
        Event::Allocated { owner, addresses } if addresses.is_empty() => format!("{owner} has no address"),
        Event::Allocated { owner, addresses } => format!("{owner} has {}", texts(addresses).join(", ")),
        Event::Announced { address, by, to } if to.is_empty() => {
            format!("{address} is not announced by {by} any more")
        }
        Event::Announced { address, by, to } => {
            format!("{address} is announced by {by} to {}", to.join(", "))
        }
        Event::Condition { about, condition } => format!("{about}: {condition}"),
        Event::Cleared { about, reason } => format!("{about}: this is over: {reason}"),
        Event::Problem(message) => format!("problem: {message}"),
        Event::Notice(message) => format!("notice: {message}"),
        Event::Readiness(Ok(())) => "fit to serve".to_owned(),
        Event::Readiness(Err(why)) => format!("not fit to serve: {why}"),
        Event::Draining(true) => "draining".to_owned(),
        Event::Draining(false) => "takes part again".to_owned(),
        Event::Stopping => "stopping".to_owned(),
        Event::Stopped => {
            "stopped: nothing is announced, and what this process changed on this machine is put back"
                .to_owned()
        }
    }
}

fn texts<T: Display>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_a_person_and_one_for_a_program() {
        let event =
            Event::Owner { address: "192.0.2.200".parse().unwrap(), owner: Some(("n2".into(), Term(3))) };
        assert_eq!(text(&event), "192.0.2.200 is owned by n2 (term 3)");
        assert_eq!(
            Teller::new("n1".into(), true).as_json(&event),
            json!({"node": "n1", "event": "owner", "address": "192.0.2.200", "owner": "n2", "term": 3})
        );
    }
}
