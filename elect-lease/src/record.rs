//! The records, as JSON that a person can read with the store's own tools.
//!
//! | key | value | written by |
//! | --- | --- | --- |
//! | `PREFIX/node/NODE` | [`NodeRecord`]: the node's lease | the node; whoever fences it |
//! | `PREFIX/bids/NODE` | [`BidsRecord`]: what the node is a candidate for | the node |
//! | `PREFIX/assignment` | [`Table`]: who owns what | everybody, under the rules of [`Table::next`](crate::table) |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use lbcore::elect::lease::{Holder, Record, State};
use lbcore::elect::{Bid, Term};
use lbcore::id::{InterfaceName, NodeName, Role};
use serde::{Deserialize, Serialize};

use crate::table::{Entry, Session, Table};

/// What a node's lease record says beside the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The number of the node's bids that are stored; zero if there are none yet.
    pub(crate) bids: u64,
    pub(crate) draining: bool,
    pub(crate) hardware: BTreeMap<InterfaceName, [u8; 6]>,
}

/// The lease of a node.
pub(crate) type NodeRecord = Record<Note>;

/// What a node is a candidate for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BidsRecord {
    /// The run of the process that bids.
    pub(crate) incarnation: u64,
    /// Raised with each change.
    pub(crate) number: u64,
    pub(crate) bids: BTreeMap<Role, Bid>,
}

/// A record that is not one of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("not a record of this kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has the version {0}; this program knows version {VERSION} only")]
    Version(u32),
    #[error("{0:?} is not a role")]
    Role(String),
    #[error("it is for the node {0:?}")]
    Node(String),
    #[error("{0:?} is not a hardware address")]
    Hardware(String),
    #[error("it names a session that it does not list")]
    Session,
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeDocument {
    version: u32,
    node: String,
    state: StateDocument,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    term: u64,
    beat: u64,
    duration_nanos: u64,
    bids: u64,
    draining: bool,
    hardware: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateDocument {
    New,
    Held,
    Free,
}

#[derive(Serialize, Deserialize)]
struct BidsDocument {
    version: u32,
    incarnation: u64,
    number: u64,
    bids: Vec<BidGroup>,
}

/// Most roles have the same bid.
#[derive(Serialize, Deserialize)]
struct BidGroup {
    preference: u32,
    weight: u32,
    eligible: bool,
    draining: bool,
    roles: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct TableDocument {
    version: u32,
    settled: bool,
    terms: u64,
    sessions: Vec<SessionDocument>,
    /// Role, index of the session, term.
    roles: Vec<(String, usize, u64)>,
}

#[derive(Serialize, Deserialize)]
struct SessionDocument {
    node: String,
    incarnation: u64,
    term: u64,
}

fn encode<T: Serialize>(document: &T) -> Bytes {
    // Fails only for maps whose keys are not strings, and there are none.
    serde_json::to_vec(document).map(Bytes::from).unwrap_or_default()
}

fn version(found: u32) -> Result<(), RecordError> {
    if found == VERSION { Ok(()) } else { Err(RecordError::Version(found)) }
}

fn role_text(role: &Role) -> Option<String> {
    match role {
        Role::Address(address) => Some(format!("ip:{address}")),
        Role::Named(name) => Some(format!("name:{name}")),
        // A kind that this version does not know is not elected.
        _ => None,
    }
}

fn role(text: &str) -> Result<Role, RecordError> {
    let known = match text.split_once(':') {
        Some(("ip", address)) => address.parse::<IpAddr>().ok().map(Role::from),
        Some(("name", name)) => Some(Role::named(name)),
        _ => None,
    };
    known.ok_or_else(|| RecordError::Role(text.to_owned()))
}

fn hardware_text(address: &[u8; 6]) -> String {
    address.map(|octet| format!("{octet:02x}")).join(":")
}

fn hardware(text: &str) -> Result<[u8; 6], RecordError> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| RecordError::Hardware(text.to_owned()))
}

pub(crate) fn encode_node(node: &NodeName, record: &NodeRecord) -> Bytes {
    let (state, incarnation) = match &record.state {
        State::New => (StateDocument::New, None),
        State::Held(holder) => (StateDocument::Held, Some(holder.incarnation)),
        State::Free => (StateDocument::Free, None),
    };
    let hardware = record.note.hardware.iter();
    encode(&NodeDocument {
        version: VERSION,
        node: node.as_str().to_owned(),
        state,
        incarnation,
        term: record.term.0,
        beat: record.beat,
        duration_nanos: u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX),
        bids: record.note.bids,
        draining: record.note.draining,
        hardware: hardware.map(|(name, address)| (name.to_string(), hardware_text(address))).collect(),
    })
}

pub(crate) fn decode_node(node: &NodeName, value: &[u8]) -> Result<NodeRecord, RecordError> {
    let document: NodeDocument = serde_json::from_slice(value)?;
    version(document.version)?;
    if document.node != node.as_str() {
        return Err(RecordError::Node(document.node));
    }
    let state = match document.state {
        StateDocument::New => State::New,
        StateDocument::Held => {
            State::Held(Holder::new(node.clone(), document.incarnation.unwrap_or_default()))
        }
        StateDocument::Free => State::Free,
    };
    let hardware: Result<_, RecordError> = document
        .hardware
        .into_iter()
        .map(|(name, address)| Ok((InterfaceName::from(name), hardware(&address)?)))
        .collect();
    Ok(Record::new(
        state,
        Term(document.term),
        document.beat,
        Duration::from_nanos(document.duration_nanos),
        Note { bids: document.bids, draining: document.draining, hardware: hardware? },
    ))
}

pub(crate) fn encode_bids(record: &BidsRecord) -> Bytes {
    let mut groups: BTreeMap<Bid, Vec<String>> = BTreeMap::new();
    for (role, bid) in &record.bids {
        groups.entry(*bid).or_default().extend(role_text(role));
    }
    let groups = groups.into_iter().map(|(bid, roles)| BidGroup {
        preference: bid.preference,
        weight: bid.weight,
        eligible: bid.eligible,
        draining: bid.draining,
        roles,
    });
    encode(&BidsDocument {
        version: VERSION,
        incarnation: record.incarnation,
        number: record.number,
        bids: groups.collect(),
    })
}

pub(crate) fn decode_bids(value: &[u8]) -> Result<BidsRecord, RecordError> {
    let document: BidsDocument = serde_json::from_slice(value)?;
    version(document.version)?;
    let mut bids = BTreeMap::new();
    for group in document.bids {
        let mut bid = Bid::preferring(group.preference);
        (bid.weight, bid.eligible, bid.draining) = (group.weight, group.eligible, group.draining);
        for text in group.roles {
            bids.insert(role(&text)?, bid);
        }
    }
    Ok(BidsRecord { incarnation: document.incarnation, number: document.number, bids })
}

pub(crate) fn encode_table(table: &Table) -> Bytes {
    let mut numbers: BTreeMap<&Session, usize> = BTreeMap::new();
    for entry in table.entries.values() {
        let next = numbers.len();
        numbers.entry(&entry.session).or_insert(next);
    }
    let mut sessions: Vec<_> = numbers.iter().map(|(session, number)| (*number, *session)).collect();
    sessions.sort_unstable();
    let sessions = sessions.into_iter().map(|(_, session)| SessionDocument {
        node: session.holder.node.as_str().to_owned(),
        incarnation: session.holder.incarnation,
        term: session.term.0,
    });
    let roles = table
        .entries
        .iter()
        .filter_map(|(role, entry)| Some((role_text(role)?, *numbers.get(&entry.session)?, entry.term.0)));
    encode(&TableDocument {
        version: VERSION,
        settled: table.settled,
        terms: table.last_term.0,
        sessions: sessions.collect(),
        roles: roles.collect(),
    })
}

pub(crate) fn decode_table(value: &[u8]) -> Result<Table, RecordError> {
    let document: TableDocument = serde_json::from_slice(value)?;
    version(document.version)?;
    let sessions: Vec<Session> = document
        .sessions
        .into_iter()
        .map(|session| Session {
            holder: Holder::new(session.node.into(), session.incarnation),
            term: Term(session.term),
        })
        .collect();
    let mut table =
        Table { settled: document.settled, last_term: Term(document.terms), entries: BTreeMap::new() };
    for (text, session, term) in document.roles {
        let session = sessions.get(session).ok_or(RecordError::Session)?.clone();
        table.entries.insert(role(&text)?, Entry { session, term: Term(term) });
    }
    Ok(table)
}

/// What must hold for any bytes found in a store: each kind of record is refused, or comes back as it was. Used by the
/// property tests and by the fuzz target `lease_record`; not part of the API.
///
/// # Panics
/// If not.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    let told = |error: RecordError| assert!(!error.to_string().is_empty());
    let node = NodeName::from("n");
    match decode_node(&node, bytes) {
        Ok(record) => assert_eq!(decode_node(&node, &encode_node(&node, &record)).ok(), Some(record)),
        Err(error) => told(error),
    }
    match decode_bids(bytes) {
        Ok(record) => assert_eq!(decode_bids(&encode_bids(&record)).ok(), Some(record)),
        Err(error) => told(error),
    }
    match decode_table(bytes) {
        Ok(table) => assert_eq!(decode_table(&encode_table(&table)).ok(), Some(table)),
        Err(error) => told(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session(node: &str, incarnation: u64, term: u64) -> Session {
        Session { holder: Holder::new(node.into(), incarnation), term: Term(term) }
    }

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_node_record_reads_so() {
        let note = Note {
            bids: 3,
            draining: false,
            hardware: BTreeMap::from([("eth0".into(), [2, 0, 0, 0, 0xab, 1])]),
        };
        let state = State::Held(Holder::new("node \"1\"".into(), u64::MAX));
        let record = Record::new(state, Term(4), 17, Duration::from_secs(3), note);
        let node = NodeName::from("node \"1\"");
        let bytes = encode_node(&node, &record);
        assert_eq!(
            text(&bytes),
            r#"{"version":1,"node":"node \"1\"","state":"held","incarnation":18446744073709551615,"term":4,"beat":17,"durationNanos":3000000000,"bids":3,"draining":false,"hardware":{"eth0":"02:00:00:00:ab:01"}}"#
        );
        assert_eq!(decode_node(&node, &bytes).unwrap(), record);
        for state in [State::New, State::Free] {
            let mut record = record.clone();
            record.state = state;
            assert_eq!(decode_node(&node, &encode_node(&node, &record)).unwrap(), record);
        }
        assert!(matches!(decode_node(&"other".into(), &bytes), Err(RecordError::Node(_))));
    }

    #[test]
    fn bids_and_tables_read_so() {
        let roles = ["192.0.2.1", "2001:db8::1"].map(|ip| Role::Address(ip.parse().unwrap()));
        let writer = Role::named("status:writer");
        let bids = BidsRecord {
            incarnation: 5,
            number: 2,
            bids: [
                (roles[0].clone(), Bid::default()),
                (roles[1].clone(), Bid::default()),
                (writer.clone(), Bid::preferring(7).draining().ineligible()),
            ]
            .into(),
        };
        let bytes = encode_bids(&bids);
        assert_eq!(
            text(&bytes),
            r#"{"version":1,"incarnation":5,"number":2,"bids":[{"preference":0,"weight":1,"eligible":true,"draining":false,"roles":["ip:192.0.2.1","ip:2001:db8::1"]},{"preference":7,"weight":1,"eligible":false,"draining":true,"roles":["name:status:writer"]}]}"#
        );
        assert_eq!(decode_bids(&bytes).unwrap(), bids);

        let (b, a) = (session("b", 2, 9), session("a", 1, 1));
        let entry = |session: &Session, term| Entry { session: session.clone(), term: Term(term) };
        let table = Table {
            settled: true,
            last_term: Term(12),
            entries: [
                (roles[0].clone(), entry(&b, 3)),
                (roles[1].clone(), entry(&a, 12)),
                (writer, entry(&b, 4)),
            ]
            .into(),
        };
        let bytes = encode_table(&table);
        assert_eq!(
            text(&bytes),
            r#"{"version":1,"settled":true,"terms":12,"sessions":[{"node":"b","incarnation":2,"term":9},{"node":"a","incarnation":1,"term":1}],"roles":[["ip:192.0.2.1",0,3],["ip:2001:db8::1",1,12],["name:status:writer",0,4]]}"#
        );
        assert_eq!(decode_table(&bytes).unwrap(), table);
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        let node = NodeName::from("n");
        assert!(matches!(decode_node(&node, b""), Err(RecordError::Json(_))));
        assert!(matches!(decode_table(b"null"), Err(RecordError::Json(_))));
        let newer = r#"{"version":2,"settled":true,"terms":0,"sessions":[],"roles":[]}"#;
        assert!(matches!(decode_table(newer.as_bytes()), Err(RecordError::Version(2))));
        let dangling = r#"{"version":1,"settled":true,"terms":0,"sessions":[],"roles":[["ip:::1",0,1]]}"#;
        assert!(matches!(decode_table(dangling.as_bytes()), Err(RecordError::Session)));
        for bad in ["", "ip:", "ip:1.2.3", "x:1", "name"] {
            assert!(matches!(role(bad), Err(RecordError::Role(_))), "{bad}");
        }
        for bad in ["", "1:2:3:4:5", "1:2:3:4:5:6:7", "1:2:3:4:5:100", "zz:2:3:4:5:6"] {
            assert!(matches!(hardware(bad), Err(RecordError::Hardware(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            check(&bytes);
        }

        /// One character of a good record changed.
        #[test]
        fn so_do_records_that_are_almost_right(which in 0..3_usize, at: prop::sample::Index, value: u8) {
            let mut bytes = [
                br#"{"version":1,"node":"n","state":"held","incarnation":7,"term":4,"beat":17,"durationNanos":3,"bids":3,"draining":false,"hardware":{"eth0":"02:00:00:00:ab:01"}}"#.to_vec(),
                br#"{"version":1,"incarnation":5,"number":2,"bids":[{"preference":0,"weight":1,"eligible":true,"draining":false,"roles":["ip:192.0.2.1","name:x"]}]}"#.to_vec(),
                br#"{"version":1,"settled":true,"terms":12,"sessions":[{"node":"b","incarnation":2,"term":9}],"roles":[["ip:192.0.2.1",0,3],["ip:::1",0,3]]}"#.to_vec(),
            ][which].clone();
            check(&bytes);
            let at = at.index(bytes.len());
            bytes[at] = value;
            check(&bytes);
        }

        #[test]
        fn cut_records_are_refused(cut in 0.0..1.0_f64) {
            let table = Table { settled: true, last_term: Term(1), entries: BTreeMap::from([(
                Role::named("a"), Entry { session: session("n", 1, 1), term: Term(1) },
            )]) };
            let bytes = encode_table(&table);
            let length = (bytes.len() as f64 * cut) as usize;
            prop_assert!(decode_table(&bytes[..length]).is_err());
        }
    }
}
