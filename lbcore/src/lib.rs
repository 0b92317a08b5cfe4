#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Without it the links of the other crates are raw brackets wherever this one's pages are not there yet.
#![doc(html_root_url = "https://docs.rs/lbcore/latest")]

pub mod addr;
pub mod allocator;
pub mod announce;
pub mod condition;
// The traits' pages speak of it, whoever makes them. (Its examples are not to be run without the feature.)
#[cfg(any(feature = "conformance", all(doc, not(doctest))))]
#[cfg_attr(docsrs, doc(cfg(feature = "conformance")))]
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
