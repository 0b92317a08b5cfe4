#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod addr;
pub mod allocator;
pub mod announce;
pub mod condition;

pub mod elect;
pub mod id;
pub mod labels;
#[cfg(feature = "manifest")]
pub mod manifest;

pub mod route;
pub mod spread;

pub mod time;
