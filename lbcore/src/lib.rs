#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod addr;
pub mod allocator;
pub mod announce;
pub mod condition;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod elect;
pub mod id;
pub mod labels;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod manual;
pub mod plan;
pub mod route;
pub mod spread;
pub mod time;
