//! From what is wanted to what each node does: pure functions over a [`World`].
//!
//! ```text
//! World ─► allocate ─► Allocations ─► candidacy ─► LeaderElector ─► Ownership ─► announce ─► Announcer
//!                           └──────────────────► outlook: who may announce what, or why nobody does
//! ```
//!
//! Nothing here reads a clock, a file or a random number; equal worlds give equal plans, byte for byte. What a
//! node may announce is decided in one place ([`verdict`]), which every function here asks, so that a candidacy,
//! an announcement and its explanation cannot disagree.
//!
//! ```
//! use lbcore::allocator::{Pool, Pools};
//! use lbcore::id::{NodeName, OwnerKey};
//! use lbcore::plan::{self, Advertisement, Demand, Node, World};
//!
//! let mut world = World::default();
//! world.pools = Pools::new([Pool::new("public", ["192.0.2.0/28".parse()?])]).unwrap();
//! world.advertisements.push(Advertisement::l2("all"));
//! world.nodes.insert("n1".into(), Node::default());
//! let owner = OwnerKey::service("default", "web");
//! world.demands.insert(owner.clone(), Demand::new(owner.clone()));
//!
//! let verdict = plan::verdict(&world, &world.demands[&owner], &"public".into(), &"n1".into());
//! assert!(verdict.l2.is_ok());
//! assert!(verdict.bgp.is_err(), "no BGPAdvertisement selects the pool");
//! # Ok::<_, lbcore::addr::RangeError>(())
//! ```

mod allocate;
mod announce;
mod gates;
mod outlook;
mod world;

pub use self::allocate::{Allocations, Grant, Lost, allocate};
pub use self::announce::{Announcements, LocalHealth, announce, candidacy};
pub use self::gates::{L2Way, Obstacle, Verdict, verdict};
pub use self::outlook::{ADDRESS_ALLOCATED, ANNOUNCED, Outlook, outlook};
pub use self::world::{
    Advertisement, BgpTerms, Demand, Endpoints, L2Terms, Means, Node, Preference, Serving, TrafficPolicy,
    World,
};

#[cfg(test)]
mod tests;
