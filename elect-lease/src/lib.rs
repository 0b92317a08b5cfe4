#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "etcd")]
#[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
pub mod etcd;
mod grants;
pub mod machine;
#[cfg(feature = "tokio")]
pub mod memory;
mod record;
mod store;
mod table;

#[cfg(feature = "tokio")]
pub use driver::{BuildError, Config, Driver, LeaseElector, RunError};
#[cfg(feature = "tokio")]
pub use memory::MemoryStore;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use record::check as check_record;
pub use store::{Fetched, LeaseStore, StoreError, Versioned};
