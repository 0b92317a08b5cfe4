//! The agent that runs on every node: manifests in; elects, announces, makes addresses deliverable, serves.

pub mod args;
pub mod delivery;
pub mod events;
pub mod forward;
pub mod readiness;
pub mod services;
