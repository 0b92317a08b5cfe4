//! BGP without I/O: what to say to which peer, and when.
//!
//! | | |
//! | --- | --- |
//! | `fsm` | the transitions of RFC 4271 §8 as a table: state × event → state and actions |
//! | `session` | one connection: messages in, messages out, timers |
//! | `peer` | one neighbour: when to dial, which of two connections stays, what it was told |
//! | `adj_rib_out` | what one neighbour should be told and what it was told; the smallest difference, packed |
//! | `table` | all routes of the desired set, merged by prefix |
//! | [`Speaker`] | the whole: desired set, leases, peers, status |
//!
//! Only [`Speaker`] is public. Time and randomness come in as arguments, bytes and events go out when asked for.

mod adj_rib_out;
mod fsm;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod peer;
mod session;
mod speaker;
mod table;
#[cfg(test)]
mod tests;

pub use fsm::State;
pub use peer::PeerStatus;
pub use session::Counters;
pub use speaker::{ConnectionId, Event, Input, Refused, Speaker};
