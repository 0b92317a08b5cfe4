//! Records in etcd, 3.4 or later, by the JSON form of its v3 API.
//!
//! That form is served by every etcd beside gRPC, and needs nothing but HTTP/1.1. A gRPC client would have to be
//! generated from protobuf definitions by `protoc`, a program that a machine with a Rust toolchain does not have.
//!
//! ```no_run
//! use std::sync::Arc;
//! use elect_lease::etcd::{self, EtcdStore};
//! use elect_lease::{Config, LeaseElector};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoints = ["http://192.0.2.11:2379", "http://192.0.2.12:2379", "http://192.0.2.13:2379"];
//! let store = EtcdStore::new(etcd::Config::new(endpoints)?);
//! let (elector, driver) = LeaseElector::new(Config::new("n1"), Arc::new(store))?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//! - Reads are linearizable (never `serializable`), and a swap is one transaction: it compares the record's
//!   `mod_revision` and puts. etcd's leases, time-outs and clock play no part.
//! - Revisions never come back, even if a record is deleted and made anew: `mod_revision` is the cluster's own counter.
//!   **A cluster that is restored from a backup counts from the backup on**: stop all electors before you restore one,
//!   and start them a lease later. Those that still run refuse it, and any other cluster behind the same endpoints.
//! - Nothing is tried again: a call fails when the connection breaks after the request was sent. The next call goes to the next
//!   endpoint, also after one that was dropped because no answer came. Endpoints that cannot be connected to are passed over
//!   in the same call, since nothing was sent to them.
//! - Answers are bounded: one of more than 16 MiB is an error.
//!
//! # What it wants
//! etcd keeps all revisions until it is told to compact them, and takes no writes when they fill its quota. Start it with
//! `--auto-compaction-mode=periodic --auto-compaction-retention=1h`. Only the latest revision is ever read.

mod api;
mod client;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lbcore::elect::lease::Revision;

use self::client::Client;
use crate::store::{Fetched, LeaseStore, StoreError, Versioned};

/// Where etcd is, and as whom to speak to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The members of the cluster, at least one; tried in turn.
    pub endpoints: Vec<Endpoint>,
    /// The user to authenticate as, if the cluster asks for one.
    pub user: Option<User>,
    /// How long connecting to one endpoint may take before the next is tried: a fraction of the lease's
    /// [`timeout`](lbcore::elect::lease::Timing::timeout), or a call ends before it comes to the next.
    pub connect_timeout: Duration,
}

impl Default for Config {
    /// No endpoint yet: add some, or every call fails.
    fn default() -> Self {
        Self { endpoints: Vec::new(), user: None, connect_timeout: Duration::from_millis(200) }
    }
}

impl Config {
    /// These endpoints, without authentication.
    ///
    /// # Errors
    /// [`ConfigError`] names the endpoint that is none, or says that there is none at all.
    pub fn new<'e>(endpoints: impl IntoIterator<Item = &'e str>) -> Result<Self, ConfigError> {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        Ok(Self { endpoints, ..Self::default() })
    }

    /// The same, authenticated as `user`.
    #[must_use]
    pub fn with_user(self, user: User) -> Self {
        Self { user: Some(user), ..self }
    }
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password. Goes over the wire as it is: without TLS that wire must be trusted.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A member of an etcd cluster, as `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port, as a `Host` header has them.
    authority: String,
}

impl FromStr for Endpoint {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why| Err(ConfigError::Endpoint { endpoint: text.to_owned(), why });
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("write it as http://HOST:PORT");
        };
        match scheme {
            "http" => {}
            "https" => {
                return wrong(
                    "TLS is not supported: take http://, through a tunnel where the network is not trusted",
                );
            }
            _ => return wrong("write it as http://HOST:PORT"),
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let Some((host, port)) = authority.rsplit_once(':') else {
            return wrong("its port is missing: etcd's own is 2379");
        };
        let is_host = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte))
            && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
        if !is_host {
            return wrong("it has no host; write an IPv6 address in brackets");
        }
        if port.parse::<u16>().is_ok_and(|port| port > 0) {
            Ok(Self { authority: authority.to_owned() })
        } else {
            wrong("its port is no number from 1 to 65535")
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// Why a [`Config`] is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no endpoint.
    #[error("etcd needs an endpoint, such as http://192.0.2.11:2379")]
    NoEndpoint,
    /// One is no endpoint.
    #[error("{endpoint:?} is no endpoint of etcd: {why}")]
    Endpoint {
        /// As it was written.
        endpoint: String,
        /// What is wrong, and the fix.
        why: &'static str,
    },
}

/// A [`LeaseStore`] in etcd. See the [module](self).
#[derive(Debug)]
pub struct EtcdStore {
    client: Client,
}

impl EtcdStore {
    /// A store that connects when it is first asked something.
    pub fn new(config: Config) -> Self {
        Self { client: Client::new(config) }
    }
}

#[async_trait]
impl LeaseStore for EtcdStore {
    async fn get(&self, key: &str, unless: Option<&Revision>) -> Result<Fetched, StoreError> {
        let answer: api::RangeAnswer = self.client.call("/v3/kv/range", &api::Range::of(key)).await?;
        let Some((_, found)) = answer.records()?.into_iter().next() else { return Ok(Fetched::Absent) };
        Ok(if Some(&found.revision) == unless { Fetched::Unchanged } else { Fetched::Found(found) })
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>, StoreError> {
        let answer: api::RangeAnswer = self.client.call("/v3/kv/range", &api::Range::under(prefix)).await?;
        Ok(answer.records()?.into_iter().collect())
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        let swap = api::Txn::swap(key, expected, &value)?;
        let answer: api::TxnAnswer = self.client.call("/v3/kv/txn", &swap).await?;
        if answer.succeeded { Ok(answer.header.revision()) } else { Err(StoreError::Conflict) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_what_is_none_is_named_with_the_fix() {
        for good in ["http://192.0.2.1:2379", "http://etcd-0.etcd:2379/", "http://[fd00::1]:2379"] {
            let endpoint: Endpoint = good.parse().unwrap();
            assert_eq!(endpoint.to_string(), good.trim_end_matches('/'));
        }
        for (bad, why) in [
            ("192.0.2.1:2379", "write it as http://HOST:PORT"),
            ("ftp://192.0.2.1:2379", "write it as http://HOST:PORT"),
            ("https://192.0.2.1:2379", "TLS is not supported"),
            ("http://192.0.2.1", "its port is missing"),
            ("http://:2379", "it has no host"),
            ("http://fd00::1:2379", "in brackets"),
            ("http://a b:2379", "it has no host"),
            ("http://a:0", "no number from 1"),
            ("http://a:70000", "no number from 1"),
            ("http://a:2379/v3", "no number from 1"),
        ] {
            let error = bad.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(bad), "{error}");
        }
        assert_eq!(Config::new([]).unwrap_err(), ConfigError::NoEndpoint);
        let user = User { name: "lb".to_owned(), password: "secret".to_owned() };
        assert!(!format!("{user:?}").contains("secret"));
    }
}
