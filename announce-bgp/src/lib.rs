#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod config;
#[cfg(feature = "tokio")]
mod driver;
pub mod machine;
#[cfg(feature = "manifest")]
#[cfg_attr(docsrs, doc(cfg(feature = "manifest")))]
pub mod manifest;
#[cfg(feature = "tokio")]
mod transport;
pub mod wire;

pub use config::{BgpConfig, BuildError, PORT, PeerConfig, RemoteAs};
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use driver::{BgpAnnouncer, Driver, DriverError};
