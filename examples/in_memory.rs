//! The four traits in one sitting: an address is given, an owner elected, the network told, a request routed. All in
//! memory, so that it runs anywhere; each backend can be swapped for another one of its trait. It takes no arguments.

use std::sync::Arc;

use gateway_router::model::{HttpPath, Metadata};
use gateway_router::table::{Entry, EntryPath, ListenerKey, Origin, RouteTable};
use http::{HeaderMap, Method};
use lbcore::allocator::{AllocRequest, IpAllocator, Pool, PoolAllocator, Pools};
use lbcore::announce::{AnnounceSet, AnnounceStatus, Announcer, AnnouncerCapabilities};
use lbcore::elect::{Bid, Candidacy, LeaderElector, LeaseId, Solo};
use lbcore::id::{OwnerKey, Role};
use lbcore::route::{Outcome, RequestHead, RouteMatcher};
use lbcore::time::Instant;
use tokio::sync::watch;

/// An announcer that tells a person. "Write your own announcer" in lbcore's manual has a real one.
#[derive(Debug, Default)]
struct Printer(watch::Sender<Arc<AnnounceStatus>>);

impl Announcer for Printer {
    fn set_desired(&self, desired: Arc<AnnounceSet>) {
        for (address, how) in &desired.entries {
            let lease = how.lease.map_or("no lease".to_owned(), |lease| lease.to_string());
            println!("announce: {address} is here, by {lease}");
        }
    }
    fn renew(&self, lease: LeaseId, until: Instant) {
        println!("announce: {lease} runs out: {until:?}");
    }
    fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
        self.0.subscribe()
    }
    fn capabilities(&self) -> AnnouncerCapabilities {
        AnnouncerCapabilities::new(false, false)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Which address: an IpAllocator. A service asks, and a pool has it.
    let mut allocator: Box<dyn IpAllocator> = Box::new(PoolAllocator::new());
    allocator.set_pools(&Pools::new([Pool::new("office", ["192.0.2.0/28".parse()?])])?);
    let held = allocator.allocate(&AllocRequest::new(OwnerKey::service("default", "web")))?;
    for address in &held.addresses {
        println!("allocate: {} gets {address} of pool {}", held.owner, held.pool);
    }

    // Which node: a LeaderElector. This one is alone; the others have the same face.
    let elector: Arc<dyn LeaderElector> = Arc::new(Solo::new("n1".into()));
    let bids = held.addresses.iter().map(|address| (Role::Address(*address), Bid::default()));
    elector.set_candidacy(Arc::new(Candidacy::new(1, bids)));
    let ownership = elector.ownership().borrow().clone();
    ownership.roles.iter().for_each(|(role, owner)| println!("elect: {role} belongs to {}", owner.node));

    // What the network is told: an Announcer. Only what is owned, and only while the lease holds.
    let announcer: Arc<dyn Announcer> = Arc::new(Printer::default());
    announcer.set_desired(Arc::new(AnnounceSet::owned(&ownership)));
    elector.renewals().borrow().0.iter().for_each(|(lease, until)| announcer.renew(*lease, *until));

    // Where a request goes: a RouteMatcher. The longest prefix wins, whatever the order.
    let rule = |path, target| {
        let origin = Origin::new(&Metadata::new("default", "web"), 0, 0);
        HttpPath::new(path)
            .map(|path| Entry::new(ListenerKey::new(80, None), EntryPath::Prefix(path), origin, target))
    };
    let routes = RouteTable::new([], &[rule("/", 0)?, rule("/api", 1)?], vec!["the pages", "the API"])?;
    for path in ["/index.html", "/api/v1/things"] {
        let (method, headers, host) = (&Method::GET, &HeaderMap::new(), "www.example.com");
        let head = RequestHead { port: 80, server_name: None, host, path, query: None, method, headers };
        if let Outcome::Found(target) = routes.find(&head) {
            println!("route: {host}{path} goes to {target}");
        }
    }
    Ok(())
}
