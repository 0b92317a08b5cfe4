#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod balance;
pub mod compile;
pub mod filter;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod model;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod rule;
pub mod table;
