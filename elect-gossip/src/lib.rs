#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod config;
#[cfg(feature = "tokio")]
mod driver;
mod elector;
#[cfg(feature = "tokio")]
mod joins;
pub mod machine;
pub mod wire;

pub use config::{BuildError, ClusterKey, Config, KeyError, Keyring, MAX_NODE_NAME, Seed, SeedError, Timing};
#[cfg(feature = "tokio")]
pub use driver::{Driver, DriverError};
pub use elector::{Attachment, GossipElector};
#[cfg(feature = "tokio")]
pub use joins::{Resolve, SystemResolver};
