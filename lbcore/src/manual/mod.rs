//! The manual: how to build on this crate.
//!
//! - [Write your own announcer](own_announcer)

#[doc = include_str!("own_announcer.md")]
pub mod own_announcer {}
