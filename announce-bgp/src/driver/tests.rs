//! The driver over pipes, in virtual time, and over TCP on the loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use lbcore::announce::{AnnounceSet, AnnounceState, AnnounceStatus, Announcement, Announcer, Route, Stop};
use lbcore::conformance;
use lbcore::elect::{LeaseId, Term};
use lbcore::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::testing::{LOCAL_AS, REMOTE_AS, Remote, Rib, World, clock};
use super::*;
use crate::config::RemoteAs;
use crate::machine::State;
use crate::wire::{AddressFamily, Context, Message, Notification, Peering, RouteRefresh, Update};

const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn tor() -> PeerConfig {
    PeerConfig::new("tor", REMOTE, RemoteAs::Number(REMOTE_AS))
}

fn passive() -> PeerConfig {
    PeerConfig { passive: true, ..tor() }
}

fn hosts(generation: u64, count: u32) -> Arc<AnnounceSet> {
    let entry = |index: u32| {
        let address = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + index));
        (address, Announcement::routes([Route::new(address.into())]))
    };
    Arc::new(AnnounceSet::new(generation, (0..count).map(entry)))
}

async fn status(
    announcer: &impl Announcer,
    mut predicate: impl FnMut(&AnnounceStatus) -> bool,
) -> Arc<AnnounceStatus> {
    let mut status: watch::Receiver<_> = announcer.status();
    status.wait_for(|status| predicate(status)).await.unwrap().clone()
}

async fn state(announcer: &BgpAnnouncer, expected: State) {
    let mut peers = announcer.peers();
    peers.wait_for(|peers| peers.values().any(|peer| peer.state == expected)).await.unwrap();
}

fn all_announced(generation: u64) -> impl FnMut(&AnnounceStatus) -> bool {
    move |status| {
        status.generation == generation
            && !status.entries.is_empty()
            && status.entries.values().all(AnnounceState::is_announced)
    }
}

/// The [contract](Announcer), with a router as the observer.
mod contract {
    use super::*;

    struct Harness {
        runtime: tokio::runtime::Runtime,
        world: World,
        rib: Rib,
    }

    impl Harness {
        fn new() -> Self {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            let rib = Rib::default();
            let mut world = runtime.block_on(async { World::with(tor()) });
            runtime.block_on(async {
                let remote = world.dialled().await;
                let rib = rib.clone();
                world.tasks.spawn(async {
                    rib.serve(remote).await;
                    std::future::pending::<()>().await;
                });
                state(&world.announcer, State::Established).await;
            });
            Self { runtime, world, rib }
        }
    }

    impl conformance::announcer::Harness for Harness {
        fn announcer(&self) -> Arc<dyn Announcer> {
            Arc::new(self.world.announcer.clone())
        }

        fn now(&self) -> Instant {
            self.runtime.block_on(async { clock() })
        }

        fn advance(&mut self, span: Duration) {
            self.runtime.block_on(async { tokio::time::sleep(span).await });
        }

        fn latency(&self) -> Duration {
            // The timer of tokio has a resolution of a millisecond.
            Duration::from_millis(2)
        }

        fn announcement(&self, address: IpAddr, lease: Option<LeaseId>) -> Announcement {
            let announcement = Announcement::routes([Route::new(address.into())]);
            match lease {
                Some(lease) => announcement.fenced(lease, Term(1)),
                None => announcement,
            }
        }

        fn observe(&mut self, address: IpAddr) -> bool {
            self.rib.routes.lock().unwrap().contains_key(&IpNet::from(address))
        }

        fn changes(&self) -> u64 {
            self.rib.changes.load(Ordering::Relaxed)
        }

        fn stop(&mut self, how: Stop) -> Arc<AnnounceStatus> {
            self.world.ask_to_stop(how);
            self.runtime.block_on(self.world.stopped());
            let status = self.world.announcer.status();
            status.borrow().clone()
        }
    }

    #[test]
    fn holds() {
        conformance::announcer::run_all(&mut || Box::new(Harness::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn announces_withdraws_and_says_so() {
    let mut world = World::with(tor());
    world.announcer.set_desired(hosts(1, 2));
    let told = status(&world.announcer, |status| status.generation == 1).await;
    assert!(told.entries.values().all(|state| !state.is_announced()));
    assert_eq!(told.conditions[0].kind, "PeerEstablished");
    let mut remote = world.dialled().await;
    remote.establish(90).await;
    assert_eq!(remote.update().await.announced().count(), 2);
    let told = status(&world.announcer, all_announced(1)).await;
    assert_eq!(
        told.entries[&IpAddr::from([10, 0, 0, 0])],
        AnnounceState::Announced { to: vec!["tor".into()] }
    );
    assert!(told.conditions.is_empty());
    remote.update().await;
    remote.update().await;
    world.announcer.set_desired(hosts(2, 1));
    assert_eq!(remote.update().await.withdrawn().map(|p| p.to_string()).collect::<Vec<_>>(), ["10.0.0.1/32"]);
    status(&world.announcer, all_announced(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_named_and_tried_again() {
    let mut world = World::with(tor());
    world.dialled.close();
    let told = status(&world.announcer, |status| {
        status.conditions.iter().any(|condition| condition.reason == "ConnectionFailed")
    })
    .await;
    assert!(told.conditions[0].message.contains("tor at 192.0.2.1:179"), "{}", told.conditions[0]);
    let mut peers = world.announcer.peers();
    let tries = |peers: &Arc<BTreeMap<_, PeerStatus>>| {
        peers.values().all(|peer: &PeerStatus| peer.counters.connections_failed >= 5)
    };
    peers.wait_for(tries).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_had_anew_with_all_routes() {
    let mut world = World::with(tor());
    world.announcer.set_desired(hosts(1, 3));
    for _ in 0..3 {
        let mut remote = world.dialled().await;
        remote.establish(90).await;
        assert_eq!(remote.update().await.announced().count(), 3);
    }
}

/// It says no more, but would go on listening: that is no session.
#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_its_half_is_parted_with() {
    let mut world = World::with(tor());
    world.announcer.set_desired(hosts(1, 1));
    let mut remote = world.dialled().await;
    remote.establish(90).await;
    status(&world.announcer, all_announced(1)).await;
    remote.stream.shutdown().await.unwrap();
    let said = async { while remote.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(1), said).await.expect("the other half is closed as well");
    assert!(
        world.announcer.peers().borrow()["tor"].last_error.as_deref()
            == Some("the peer closed the connection")
    );
    let mut again = world.dialled().await;
    again.establish(90).await;
    status(&world.announcer, all_announced(1)).await;
}

/// Messages without end, of the costly kind: the hands are full, and everybody else is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_floods_keeps_nobody_out() {
    let other = PeerConfig {
        passive: true,
        ..PeerConfig::new("other", "192.0.2.2".parse().unwrap(), RemoteAs::Number(REMOTE_AS))
    };
    let config = BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(tor()).peer(other.clone());
    let mut world = World::at(Instant::now, &config, 64 * 1024);
    world.announcer.set_desired(hosts(1, 100));
    let mut flooder = world.dialled().await;
    flooder.establish(90).await;
    let mut flood = Vec::new();
    let refresh = RouteRefresh { family: AddressFamily::IPV4_UNICAST, subtype: 0 };
    while flood.len() < 60_000 {
        Message::RouteRefresh(refresh).encode(&Context::new(Peering::External), &mut flood).unwrap();
    }
    let (mut reader, mut writer) = tokio::io::split(flooder.stream);
    let mut flooders = tokio::task::JoinSet::new();
    flooders.spawn(async move { while writer.write_all(&flood).await.is_ok() {} });
    flooders.spawn(async move { while matches!(reader.read(&mut vec![0; 65_536]).await, Ok(1..)) {} });
    let mut caller = world.call(other.address).await;
    caller.establish(90).await;
    assert_eq!(caller.update().await.announced().count(), 100);
    world.ask_to_stop(Stop::Withdraw);
    world.stopped().await;
}

/// One octet in each direction at a time.
#[tokio::test(start_paused = true)]
async fn a_connection_that_carries_one_octet_at_a_time() {
    let config = BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(tor());
    let mut world = World::new(&config, 1);
    world.announcer.set_desired(hosts(1, 100));
    let mut remote = world.dialled().await;
    remote.establish(90).await;
    assert_eq!(remote.update().await.announced().count(), 100);
    status(&world.announcer, all_announced(1)).await;
    world.ask_to_stop(Stop::Withdraw);
    let mut withdrawn = 0;
    loop {
        match remote.recv().await {
            Some(Message::Update(update)) => withdrawn += update.withdrawn().count(),
            Some(Message::Notification(notification)) => {
                assert_eq!(notification, Notification::cease(2));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(withdrawn, 100);
    assert_eq!(remote.recv().await, None);
    drop(remote);
    world.stopped().await;
}

/// A peer that neither reads nor speaks: its hold timer runs all the same, and another peer does not notice.
#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_holds_up_nobody() {
    let other = PeerConfig::new("other", "192.0.2.2".parse().unwrap(), RemoteAs::Number(REMOTE_AS));
    let config = BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(tor()).peer(other);
    let mut world = World::new(&config, 256);
    let (mut stuck, mut lively) = (None, None);
    for _ in 0..2 {
        let (name, stream) = world.dialled.recv().await.unwrap();
        *(if name.as_str() == "tor" { &mut stuck } else { &mut lively }) = Some(stream);
    }
    let rib = Rib::default();
    let mut routers = tokio::task::JoinSet::new();
    let mut stuck = Remote::new(stuck.unwrap());
    routers.spawn(rib.clone().serve(Remote::new(lively.unwrap())));
    stuck.establish(90).await;
    let start = clock();
    for generation in 1..=10 {
        // Far more than the pipe holds.
        world.announcer.set_desired(hosts(generation, 2_000 + generation as u32));
        status(&world.announcer, |status| status.generation == generation).await;
    }
    status(&world.announcer, |status| {
        status.entries.values().all(|state| match state {
            AnnounceState::Announced { to } => to.iter().any(|name| &**name == "other"),
            _ => false,
        })
    })
    .await;
    let mut peers = world.announcer.peers();
    let gone = |peers: &Arc<BTreeMap<PeerName, PeerStatus>>| {
        peers["tor"].last_error.as_deref() == Some("we sent Hold Timer Expired (4/0)")
    };
    peers.wait_for(gone).await.unwrap();
    assert!(clock().saturating_since(start) >= Duration::from_secs(90));
    assert!(clock().saturating_since(start) < Duration::from_secs(91));
    assert_eq!(rib.routes.lock().unwrap().len(), 2_010);
}

#[tokio::test(start_paused = true)]
async fn a_stop_returns_in_time_whoever_does_not_answer() {
    let other = PeerConfig::new("other", "192.0.2.2".parse().unwrap(), RemoteAs::Number(REMOTE_AS));
    let config = BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(tor()).peer(other);
    let mut world = World::new(&config, 256);
    world.announcer.set_desired(hosts(1, 2_000));
    // One is established and does not read; the other never says anything.
    let (_, first) = world.dialled.recv().await.unwrap();
    let (_, _second) = world.dialled.recv().await.unwrap();
    let mut first = Remote::new(first);
    first.establish(90).await;
    first.update().await;
    let start = clock();
    world.ask_to_stop(Stop::Withdraw);
    world.stopped().await;
    assert!(clock().saturating_since(start) <= Duration::from_secs(3));
    assert!(world.announcer.status().borrow().entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_outlives_a_driver_that_is_dropped() {
    let mut world = World::with(tor());
    let mut remote = world.dialled().await;
    remote.establish(90).await;
    remote.update().await;
    world.tasks.abort_all();
    while remote.recv().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn callers_are_served_and_strangers_refused() {
    let mut world = World::with(passive());
    world.announcer.set_desired(hosts(1, 1));
    let mut stranger = world.call("198.51.100.1".parse().unwrap()).await;
    assert_eq!(stranger.recv().await, Some(Message::Notification(Notification::cease(5))));
    assert_eq!(stranger.recv().await, None);
    let mut remote = world.call(REMOTE).await;
    remote.establish(90).await;
    assert_eq!(remote.update().await.announced().count(), 1);
    // A second call while the first is a session.
    let mut second = world.call(REMOTE).await;
    assert_eq!(second.recv().await, Some(Message::Notification(Notification::cease(7))));
    // A peer that says farewell is waited for again.
    remote.send(Message::Notification(Notification::cease(4))).await.unwrap();
    while remote.recv().await.is_some() {}
    let mut remote = world.call(REMOTE).await;
    remote.establish(90).await;
    world.ask_to_stop(Stop::Preserve);
    while let Some(message) = remote.recv().await {
        let last = Message::Notification(Notification::cease(2));
        assert!(matches!(message, Message::Update(_)) || message == last, "{message:?}");
    }
    drop(remote);
    world.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_one_stays() {
    let mut world = World::with(tor());
    let mut dialled = world.dialled().await;
    let mut accepted = world.call(REMOTE).await;
    for remote in [&mut dialled, &mut accepted] {
        assert!(matches!(remote.recv().await, Some(Message::Open(_))));
        remote.send(Remote::open(90)).await.unwrap();
    }
    // We have the higher identifier: the connection that we asked for stays.
    assert_eq!(dialled.recv().await, Some(Message::Keepalive));
    dialled.send(Message::Keepalive).await.unwrap();
    assert_eq!(dialled.update().await, Update::default());
    loop {
        match accepted.recv().await {
            Some(Message::Keepalive) => (),
            last => break assert_eq!(last, Some(Message::Notification(Notification::cease(7)))),
        }
    }
    state(&world.announcer, State::Established).await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_open_is_answered_and_the_connection_closed() {
    let mut world = World::with(tor());
    let mut remote = world.dialled().await;
    remote.recv().await;
    let open = match Remote::open(90) {
        Message::Open(open) => {
            Message::Open(crate::wire::Open { hold_time: 3, two_octet_as: 1, capabilities: vec![], ..open })
        }
        other => other,
    };
    remote.send(open).await.unwrap();
    assert_eq!(remote.recv().await, Some(Message::Notification(Notification::new(2, 2))));
    assert_eq!(remote.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn peers_change_while_it_runs() {
    let mut world = World::with(tor());
    let mut remote = world.dialled().await;
    remote.establish(90).await;
    remote.update().await;
    remote.update().await;
    let other = PeerConfig::new("other", "192.0.2.2".parse().unwrap(), RemoteAs::Number(REMOTE_AS));
    world.announcer.set_peers([tor(), other.clone()].into()).unwrap();
    assert_eq!(world.dialled.recv().await.unwrap().0.as_str(), "other");
    let refused = world.announcer.set_peers([tor(), tor()].into());
    assert!(matches!(refused, Err(BuildError::DuplicatePeer { .. })));
    world.announcer.set_desired(hosts(1, 1));
    assert_eq!(remote.update().await.announced().count(), 1);
    world.announcer.set_peers([other].into()).unwrap();
    assert_eq!(remote.recv().await, Some(Message::Notification(Notification::cease(3))));
}

#[tokio::test(start_paused = true)]
async fn setters_never_block_and_the_newest_counts() {
    let config = BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(tor());
    let (announcer, driver) = BgpAnnouncer::new(config).unwrap();
    for generation in (1..100).rev() {
        announcer.set_desired(hosts(generation, 1));
        announcer.renew(LeaseId::FIRST, Instant::from_millis(generation));
    }
    let inbox = announcer.shared.inbox();
    assert_eq!(inbox.desired.as_ref().unwrap().generation, 99);
    assert_eq!(inbox.renewals[&LeaseId::FIRST], Instant::from_millis(99));
    drop(driver);
}

/// Over TCP, both ways round.
mod tcp {
    use super::*;
    use crate::transport::{Tcp, Transport};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn dials_with_its_source_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = PeerConfig::new("tor", LOOPBACK, RemoteAs::Number(REMOTE_AS));
        peer.port = listener.local_addr().unwrap().port();
        peer.source = Some("127.0.0.9".parse().unwrap());
        let (announcer, driver) =
            BgpAnnouncer::new(BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(peer)).unwrap();
        announcer.set_desired(hosts(1, 1));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let router = async {
            let (mut stream, remote) = listener.accept().await.unwrap();
            assert_eq!(remote.ip(), "127.0.0.9".parse::<IpAddr>().unwrap());
            let mut bytes = Vec::new();
            for message in [Remote::open(90), Message::Keepalive] {
                message.encode(&Context::new(Peering::External), &mut bytes).unwrap();
            }
            stream.write_all(&bytes).await.unwrap();
            status(&announcer, all_announced(1)).await;
            stop.send(Stop::Withdraw).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            // The next hop is our address of the session, and the last word is a Cease.
            assert!(all.windows(7).any(|window| window == [0x40, 3, 4, 127, 0, 0, 9]));
            assert_eq!(all[all.len() - 3..], [3, 6, 2]);
        };
        let run = driver.run(async { stopped.await.unwrap_or_default() });
        let (ran, ()) = tokio::join!(run, router);
        ran.unwrap();
    }

    #[tokio::test]
    async fn listens_and_is_called() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let any6: SocketAddr = "[::1]:0".parse().unwrap();
        let tcp = Tcp::bind(LOCAL_AS, &[any, any6]).unwrap();
        for address in tcp.addresses() {
            let mut caller = tokio::net::TcpStream::connect(address).await.unwrap();
            let accepted = tcp.accept().await.unwrap();
            assert_eq!(accepted.local, address.ip());
            assert_eq!(accepted.remote, caller.local_addr().unwrap());
            let peer = PeerConfig::new("tor", address.ip(), RemoteAs::External);
            tcp.configure(&accepted.stream, &peer).unwrap();
            let mut accepted = accepted.stream;
            caller.write_all(b"x").await.unwrap();
            assert_eq!(accepted.read_u8().await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_before_anything_is_said() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let config = BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).listen(address);
        let (_announcer, driver) = BgpAnnouncer::new(config).unwrap();
        let error = driver.run(std::future::pending()).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}")), "{error}");
    }
}
