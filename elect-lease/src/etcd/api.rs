//! Requests and answers, as far as they are used. Keys and values are base64, and 64-bit numbers are strings; what is
//! zero, empty or false is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lbcore::elect::lease::Revision;
use serde::{Deserialize, Serialize};

use crate::store::{StoreError, Versioned};

/// Bytes as they stand in JSON.
fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

#[derive(Debug, Serialize)]
pub(super) struct Range {
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    range_end: String,
}

impl Range {
    /// One record.
    pub(super) fn of(key: &str) -> Self {
        Self { key: encode(key), range_end: String::new() }
    }

    /// All records whose keys begin with `prefix`.
    pub(super) fn under(prefix: &str) -> Self {
        // The first key after them: the last byte that can be raised is. No text has the byte 0xff.
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        // For etcd a single zero means: up to the end.
        let (key, end) = if end.is_empty() { (vec![0], vec![0]) } else { (prefix.as_bytes().to_vec(), end) };
        Self { key: encode(key), range_end: encode(end) }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Txn {
    compare: [Compare; 1],
    success: [Operation; 1],
}

#[derive(Debug, Serialize)]
struct Compare {
    key: String,
    target: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Operation {
    request_put: Put,
}

#[derive(Debug, Serialize)]
struct Put {
    key: String,
    value: String,
}

impl Txn {
    /// Puts `value` if the record is at `expected`; `None`: if there is no record.
    pub(super) fn swap(key: &str, expected: Option<&Revision>, value: &[u8]) -> Result<Self, StoreError> {
        let revision = expected.map(|revision| revision.as_str().parse::<u64>()).transpose();
        let revision =
            revision.map_err(|_| StoreError::permanent("the expected revision is not one of etcd"))?;
        let compare = Compare {
            key: encode(key),
            target: if revision.is_some() { "MOD" } else { "CREATE" },
            result: "EQUAL",
            mod_revision: revision,
            create_revision: if revision.is_some() { None } else { Some(0) },
        };
        let put = Put { key: encode(key), value: encode(value) };
        Ok(Self { compare: [compare], success: [Operation { request_put: put }] })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Authenticate<'u> {
    pub(super) name: &'u str,
    pub(super) password: &'u str,
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub(super) token: String,
}

/// What every answer begins with.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) cluster_id: String,
    #[serde(default)]
    revision: String,
}

impl Header {
    /// The revision of the store after the request: that of what it wrote.
    pub(super) fn revision(&self) -> Revision {
        Revision::new(self.revision.as_str())
    }

    /// The same as a number.
    pub(super) fn number(&self) -> Result<u64, StoreError> {
        self.revision.parse().map_err(|_| malformed("its header has no revision"))
    }
}

/// An answer with the header that tells which cluster gave it.
pub(super) trait Answer: for<'de> Deserialize<'de> {
    fn header(&self) -> &Header;
}

#[derive(Debug, Deserialize)]
pub(super) struct RangeAnswer {
    header: Header,
    #[serde(default)]
    kvs: Vec<Record>,
}

impl Answer for RangeAnswer {
    fn header(&self) -> &Header {
        &self.header
    }
}

#[derive(Debug, Deserialize)]
struct Record {
    key: String,
    mod_revision: String,
    #[serde(default)]
    value: String,
}

impl RangeAnswer {
    /// Each record with its key.
    pub(super) fn records(self) -> Result<Vec<(String, Versioned)>, StoreError> {
        let read = |record: Record| {
            let key = STANDARD.decode(&record.key).ok().and_then(|key| String::from_utf8(key).ok());
            let value = STANDARD.decode(&record.value).ok();
            let (key, value) = key.zip(value).ok_or_else(|| malformed("a record is not base64"))?;
            let revision = Revision::new(record.mod_revision);
            Ok((key, Versioned { revision, value: Bytes::from(value) }))
        };
        self.kvs.into_iter().map(read).collect()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
}

impl Answer for TxnAnswer {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// An error, with the code that gRPC has for it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub(super) code: u32,
    /// Not every version has both, or with the same text.
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
}

impl Failure {
    const INVALID_ARGUMENT: u32 = 3;
    const PERMISSION_DENIED: u32 = 7;
    const UNIMPLEMENTED: u32 = 12;
    pub(super) const UNAUTHENTICATED: u32 = 16;

    /// Reads the body of an answer that is no success.
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        let mut failure: Self = serde_json::from_slice(body).unwrap_or_default();
        if failure.message.is_empty() {
            failure.message = std::mem::take(&mut failure.error);
        }
        if failure.message.is_empty() {
            failure = Self { message: format!("the answer has the HTTP status {status}"), ..Self::default() };
        }
        failure
    }

    /// Whether the token is not, or no longer, one.
    pub(super) fn asks_for_token(&self) -> bool {
        self.code == Self::UNAUTHENTICATED
            || (self.code == Self::INVALID_ARGUMENT && self.message.contains("user name is empty"))
    }

    pub(super) fn into_error(self) -> StoreError {
        let Self { code, message, .. } = self;
        let message = format!("etcd says: {message}");
        match code {
            Self::INVALID_ARGUMENT
            | Self::PERMISSION_DENIED
            | Self::UNIMPLEMENTED
            | Self::UNAUTHENTICATED => StoreError::permanent(message),
            _ => StoreError::unavailable(message),
        }
    }
}

pub(super) fn malformed(what: &'static str) -> StoreError {
    StoreError::unavailable(format!("the answer is not etcd's: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Answers of etcd 3.4.23.
    const ONE: &str = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"3","raft_term":"2"},"kvs":[{"key":"bGJjb3JlL24x","create_revision":"2","mod_revision":"3","version":"2","value":"aGVsbG8="}],"count":"1"}"#;
    const NONE: &str = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"3","raft_term":"2"}}"#;
    const SWAPPED: &str = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"4","raft_term":"2"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"4"}}}]}"#;

    #[test]
    fn answers_are_read() {
        let answer: RangeAnswer = serde_json::from_str(ONE).unwrap();
        assert_eq!(answer.header().cluster_id, "14841639068965178418");
        let records = answer.records().unwrap();
        let expected = Versioned { revision: Revision::from(3), value: Bytes::from_static(b"hello") };
        assert_eq!(records, [("lbcore/n1".to_owned(), expected)]);
        let answer: RangeAnswer = serde_json::from_str(NONE).unwrap();
        assert_eq!(answer.records().unwrap(), []);
        let answer: TxnAnswer = serde_json::from_str(SWAPPED).unwrap();
        assert!(answer.succeeded && answer.header.revision() == Revision::from(4));
        let answer: TxnAnswer = serde_json::from_str(NONE).unwrap();
        assert!(!answer.succeeded, "what is false is left out");
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_no_panic() {
        for cut in 0..ONE.len() {
            assert!(serde_json::from_str::<RangeAnswer>(&ONE[..cut]).is_err(), "cut to {cut}");
        }
        for damaged in [
            ONE.replace("bGJj", "b*Jj"),
            ONE.replace("aGVs", "a\u{e4}Vs"),
            ONE.replace("bGJjb3JlL24x", "/w=="),
        ] {
            let answer: RangeAnswer = serde_json::from_str(&damaged).unwrap();
            assert!(matches!(answer.records(), Err(StoreError::Unavailable(_))), "{damaged}");
        }
    }

    #[test]
    fn a_prefix_is_a_range_up_to_the_next_key() {
        let json = |range: &Range| serde_json::to_string(range).unwrap();
        assert_eq!(json(&Range::under("lbcore/")), r#"{"key":"bGJjb3JlLw==","range_end":"bGJjb3JlMA=="}"#);
        assert_eq!(json(&Range::under("")), r#"{"key":"AA==","range_end":"AA=="}"#);
        assert_eq!(json(&Range::of("a")), r#"{"key":"YQ=="}"#);
    }

    #[test]
    fn failures_are_told_apart() {
        for (body, permanent, wants_token) in [
            (
                r#"{"error":"etcdserver: invalid auth token","code":16,"message":"etcdserver: invalid auth token"}"#,
                true,
                true,
            ),
            (r#"{"error":"etcdserver: user name is empty","code":3}"#, true, true),
            (r#"{"error":"etcdserver: permission denied","code":7}"#, true, false),
            (r#"{"error":"etcdserver: request is too large","code":3}"#, true, false),
            (r#"{"error":"etcdserver: request timed out","code":14}"#, false, false),
            (r#"{"error":"etcdserver: mvcc: database space exceeded","code":8}"#, false, false),
            ("<html>Bad gateway</html>", false, false),
            ("", false, false),
        ] {
            let failure = Failure::parse(502, body.as_bytes());
            assert_eq!(failure.asks_for_token(), wants_token, "{body}");
            let error = failure.into_error();
            assert_eq!(matches!(error, StoreError::Permanent(_)), permanent, "{body}");
            let why = std::error::Error::source(&error).unwrap().to_string();
            assert!(why.contains("etcdserver: ") || why.contains("status 502"), "{why}");
        }
    }
}
