//! The speaker against scripted peers, against itself, and against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lbcore::announce::{AnnounceSet, AnnounceState, AnnounceStatus, Announcement, Peers, Route};
use lbcore::elect::{LeaseId, Term};
use lbcore::time::Instant;
use proptest::prelude::*;

use super::*;
use crate::config::{BgpConfig, PeerConfig, RemoteAs};
use crate::wire::{
    AddressFamily, Attribute, Capability, Context, Families, Header, Message, MpReach, NextHop, Notification,
    Open, Peering, RouteRefresh, Update,
};

const LOCAL_AS: u32 = 65000;
const REMOTE_AS: u32 = 65001;
const LOCAL_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const REMOTE_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LOCAL: IpAddr = IpAddr::V4(LOCAL_ID);
const REMOTE: IpAddr = IpAddr::V4(REMOTE_ID);

fn tor() -> PeerConfig {
    let mut peer = PeerConfig::new("tor", REMOTE, RemoteAs::Number(REMOTE_AS));
    peer.next_hop_v6 = Some("2001:db8::9".parse().unwrap());
    peer
}

fn context(peering: Peering) -> Context {
    Context::new(peering).four_octet_as(true).families(Families::ALL)
}

fn bytes(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&context(Peering::External), &mut bytes).unwrap();
    }
    bytes
}

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(header) = bytes.first_chunk() {
        let length = Header::decode(header).unwrap().length;
        // As an internal peer, to be shown a LOCAL_PREF that should not be there.
        messages.push(Message::decode(&bytes[..length], &context(Peering::Internal)).unwrap());
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty(), "half a message was sent");
    messages
}

fn open_of(remote_as: u32, hold: u16, id: Ipv4Addr) -> Open {
    let capabilities = vec![
        Capability::Multiprotocol(AddressFamily::IPV4_UNICAST),
        Capability::Multiprotocol(AddressFamily::IPV6_UNICAST),
        Capability::RouteRefresh,
        Capability::FourOctetAs(remote_as),
    ];
    Open::new(remote_as, hold, id, capabilities)
}

fn their_open() -> Message {
    Message::Open(open_of(REMOTE_AS, 90, REMOTE_ID))
}

fn set(generation: u64, entries: &[(&str, Announcement)]) -> Arc<AnnounceSet> {
    let entries = entries.iter().map(|(address, entry)| (address.parse().unwrap(), entry.clone()));
    Arc::new(AnnounceSet::new(generation, entries))
}

fn route(prefix: &str) -> Route {
    Route::new(prefix.parse().unwrap())
}

fn host(address: &'static str) -> (&'static str, Announcement) {
    let prefix = address.parse::<IpAddr>().unwrap().into();
    (address, Announcement::routes([Route::new(prefix)]))
}

/// A speaker, its clock, and what it said on each connection.
struct Bench {
    speaker: Speaker,
    now: Instant,
    dialled: Vec<(ConnectionId, Arc<PeerConfig>)>,
    closed: Vec<(ConnectionId, Vec<Message>)>,
    status: AnnounceStatus,
}

impl Bench {
    fn new(config: &BgpConfig) -> Self {
        let now = Instant::from_millis(1_000_000);
        let speaker = Speaker::new(now, config, 7).unwrap();
        let mut bench =
            Self { speaker, now, dialled: Vec::new(), closed: Vec::new(), status: AnnounceStatus::default() };
        bench.settle();
        bench
    }

    fn with(peer: PeerConfig) -> Self {
        Self::new(&BgpConfig::new(LOCAL_AS, LOCAL_ID).peer(peer))
    }

    /// With one peer whose session is established, and all that it said so far taken.
    fn established(peer: PeerConfig) -> (Self, ConnectionId) {
        let remote_as = if peer.remote_as == RemoteAs::Internal { LOCAL_AS } else { REMOTE_AS };
        let mut bench = Self::with(peer);
        let connection = bench.connect();
        bench.hear(connection, &[Message::Open(open_of(remote_as, 90, REMOTE_ID)), Message::Keepalive]);
        bench.said(connection);
        assert_eq!(bench.state(), State::Established);
        (bench, connection)
    }

    fn settle(&mut self) {
        while let Some(event) = self.speaker.poll_event() {
            match event {
                Event::Connect { connection, peer } => self.dialled.push((connection, peer)),
                Event::Close { connection, farewell } => self.closed.push((connection, messages(&farewell))),
            }
        }
        if let Some(status) = self.speaker.poll_status() {
            self.status = status;
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.speaker.handle(self.now, input);
        self.settle();
    }

    /// Connects the attempt that was asked for last.
    fn connect(&mut self) -> ConnectionId {
        let connection = self.dialled.last().unwrap().0;
        self.handle(Input::Connected { connection, local: LOCAL });
        connection
    }

    fn call(&mut self) -> ConnectionId {
        let connection = self.speaker.accept(self.now, SocketAddr::new(REMOTE, 40000), LOCAL).unwrap();
        self.settle();
        connection
    }

    fn hear(&mut self, connection: ConnectionId, messages: &[Message]) {
        self.handle(Input::Received { connection, bytes: &bytes(messages) });
    }

    fn lose(&mut self, connection: ConnectionId) {
        self.handle(Input::Disconnected { connection, error: "connection reset by peer".to_owned() });
    }

    /// What goes out on `connection` now.
    fn said(&mut self, connection: ConnectionId) -> Vec<Message> {
        let mut out = Vec::new();
        self.speaker.poll_output(self.now, connection, &mut out, usize::MAX);
        self.settle();
        messages(&out)
    }

    fn updates(&mut self, connection: ConnectionId) -> Vec<Update> {
        let update = |message| match message {
            Message::Update(update) => update,
            other => panic!("{other:?}"),
        };
        self.said(connection).into_iter().map(update).collect()
    }

    /// Time goes on, deadline by deadline.
    fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(deadline) = self.speaker.poll_timeout().filter(|deadline| *deadline <= end) {
            assert!(deadline >= self.now, "a deadline that has passed");
            self.now = deadline;
            self.speaker.handle_timeout(self.now);
            self.settle();
            assert!(
                self.speaker.poll_timeout().is_none_or(|next| next > self.now),
                "a timer that fires for ever"
            );
        }
        self.now = end;
    }

    fn until_timeout(&mut self) -> Duration {
        let span = self.speaker.poll_timeout().unwrap().saturating_since(self.now);
        self.advance(span);
        span
    }

    fn state(&self) -> State {
        self.speaker.peers().into_values().next().unwrap().state
    }

    fn farewell(&self) -> &[Message] {
        &self.closed.last().unwrap().1
    }

    fn silent_reason(&self, address: &str) -> String {
        match &self.status.entries[&address.parse::<IpAddr>().unwrap()] {
            AnnounceState::Silent(condition) => format!("{}: {}", condition.reason, condition.message),
            other => panic!("{other:?}"),
        }
    }

    fn announced_to(&self, address: &str) -> Vec<String> {
        match &self.status.entries[&address.parse::<IpAddr>().unwrap()] {
            AnnounceState::Announced { to } => to.iter().map(ToString::to_string).collect(),
            AnnounceState::Silent(_) => Vec::new(),
            other => panic!("{other:?}"),
        }
    }
}

fn cease(subcode: u8) -> Message {
    Message::Notification(Notification::new(6, subcode))
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

mod session {
    use super::*;

    #[test]
    fn says_who_it_is_and_gets_established() {
        let mut bench = Bench::with(tor());
        assert_eq!(bench.state(), State::Connect);
        let connection = bench.connect();
        assert_eq!(bench.state(), State::OpenSent);
        assert_eq!(bench.said(connection), [Message::Open(open_of(LOCAL_AS, 90, LOCAL_ID))]);
        bench.hear(connection, &[their_open()]);
        assert_eq!(bench.state(), State::OpenConfirm);
        assert_eq!(bench.said(connection), [Message::Keepalive]);
        bench.hear(connection, &[Message::Keepalive]);
        assert_eq!(bench.state(), State::Established);
        // An empty table still has its end, for each family.
        let ends: Vec<_> = bench.updates(connection).iter().filter_map(Update::is_end_of_rib).collect();
        assert_eq!(ends, lbcore::addr::Family::ALL);
        assert_eq!(bench.said(connection), []);
        assert!(bench.status.conditions.is_empty());
    }

    #[test]
    fn an_as_that_needs_four_octets_is_named_twice() {
        let mut bench = Bench::new(&BgpConfig::new(100_000, LOCAL_ID).peer(tor()));
        let connection = bench.connect();
        let said = bench.said(connection);
        let [Message::Open(open)] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((open.two_octet_as, open.autonomous_system()), (23456, 100_000));
    }

    #[test]
    fn one_octet_at_a_time() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        for byte in bytes(&[their_open(), Message::Keepalive, Message::Update(Update::default())]) {
            bench.handle(Input::Received { connection, bytes: &[byte] });
        }
        assert_eq!(bench.state(), State::Established);
        assert_eq!(bench.speaker.peers()["tor"].counters.updates_received, 1);
    }

    #[test]
    fn a_wrong_header_is_told_before_the_rest_is_there() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        bench.said(connection);
        bench.handle(Input::Received { connection, bytes: &[0; 19] });
        assert_eq!(bench.farewell(), [Message::Notification(Notification::new(1, 1))]);
        assert_eq!(bench.state(), State::Idle);
    }

    #[test]
    fn a_farewell_follows_what_was_not_sent_yet() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        bench.handle(Input::Received { connection, bytes: &[0; 19] });
        assert!(matches!(bench.farewell(), [Message::Open(_), Message::Notification(_)]));
    }

    /// RFC 4271 §6.2, RFC 5492, RFC 6286: each wrong OPEN has its answer, and none is followed by a session.
    #[test]
    fn opens_that_are_refused() {
        let internal = PeerConfig { remote_as: RemoteAs::Internal, ..tor() };
        let external = PeerConfig { remote_as: RemoteAs::External, ..tor() };
        let only_v4 = PeerConfig { families: Families::V4, ..tor() };
        let flowspec = vec![Capability::Multiprotocol(AddressFamily { afi: 1, safi: 133 })];
        let v6 = vec![Capability::Multiprotocol(AddressFamily::IPV6_UNICAST)];
        for (what, peer, open, subcode, data) in [
            ("another AS", tor(), open_of(65002, 90, REMOTE_ID), 2, vec![]),
            ("not our AS", internal.clone(), open_of(REMOTE_AS, 90, REMOTE_ID), 2, vec![]),
            ("our AS", external, open_of(LOCAL_AS, 90, REMOTE_ID), 2, vec![]),
            ("our identifier in our AS", internal, open_of(LOCAL_AS, 90, LOCAL_ID), 3, vec![]),
            (
                "no family of ours",
                tor(),
                Open::new(REMOTE_AS, 90, REMOTE_ID, flowspec),
                7,
                vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1],
            ),
            ("the other family", only_v4, Open::new(REMOTE_AS, 90, REMOTE_ID, v6), 7, vec![1, 4, 0, 1, 0, 1]),
        ] {
            let mut bench = Bench::with(peer);
            let connection = bench.connect();
            bench.said(connection);
            bench.hear(connection, &[Message::Open(open), Message::Keepalive]);
            let expected = Message::Notification(Notification::with_data(2, subcode, data));
            assert_eq!(bench.farewell(), [expected], "{what}");
            assert_eq!(bench.state(), State::Idle, "{what}");
            assert_eq!(bench.status.conditions[0].reason, "NotificationSent", "{what}");
        }
    }

    #[test]
    fn equal_identifiers_are_fine_between_ases() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        bench.hear(connection, &[Message::Open(open_of(REMOTE_AS, 90, LOCAL_ID)), Message::Keepalive]);
        assert_eq!(bench.state(), State::Established);
    }

    /// RFC 6608: the subcode names the state.
    #[test]
    fn messages_out_of_place_are_fsm_errors() {
        let refresh = Message::RouteRefresh(RouteRefresh { family: AddressFamily::IPV4_UNICAST, subtype: 0 });
        let update = Message::Update(Update::default());
        for (before, message, subcode) in [
            (vec![], Message::Keepalive, 1),
            (vec![], update.clone(), 1),
            (vec![], refresh.clone(), 1),
            (vec![their_open()], their_open(), 2),
            (vec![their_open()], update, 2),
            (vec![their_open()], refresh, 2),
            (vec![their_open(), Message::Keepalive], their_open(), 3),
        ] {
            let mut bench = Bench::with(tor());
            let connection = bench.connect();
            bench.hear(connection, &before);
            bench.said(connection);
            bench.hear(connection, std::slice::from_ref(&message));
            let expected = Message::Notification(Notification::new(5, subcode));
            assert_eq!(bench.farewell(), [expected], "{message:?} after {before:?}");
        }
    }

    #[test]
    fn a_malformed_update_before_its_time_is_one_as_well() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        bench.said(connection);
        let malformed = crate::wire::test_util::frame(2, &[0, 9, 0, 0]);
        bench.handle(Input::Received { connection, bytes: &malformed });
        assert_eq!(bench.farewell(), [Message::Notification(Notification::new(5, 1))]);

        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Received { connection, bytes: &malformed });
        assert_eq!(bench.farewell(), [Message::Notification(Notification::new(3, 1))]);
    }

    #[test]
    fn a_notification_is_not_answered() {
        for before in [vec![], vec![their_open()], vec![their_open(), Message::Keepalive]] {
            let mut bench = Bench::with(tor());
            let connection = bench.connect();
            bench.hear(connection, &before);
            bench.said(connection);
            bench.hear(connection, &[Message::Notification(Notification::shutdown("lunch"))]);
            assert_eq!(bench.farewell(), []);
            assert_eq!(bench.state(), State::Idle);
            let message = &bench.status.conditions[0].message;
            assert!(message.contains("it sent Administrative Shutdown (6/2): \"lunch\""), "{message}");
        }
    }

    #[test]
    fn routes_of_the_peer_are_counted_and_dropped() {
        let (mut bench, connection) = Bench::established(tor());
        let update = Update {
            attributes: vec![
                Attribute::Origin(crate::wire::Origin::Igp),
                Attribute::AsPath(crate::wire::AsPath::sequence([REMOTE_AS])),
                Attribute::NextHop(REMOTE_ID),
            ],
            announced: vec!["203.0.113.0/24".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
            ..Update::default()
        };
        let lame = Update { attributes: Vec::new(), ..update.clone() };
        let discard = Update {
            attributes: [update.attributes.clone(), vec![Attribute::LocalPref(1)]].concat(),
            ..update.clone()
        };
        bench.hear(connection, &[update, lame, discard].map(Message::Update));
        assert_eq!(bench.state(), State::Established);
        let counters = bench.speaker.peers()["tor"].counters;
        assert_eq!((counters.updates_received, counters.prefixes_dropped), (1, 4));
        assert_eq!((counters.treated_as_withdraw, counters.attributes_discarded), (1, 1));
        assert_eq!(bench.said(connection), []);
    }
}

mod timers {
    use super::*;

    #[test]
    fn a_peer_that_never_opens_has_four_minutes() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        bench.said(connection);
        bench.advance(secs(240) - Duration::from_nanos(1));
        assert_eq!(bench.state(), State::OpenSent);
        bench.advance(Duration::from_nanos(1));
        assert_eq!(bench.farewell(), [Message::Notification(Notification::new(4, 0))]);
        assert_eq!(bench.state(), State::Idle);
    }

    #[test]
    fn the_lower_hold_time_counts_and_is_enforced() {
        for (ours, theirs, hold) in [(90, 9, 9), (9, 90, 9), (3, 65535, 3)] {
            let mut bench = Bench::with(PeerConfig { hold_time: secs(ours), ..tor() });
            let connection = bench.connect();
            bench.hear(
                connection,
                &[Message::Open(open_of(REMOTE_AS, theirs, REMOTE_ID)), Message::Keepalive],
            );
            bench.said(connection);
            // A KEEPALIVE each third of it, and the session holds while the peer says something.
            for _ in 0..6 {
                bench.advance(secs(hold) / 3);
                assert_eq!(bench.said(connection), [Message::Keepalive]);
                bench.hear(connection, &[Message::Keepalive]);
            }
            bench.advance(secs(hold) - Duration::from_nanos(1));
            assert_eq!(bench.state(), State::Established);
            bench.advance(Duration::from_nanos(1));
            assert_eq!(
                bench.farewell().last(),
                Some(&Message::Notification(Notification::new(4, 0))),
                "{ours} {theirs}"
            );
        }
    }

    #[test]
    fn an_update_shows_that_the_peer_is_alive_and_half_a_message_does_not() {
        let (mut bench, connection) = Bench::established(tor());
        bench.advance(secs(89));
        bench.hear(connection, &[Message::Update(Update::default())]);
        bench.advance(secs(89));
        assert_eq!(bench.state(), State::Established);
        let keepalive = bytes(&[Message::Keepalive]);
        bench.handle(Input::Received { connection, bytes: &keepalive[..18] });
        bench.advance(secs(1));
        assert_eq!(bench.state(), State::Idle);
    }

    #[test]
    fn a_hold_time_of_zero_has_neither_timer() {
        let (mut bench, connection) = {
            let mut bench = Bench::with(PeerConfig { hold_time: secs(0), ..tor() });
            let connection = bench.connect();
            bench.hear(connection, &[their_open(), Message::Keepalive]);
            bench.said(connection);
            (bench, connection)
        };
        bench.advance(secs(1_000_000));
        assert_eq!(bench.state(), State::Established);
        assert_eq!(bench.said(connection), []);
    }

    #[test]
    fn a_keepalive_time_of_its_own_is_an_upper_bound() {
        let (mut bench, connection) =
            Bench::established(PeerConfig { keepalive_time: Some(secs(5)), ..tor() });
        bench.advance(secs(5));
        assert_eq!(bench.said(connection), [Message::Keepalive]);
    }

    #[test]
    fn a_peer_that_does_not_read_costs_one_keepalive_and_the_newest_of_each_route() {
        let (mut bench, connection) = Bench::established(tor());
        for generation in 1..1000 {
            let entries = if generation % 2 == 0 { vec![] } else { vec![host("198.51.100.7")] };
            bench.handle(Input::Desired(set(generation, &entries)));
            bench.advance(secs(1) / 10);
            bench.hear(connection, &[Message::Keepalive]);
        }
        let said = bench.said(connection);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], Message::Keepalive);
    }

    /// RFC 9687: alive, but takes nothing.
    #[test]
    fn a_peer_that_never_reads_is_given_up() {
        let (mut bench, connection) = Bench::established(tor());
        for second in 0..510 {
            assert_eq!(bench.state(), State::Established, "after {second} s");
            bench.advance(secs(1));
            bench.hear(connection, &[Message::Keepalive]);
        }
        bench.advance(secs(1));
        assert_eq!(bench.farewell().last(), Some(&Message::Notification(Notification::new(8, 0))));
    }

    #[test]
    fn attempts_are_quick_at_first_and_never_spin() {
        let mut bench = Bench::with(tor());
        let mut pauses = Vec::new();
        for attempt in 1..12 {
            assert_eq!(bench.dialled.len(), attempt);
            let connection = bench.dialled.last().unwrap().0;
            bench.lose(connection);
            pauses.push(bench.until_timeout());
        }
        for (index, pause) in pauses.iter().enumerate() {
            let whole = (Duration::from_millis(250) * (1 << index)).min(secs(10));
            assert!(*pause <= whole && *pause >= whole * 3 / 4, "{index}: {pause:?}");
        }
        assert_eq!(bench.speaker.peers()["tor"].counters.connections_failed, 11);
    }

    #[test]
    fn an_attempt_without_an_answer_is_given_up_and_made_anew() {
        let mut bench = Bench::with(tor());
        let first = bench.dialled[0].0;
        bench.advance(secs(5));
        assert_eq!(bench.closed, [(first, vec![])]);
        assert_eq!(bench.dialled.len(), 2);
        assert_eq!(bench.state(), State::Connect);
        // The former attempt succeeds after all: too late.
        bench.handle(Input::Connected { connection: first, local: LOCAL });
        assert_eq!(bench.state(), State::Connect);
    }

    /// A peer that ends each session at once must not make us spin; one that lasted is called again quickly.
    #[test]
    fn only_a_session_that_lasted_makes_attempts_quick_again() {
        let mut bench = Bench::with(tor());
        let mut pause = Duration::ZERO;
        for _ in 0..8 {
            let connection = bench.connect();
            bench.hear(connection, &[their_open(), Message::Keepalive, cease(4)]);
            assert_eq!(bench.state(), State::Idle);
            pause = bench.until_timeout();
        }
        assert!(pause > secs(7), "{pause:?}");
        let connection = bench.connect();
        bench.hear(connection, &[their_open(), Message::Keepalive]);
        bench.advance(secs(10));
        bench.lose(connection);
        assert!(bench.until_timeout() <= Duration::from_millis(250));
    }

    #[test]
    fn a_connection_lost_before_the_open_is_tried_again_from_active() {
        let mut bench = Bench::with(tor());
        let connection = bench.connect();
        bench.lose(connection);
        assert_eq!(bench.state(), State::Active);
        assert!(bench.until_timeout() <= Duration::from_millis(250));
        assert_eq!(bench.state(), State::Connect);
    }
}

mod calls {
    use super::*;

    #[test]
    fn a_passive_peer_is_waited_for() {
        let mut bench = Bench::with(PeerConfig { passive: true, ..tor() });
        bench.advance(secs(1000));
        assert!(bench.dialled.is_empty());
        assert_eq!(bench.state(), State::Active);
        for _ in 0..2 {
            let connection = bench.call();
            assert!(matches!(bench.said(connection)[..], [Message::Open(_)]));
            bench.hear(connection, &[their_open(), Message::Keepalive]);
            assert_eq!(bench.state(), State::Established);
            bench.lose(connection);
            assert_eq!(bench.state(), State::Active);
        }
        assert!(bench.dialled.is_empty());
        assert_eq!(bench.speaker.peers()["tor"].counters.established, 2);
    }

    #[test]
    fn strangers_and_second_callers_are_refused_with_the_reason() {
        let farewell = |refused: Result<ConnectionId, Refused>| messages(&refused.unwrap_err().farewell);
        let stranger = "198.51.100.1:40000".parse().unwrap();
        let mut bench = Bench::with(tor());
        assert_eq!(farewell(bench.speaker.accept(bench.now, stranger, LOCAL)), [cease(5)]);
        let (mut bench, _) = Bench::established(tor());
        let caller = SocketAddr::new(REMOTE, 40000);
        assert_eq!(farewell(bench.speaker.accept(bench.now, caller, LOCAL)), [cease(7)]);
        assert_eq!(bench.state(), State::Established);
        // Which of two peers of one address calls, nobody can tell.
        let twin = PeerConfig { name: "twin".into(), port: 1179, ..tor() };
        let mut bench = Bench::new(&BgpConfig::new(LOCAL_AS, LOCAL_ID).peer(tor()).peer(twin));
        assert_eq!(farewell(bench.speaker.accept(bench.now, caller, LOCAL)), [cease(5)]);
    }

    #[test]
    fn a_caller_of_a_mapped_address_is_known() {
        let mut bench = Bench::with(PeerConfig { passive: true, ..tor() });
        let mapped = |address: IpAddr| match address {
            IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
            IpAddr::V6(_) => address,
        };
        let caller = SocketAddr::new(mapped(REMOTE), 40000);
        let connection = bench.speaker.accept(bench.now, caller, mapped(LOCAL)).unwrap();
        bench.handle(Input::Desired(set(1, &[host("198.51.100.7")])));
        bench.hear(connection, &[their_open(), Message::Keepalive]);
        let said = bench.said(connection);
        let Message::Update(update) = &said[2] else { panic!("{said:?}") };
        assert!(update.attributes.contains(&Attribute::NextHop(LOCAL_ID)));
    }

    #[test]
    fn a_second_call_replaces_one_that_came_to_nothing() {
        let mut bench = Bench::with(PeerConfig { passive: true, ..tor() });
        let first = bench.call();
        bench.said(first);
        let second = bench.call();
        assert_eq!(bench.closed, [(first, vec![cease(7)])]);
        bench.hear(second, &[their_open(), Message::Keepalive]);
        assert_eq!(bench.state(), State::Established);
    }

    #[test]
    fn an_answered_call_ends_the_attempt_to_call() {
        let mut bench = Bench::with(tor());
        let attempt = bench.dialled[0].0;
        let connection = bench.call();
        assert_eq!(bench.closed, []);
        bench.hear(connection, &[their_open()]);
        assert_eq!(bench.closed, [(attempt, vec![])]);
        bench.hear(connection, &[Message::Keepalive]);
        bench.advance(secs(30));
        assert_eq!(bench.dialled.len(), 1);
        bench.lose(connection);
        bench.advance(secs(1));
        assert_eq!(bench.dialled.len(), 2);
    }

    /// RFC 4271 §6.8 and RFC 6286 §2.3: which connection stays, whichever OPEN comes second.
    #[test]
    fn collisions() {
        let low = Ipv4Addr::new(192, 0, 2, 8);
        let high = Ipv4Addr::new(192, 0, 3, 0);
        for (what, remote_as, remote_id, ours_stays) in [
            ("the lower identifier", REMOTE_AS, low, true),
            ("the higher identifier", REMOTE_AS, high, false),
            ("equal identifiers, higher AS", REMOTE_AS, LOCAL_ID, false),
            ("equal identifiers, lower AS", 64999, LOCAL_ID, true),
            ("an identifier that is higher as a number only", REMOTE_AS, Ipv4Addr::new(200, 0, 0, 1), false),
        ] {
            for dialled_first in [true, false] {
                let peer = PeerConfig { remote_as: RemoteAs::Number(remote_as), ..tor() };
                let mut bench = Bench::with(peer);
                let dialled = bench.connect();
                let accepted = bench.call();
                bench.said(dialled);
                bench.said(accepted);
                let open = Message::Open(open_of(remote_as, 90, remote_id));
                let (first, second) = if dialled_first { (dialled, accepted) } else { (accepted, dialled) };
                bench.hear(first, std::slice::from_ref(&open));
                bench.said(first);
                bench.hear(second, std::slice::from_ref(&open));
                let (stays, goes) = if ours_stays { (dialled, accepted) } else { (accepted, dialled) };
                assert_eq!(bench.closed, [(goes, vec![cease(7)])], "{what}, {dialled_first}");
                bench.hear(stays, &[Message::Keepalive]);
                assert_eq!(bench.state(), State::Established, "{what}, {dialled_first}");
                assert!(bench.status.conditions.is_empty());
                bench.advance(secs(20));
                assert_eq!(bench.dialled.len(), 1, "{what}: no more attempts");
            }
        }
    }

    #[test]
    fn an_established_session_stays_whatever_the_identifiers() {
        for remote_id in [Ipv4Addr::new(1, 0, 0, 1), Ipv4Addr::new(223, 0, 0, 1)] {
            let mut bench = Bench::with(tor());
            let accepted = bench.call();
            let dialled = bench.connect();
            bench.said(accepted);
            bench.said(dialled);
            let open = Message::Open(open_of(REMOTE_AS, 90, remote_id));
            bench.hear(dialled, &[open, Message::Keepalive]);
            assert_eq!(bench.closed, [(accepted, vec![cease(7)])]);
            assert_eq!(bench.state(), State::Established);
        }
    }

    #[test]
    fn a_bad_open_loses_no_collision_but_itself() {
        let mut bench = Bench::with(tor());
        let dialled = bench.connect();
        let accepted = bench.call();
        bench.said(dialled);
        bench.said(accepted);
        bench.hear(dialled, &[their_open()]);
        bench.hear(accepted, &[Message::Open(open_of(65002, 90, REMOTE_ID))]);
        assert_eq!(bench.closed, [(accepted, vec![Message::Notification(Notification::new(2, 2))])]);
        bench.hear(dialled, &[Message::Keepalive]);
        assert_eq!(bench.state(), State::Established);
    }
}

mod routes {
    use super::*;

    fn next_hop(update: &Update) -> Option<IpAddr> {
        update.attributes.iter().find_map(|attribute| match attribute {
            Attribute::NextHop(address) => Some((*address).into()),
            Attribute::MpReach(MpReach::Unicast { next_hop: NextHop::V6 { address, .. }, .. }) => {
                Some((*address).into())
            }
            _ => None,
        })
    }

    fn prefixes(prefixes: impl Iterator<Item = IpNet>) -> Vec<String> {
        prefixes.map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn the_whole_table_then_its_end() {
        let mut bench = Bench::with(tor());
        bench.handle(Input::Desired(set(
            1,
            &[host("198.51.100.7"), host("198.51.100.8"), host("2001:db8::7")],
        )));
        assert_eq!(
            bench.silent_reason("198.51.100.7"),
            "PeerNotEstablished: peer tor at 192.0.2.1:179 is in state Connect"
        );
        let connection = bench.connect();
        bench.hear(connection, &[their_open()]);
        bench.said(connection);
        bench.hear(connection, &[Message::Keepalive]);
        let updates = bench.updates(connection);
        assert_eq!(updates.len(), 4);
        assert_eq!(prefixes(updates[0].announced()), ["198.51.100.7/32", "198.51.100.8/32"]);
        assert_eq!(next_hop(&updates[0]), Some(LOCAL));
        assert_eq!(prefixes(updates[1].announced()), ["2001:db8::7/128"]);
        assert_eq!(next_hop(&updates[1]), Some("2001:db8::9".parse().unwrap()));
        assert!(updates[2..].iter().all(|update| update.is_end_of_rib().is_some()));
        assert_eq!(bench.status.generation, 1);
        assert_eq!(bench.announced_to("2001:db8::7"), ["tor"]);
    }

    #[test]
    fn attributes_to_an_external_peer() {
        let (mut bench, connection) = Bench::established(tor());
        let mut route = route("198.51.100.7/32");
        route.local_pref = Some(300);
        route.communities = BTreeSet::from([0xfde8_0002, 0xfde8_0001]);
        route.large_communities = BTreeSet::from([(65000, 2, 3), (65000, 1, 9)]);
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", Announcement::routes([route]))])));
        let updates = bench.updates(connection);
        assert_eq!(
            updates[0].attributes,
            [
                Attribute::Origin(crate::wire::Origin::Igp),
                Attribute::AsPath(crate::wire::AsPath::sequence([LOCAL_AS])),
                Attribute::NextHop(LOCAL_ID),
                Attribute::Communities(vec![0xfde8_0001, 0xfde8_0002]),
                Attribute::LargeCommunities(vec![(65000, 1, 9), (65000, 2, 3)]),
            ]
        );
    }

    #[test]
    fn attributes_to_an_internal_peer() {
        let (mut bench, connection) =
            Bench::established(PeerConfig { remote_as: RemoteAs::Internal, ..tor() });
        let mut preferred = route("198.51.100.7/32");
        preferred.local_pref = Some(300);
        let entry = Announcement::routes([preferred]);
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", entry), host("198.51.100.8")])));
        let updates = bench.updates(connection);
        for (update, preference) in updates.iter().zip([100, 300]) {
            assert!(update.attributes.contains(&Attribute::AsPath(crate::wire::AsPath::default())));
            assert!(update.attributes.contains(&Attribute::LocalPref(preference)), "{update:?}");
        }
    }

    #[test]
    fn the_smallest_difference_and_withdrawals_first() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(
            1,
            &[host("198.51.100.1"), host("198.51.100.2"), host("2001:db8::1")],
        )));
        bench.updates(connection);
        // The same again, under a new generation: nothing to say.
        bench.handle(Input::Desired(set(
            2,
            &[host("198.51.100.1"), host("198.51.100.2"), host("2001:db8::1")],
        )));
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.status.generation, 2);
        // One stays, one changes, two go, one comes.
        let mut changed = route("198.51.100.2/32");
        changed.communities.insert(1);
        let changed = ("198.51.100.2", Announcement::routes([changed]));
        bench.handle(Input::Desired(set(3, &[changed, host("198.51.100.3")])));
        let updates = bench.updates(connection);
        let said: Vec<_> =
            updates.iter().map(|u| (prefixes(u.withdrawn()), prefixes(u.announced()))).collect();
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            said,
            [
                (list(&["198.51.100.1/32"]), vec![]),
                (list(&["2001:db8::1/128"]), vec![]),
                (vec![], list(&["198.51.100.3/32"])),
                (vec![], list(&["198.51.100.2/32"])),
            ]
        );
        // What is older than what is in force is no news.
        bench.handle(Input::Desired(set(2, &[])));
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.status.generation, 3);
    }

    #[test]
    fn a_change_that_is_taken_back_in_time_is_never_told() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[host("198.51.100.1")])));
        bench.handle(Input::Desired(set(2, &[])));
        assert_eq!(bench.said(connection), []);
        bench.handle(Input::Desired(set(3, &[host("198.51.100.1")])));
        bench.updates(connection);
        bench.handle(Input::Desired(set(4, &[])));
        bench.handle(Input::Desired(set(5, &[host("198.51.100.1")])));
        assert_eq!(bench.said(connection), []);
    }

    #[test]
    fn an_aggregate_comes_with_its_first_member_and_goes_with_its_last() {
        let (mut bench, connection) = Bench::established(tor());
        let member = |address: &'static str| (address, Announcement::routes([route("198.51.100.0/24")]));
        bench.handle(Input::Desired(set(1, &[member("198.51.100.1")])));
        assert_eq!(prefixes(bench.updates(connection)[0].announced()), ["198.51.100.0/24"]);
        bench.handle(Input::Desired(set(2, &[member("198.51.100.1"), member("198.51.100.2")])));
        bench.handle(Input::Desired(set(3, &[member("198.51.100.2")])));
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.announced_to("198.51.100.2"), ["tor"]);
        bench.handle(Input::Desired(set(4, &[])));
        assert_eq!(prefixes(bench.updates(connection)[0].withdrawn()), ["198.51.100.0/24"]);
    }

    #[test]
    fn members_of_an_aggregate_join_their_attributes() {
        let (mut bench, connection) =
            Bench::established(PeerConfig { remote_as: RemoteAs::Internal, ..tor() });
        let member = |community: u32, local_pref| {
            let mut route = route("198.51.100.7/24");
            route.communities.insert(community);
            route.local_pref = local_pref;
            Announcement::routes([route])
        };
        let entries = [("198.51.100.1", member(2, Some(50))), ("198.51.100.2", member(1, Some(200)))];
        bench.handle(Input::Desired(set(1, &entries)));
        let update = &bench.updates(connection)[0];
        // Host bits are no part of a prefix.
        assert_eq!(prefixes(update.announced()), ["198.51.100.0/24"]);
        assert!(update.attributes.contains(&Attribute::Communities(vec![1, 2])));
        assert!(update.attributes.contains(&Attribute::LocalPref(200)));
        bench.handle(Input::Desired(set(2, &entries[..1])));
        let update = &bench.updates(connection)[0];
        assert!(update.attributes.contains(&Attribute::Communities(vec![2])));
        assert!(update.attributes.contains(&Attribute::LocalPref(50)));
    }

    #[test]
    fn only_the_peers_that_a_route_names_are_told() {
        let mut bench = Bench::new(&BgpConfig::new(LOCAL_AS, LOCAL_ID).peer(tor()).peer(PeerConfig::new(
            "other",
            "192.0.2.2".parse().unwrap(),
            RemoteAs::External,
        )));
        let connections: Vec<_> =
            bench.dialled.iter().map(|(connection, peer)| (*connection, peer.name.to_string())).collect();
        for (connection, _) in &connections {
            bench.handle(Input::Connected { connection: *connection, local: LOCAL });
            bench.hear(*connection, &[their_open(), Message::Keepalive]);
            bench.said(*connection);
        }
        let mut route = route("198.51.100.7/32");
        route.peers = Peers::Only(BTreeSet::from(["other".into()]));
        let mut nobody = route.clone();
        nobody.peers = Peers::Only(BTreeSet::from(["elsewhere".into()]));
        let entries = [
            ("198.51.100.7", Announcement::routes([route])),
            ("198.51.100.8", Announcement::routes([nobody])),
            ("198.51.100.9", Announcement::default()),
            host("2001:db8::7"),
        ];
        bench.handle(Input::Desired(set(1, &entries)));
        for (connection, name) in &connections {
            let announced: Vec<_> =
                bench.updates(*connection).iter().flat_map(|u| prefixes(u.announced())).collect();
            let expected = if name == "other" { "198.51.100.7/32" } else { "2001:db8::7/128" };
            assert_eq!(announced, [expected], "{name}");
        }
        assert_eq!(bench.announced_to("198.51.100.7"), ["other"]);
        assert_eq!(bench.announced_to("2001:db8::7"), ["tor"]);
        assert!(bench.silent_reason("198.51.100.8").starts_with("NoPeer: none of the peers"));
        assert!(bench.silent_reason("198.51.100.9").starts_with("NoRoutes"));
        // The session with "other" runs over IPv4, and it has no IPv6 next hop.
        let condition = &bench.status.conditions[0];
        assert_eq!(condition.reason, "NoNextHop");
        assert!(condition.message.contains("peer other is told no IPv6 routes"), "{condition}");
    }

    #[test]
    fn why_nothing_is_said_names_the_peer_and_the_fix() {
        let peer = PeerConfig { next_hop_v6: None, ..tor() };
        let (mut bench, connection) = Bench::established(peer);
        bench.handle(Input::Desired(set(1, &[host("2001:db8::7")])));
        assert_eq!(bench.said(connection), []);
        let reason = bench.silent_reason("2001:db8::7");
        assert!(reason.starts_with("NoNextHop: peer tor: the session runs over IPv4"), "{reason}");

        let (mut bench, connection) = Bench::established(PeerConfig { families: Families::V4, ..tor() });
        bench.handle(Input::Desired(set(1, &[host("2001:db8::7")])));
        assert_eq!(bench.said(connection), []);
        assert!(bench.silent_reason("2001:db8::7").starts_with("FamilyNotNegotiated: peer tor"));

        let (mut bench, connection) = Bench::established(tor());
        let mut huge = route("198.51.100.7/32");
        huge.communities = (0..2000).collect();
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", Announcement::routes([huge]))])));
        assert!(bench.silent_reason("198.51.100.7").starts_with("Queued"));
        assert_eq!(bench.said(connection), []);
        assert!(bench.silent_reason("198.51.100.7").starts_with("AttributesTooLong: peer tor"));

        let mut bench = Bench::new(&BgpConfig::new(LOCAL_AS, LOCAL_ID));
        bench.handle(Input::Desired(set(1, &[host("198.51.100.7")])));
        assert!(bench.silent_reason("198.51.100.7").starts_with("NoPeer: no BGP peer is configured"));
    }

    /// What the peer was told before must not stay when what is wanted now cannot be told.
    #[test]
    fn a_route_that_grows_too_long_is_withdrawn() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[host("198.51.100.7")])));
        bench.updates(connection);
        let mut huge = route("198.51.100.7/32");
        huge.communities = (0..2000).collect();
        bench.handle(Input::Desired(set(2, &[("198.51.100.7", Announcement::routes([huge]))])));
        let updates = bench.updates(connection);
        assert_eq!(prefixes(updates[0].withdrawn()), ["198.51.100.7/32"]);
    }

    #[test]
    fn a_refresh_is_answered_with_all_routes_of_the_family() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[host("198.51.100.7"), host("2001:db8::7")])));
        bench.updates(connection);
        let refresh = |family| Message::RouteRefresh(RouteRefresh { family, subtype: 0 });
        bench.hear(connection, &[refresh(AddressFamily::IPV6_UNICAST)]);
        let updates = bench.updates(connection);
        assert_eq!(updates.len(), 1);
        assert_eq!(prefixes(updates[0].announced()), ["2001:db8::7/128"]);
        // A flood of requests is one answer; an unknown family, none.
        bench.hear(connection, &vec![refresh(AddressFamily::IPV4_UNICAST); 100]);
        bench.hear(connection, &[refresh(AddressFamily { afi: 25, safi: 70 })]);
        assert_eq!(bench.updates(connection).len(), 1);
        // What is about to be withdrawn is not announced again.
        bench.handle(Input::Desired(set(2, &[])));
        bench.hear(connection, &[refresh(AddressFamily::IPV4_UNICAST)]);
        let updates = bench.updates(connection);
        assert!(updates.iter().all(|update| update.announced().count() == 0));
    }

    #[test]
    fn a_new_session_is_told_everything_anew() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[host("198.51.100.7")])));
        bench.updates(connection);
        bench.lose(connection);
        assert!(bench.silent_reason("198.51.100.7").contains("last error: connection reset by peer"));
        bench.advance(secs(1));
        let connection = bench.connect();
        bench.hear(connection, &[their_open(), Message::Keepalive]);
        assert_eq!(bench.said(connection).len(), 2 + 1 + 2);
        assert_eq!(bench.announced_to("198.51.100.7"), ["tor"]);
    }
}

mod leases {
    use super::*;

    fn fenced(lease: LeaseId) -> Announcement {
        Announcement::routes([route("198.51.100.7/32")]).fenced(lease, Term(1))
    }

    #[test]
    fn announced_only_while_the_lease_holds() {
        let lease = LeaseId::FIRST;
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", fenced(lease))])));
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.silent_reason("198.51.100.7"), "LeaseNotHeld: lease 1 is not held");
        let until = bench.now + secs(2);
        bench.handle(Input::Renew(lease, until));
        assert_eq!(bench.updates(connection)[0].announced().count(), 1);
        // An earlier deadline is no news; a later one is.
        bench.handle(Input::Renew(lease, until - secs(1)));
        bench.handle(Input::Renew(lease, until + secs(1)));
        bench.advance(secs(3) - Duration::from_nanos(1));
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.announced_to("198.51.100.7"), ["tor"]);
        bench.advance(Duration::from_nanos(1));
        assert_eq!(bench.updates(connection)[0].withdrawn().count(), 1);
        assert!(bench.silent_reason("198.51.100.7").starts_with("LeaseNotHeld"));
    }

    #[test]
    fn a_deadline_counts_even_if_no_timer_has_fired() {
        let lease = LeaseId::FIRST;
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", fenced(lease))])));
        bench.handle(Input::Renew(lease, bench.now + secs(2)));
        bench.now += secs(2);
        // Asked for bytes too late: there are none.
        assert_eq!(bench.said(connection), []);
    }

    #[test]
    fn a_renewal_may_come_before_the_set_and_another_lease_may_take_over() {
        let (first, second) = (LeaseId::FIRST, LeaseId::FIRST.next());
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Renew(first, bench.now + secs(2)));
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", fenced(first))])));
        assert_eq!(bench.updates(connection)[0].announced().count(), 1);
        bench.handle(Input::Renew(second, bench.now + secs(9)));
        bench.handle(Input::Desired(set(2, &[("198.51.100.7", fenced(second))])));
        bench.advance(secs(5));
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.announced_to("198.51.100.7"), ["tor"]);
    }

    #[test]
    fn withdrawn_on_paper_is_not_withdrawn() {
        let lease = LeaseId::FIRST;
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[("198.51.100.7", fenced(lease))])));
        bench.handle(Input::Renew(lease, bench.now + secs(2)));
        bench.said(connection);
        bench.advance(secs(2));
        // The lease has run out, but the connection has not taken the withdrawal: the peer still believes it.
        assert_eq!(bench.announced_to("198.51.100.7"), ["tor"]);
        bench.said(connection);
        assert!(bench.silent_reason("198.51.100.7").starts_with("LeaseNotHeld"));
    }
}

mod configuration {
    use super::*;

    fn other() -> PeerConfig {
        PeerConfig::new("other", "192.0.2.2".parse().unwrap(), RemoteAs::External)
    }

    #[test]
    fn untouched_peers_keep_their_session() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(1, &[host("198.51.100.7")])));
        bench.updates(connection);
        bench.handle(Input::Peers([other(), tor()].into()));
        assert_eq!(bench.closed, []);
        assert_eq!(bench.said(connection), []);
        assert_eq!(bench.dialled.len(), 2);
        assert_eq!(bench.dialled[1].1.name.as_str(), "other");
        // One that is changed is told so, and called anew.
        let changed = PeerConfig { hold_time: secs(30), ..tor() };
        bench.handle(Input::Peers([changed, other()].into()));
        assert_eq!(bench.closed, [(connection, vec![cease(6)])]);
        assert_eq!(bench.dialled.len(), 3);
        let connection = bench.connect();
        bench.hear(connection, &[their_open(), Message::Keepalive]);
        bench.said(connection);
        assert_eq!(bench.announced_to("198.51.100.7"), ["tor"]);
        // One that is gone is told so, and not called any more.
        bench.closed.clear();
        bench.handle(Input::Peers([other()].into()));
        assert_eq!(bench.closed, [(connection, vec![cease(3)])]);
        assert_eq!(bench.speaker.peers().len(), 1);
    }

    #[test]
    fn a_stop_withdraws_all_and_says_farewell() {
        let (mut bench, connection) = Bench::established(tor());
        bench.handle(Input::Desired(set(4, &[host("198.51.100.7"), host("2001:db8::7")])));
        bench.updates(connection);
        bench.handle(Input::Desired(set(
            5,
            &[host("198.51.100.7"), host("2001:db8::7"), host("198.51.100.8")],
        )));
        bench.handle(Input::Stop("maintenance"));
        let farewell = bench.farewell();
        assert_eq!(farewell.len(), 3);
        let Message::Update(first) = &farewell[0] else { panic!("{farewell:?}") };
        // 198.51.100.8 was never told.
        assert_eq!(
            first.withdrawn().map(|prefix| prefix.to_string()).collect::<Vec<_>>(),
            ["198.51.100.7/32"]
        );
        assert_eq!(farewell[2], Message::Notification(Notification::shutdown("maintenance")));
        assert_eq!((bench.status.generation, bench.status.entries.len()), (5, 0));
        assert!(bench.status.conditions.is_empty());
        // And no more of it.
        bench.advance(secs(1000));
        bench.handle(Input::Desired(set(6, &[host("198.51.100.7")])));
        bench.handle(Input::Peers([tor(), other()].into()));
        assert_eq!(bench.dialled.len(), 1);
        assert!(bench.speaker.accept(bench.now, SocketAddr::new(REMOTE, 4), LOCAL).is_err());
        assert_eq!(bench.speaker.poll_timeout(), None);
    }
}

/// A peer that keeps what it is told, as a router does.
#[derive(Debug, Default)]
struct Router {
    rib: BTreeMap<IpNet, Vec<Attribute>>,
    ends: usize,
}

impl Router {
    fn take(&mut self, bytes: &[u8]) {
        for message in messages(bytes) {
            let Message::Update(update) = message else { continue };
            self.ends += usize::from(update.is_end_of_rib().is_some());
            for prefix in update.withdrawn() {
                assert!(self.rib.remove(&prefix).is_some(), "withdraws {prefix}, which was never announced");
            }
            let attributes: Vec<_> = update
                .attributes
                .iter()
                .filter(|attribute| !matches!(attribute, Attribute::MpReach(_) | Attribute::MpUnreach(_)))
                .cloned()
                .collect();
            for prefix in update.announced() {
                let former = self.rib.insert(prefix, attributes.clone());
                assert_ne!(former.as_ref(), Some(&attributes), "announces {prefix} again, unchanged");
            }
        }
    }
}

/// Few addresses and few attributes, so that they meet.
fn entries() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    prop::collection::vec((0u8..12, 0u8..3, any::<bool>()), 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However the set changes and however slowly the peer reads: in the end it knows what it should, and it was told
    /// nothing twice and nothing in vain.
    #[test]
    fn the_peer_ends_up_with_what_is_desired(steps in prop::collection::vec((entries(), 0usize..3), 1..12)) {
        let (mut bench, connection) = Bench::established(tor());
        let mut router = Router::default();
        let mut expected = BTreeMap::new();
        for (generation, (entries, reads)) in steps.into_iter().enumerate() {
            expected = entries
                .iter()
                .map(|(number, community, aggregate)| {
                    let address = IpAddr::from([198, 51, 100, *number]);
                    let mut route = Route::new(if *aggregate {
                        format!("198.51.100.{}/30", number & !3).parse().unwrap()
                    } else {
                        address.into()
                    });
                    route.communities.insert(u32::from(*community));
                    (address, Announcement::routes([route]))
                })
                .collect();
            let set = AnnounceSet::new(generation as u64 + 1, expected.clone());
            bench.handle(Input::Desired(Arc::new(set)));
            for _ in 0..reads {
                let mut out = Vec::new();
                // One message at a time.
                bench.speaker.poll_output(bench.now, connection, &mut out, 1);
                router.take(&out);
            }
        }
        let mut out = Vec::new();
        bench.speaker.poll_output(bench.now, connection, &mut out, usize::MAX);
        router.take(&out);
        let mut wanted: BTreeMap<IpNet, BTreeSet<u32>> = BTreeMap::new();
        for route in expected.values().flat_map(|entry| &entry.routes) {
            wanted.entry(route.prefix).or_default().extend(&route.communities);
        }
        let known: BTreeMap<IpNet, BTreeSet<u32>> = router
            .rib
            .iter()
            .map(|(prefix, attributes)| {
                let communities = attributes.iter().find_map(|attribute| match attribute {
                    Attribute::Communities(list) => Some(list.iter().copied().collect()),
                    _ => None,
                });
                (*prefix, communities.unwrap_or_default())
            })
            .collect();
        prop_assert_eq!(known, wanted);
    }

    /// Two speakers that call each other at the same time, with any delays: in the end one connection is left, the
    /// same for both, and both know the other's routes.
    #[test]
    fn two_speakers_that_call_each_other_agree(
        ids in (1u32.., 1u32..),
        delays in prop::collection::vec(0u64..40, 1..20),
        seed in any::<u64>(),
    ) {
        let mut pair = Pair::new(ids.0, ids.1, delays, seed);
        pair.run(secs(60));
        prop_assert_eq!(pair.states(), (State::Established, State::Established));
        prop_assert_eq!(pair.wires.len(), 1, "connections are left over");
        for (index, router) in pair.wires[0].heard.iter().enumerate() {
            prop_assert_eq!(router.rib.len(), 1, "speaker {}", index);
            prop_assert_eq!(router.ends, 2, "speaker {}", index);
        }
    }

    /// Whatever happens, and whatever peers send in whatever pieces.
    #[test]
    fn nothing_that_happens_breaks_the_speaker(steps in prop::collection::vec(any::<[u8; 4]>(), 0..60)) {
        laws::check(&laws::decode(&steps.concat()));
    }

    /// The same, mostly with sessions that come up.
    #[test]
    fn nor_does_what_happens_to_sessions_that_are_up(
        steps in prop::collection::vec((prop::sample::select(b"\x04\x06\x0a\x0c\x0d\x09\x01".to_vec()), any::<[u8; 3]>()), 0..60),
    ) {
        let up = [[2, 0, 0, 0], [4, 0, 0x0b, 90], [6, 0, 0, 0]].concat();
        let steps: Vec<u8> = steps.into_iter().flat_map(|(kind, [a, b, c])| [kind, a, b, c]).collect();
        laws::check(&laws::decode(&[up, steps].concat()));
    }
}

/// Two speakers and the wires between them.
struct Pair {
    ends: [End; 2],
    now: Instant,
    /// Each connection: its name at either end, and what is under way to either end.
    wires: Vec<Wire>,
    delays: Vec<u64>,
    turn: usize,
}

struct End {
    speaker: Speaker,
    address: IpAddr,
}

struct Wire {
    names: [Option<ConnectionId>; 2],
    /// What arrives when, in order; `None` is the end.
    queues: [std::collections::VecDeque<(Instant, Option<Vec<u8>>)>; 2],
    /// When the call arrives at the end that did not make it.
    rings: Option<(Instant, usize, IpAddr)>,
    /// What either end was told on it.
    heard: [Router; 2],
}

impl Pair {
    fn new(first: u32, second: u32, delays: Vec<u64>, seed: u64) -> Self {
        let now = Instant::from_millis(1000);
        let end = |index: usize, id: u32| {
            let address = |index: usize| IpAddr::from([192, 0, 2, 1 + index as u8]);
            let remote = PeerConfig::new("peer", address(1 - index), RemoteAs::External);
            let config = BgpConfig::new(65000 + index as u32, id.into()).peer(remote);
            let mut speaker = Speaker::new(now, &config, seed ^ index as u64).unwrap();
            let vip = IpAddr::from([198, 51, 100, index as u8]);
            let set = AnnounceSet::new(1, [(vip, Announcement::routes([Route::new(vip.into())]))]);
            speaker.handle(now, Input::Desired(Arc::new(set)));
            End { speaker, address: address(index) }
        };
        Self { ends: [end(0, first), end(1, second)], now, wires: Vec::new(), delays, turn: 0 }
    }

    fn states(&self) -> (State, State) {
        let state = |end: &End| end.speaker.peers().into_values().next().unwrap().state;
        (state(&self.ends[0]), state(&self.ends[1]))
    }

    fn delay(&mut self) -> Instant {
        self.turn += 1;
        self.now + Duration::from_millis(self.delays[self.turn % self.delays.len()])
    }

    fn send(&mut self, wire: usize, to: usize, what: Option<Vec<u8>>) {
        let at = self.delay();
        let queue = &mut self.wires[wire].queues[to];
        // TCP keeps the order.
        let at = queue.back().map_or(at, |(last, _)| at.max(*last));
        queue.push_back((at, what));
    }

    fn pump(&mut self) {
        for index in 0..2 {
            while let Some(event) = self.ends[index].speaker.poll_event() {
                match event {
                    Event::Connect { connection, .. } => {
                        let rings = Some((self.delay(), 1 - index, self.ends[index].address));
                        let mut names = [None, None];
                        names[index] = Some(connection);
                        self.wires.push(Wire {
                            names,
                            rings,
                            queues: Default::default(),
                            heard: Default::default(),
                        });
                    }
                    Event::Close { connection, farewell } => {
                        let wire = self.wires.iter().position(|wire| wire.names[index] == Some(connection));
                        let Some(wire) = wire else { continue };
                        self.send(wire, 1 - index, Some(farewell));
                        self.send(wire, 1 - index, None);
                        self.wires[wire].names[index] = None;
                    }
                }
            }
            for wire in 0..self.wires.len() {
                let Wire { names, rings, .. } = &self.wires[wire];
                let (Some(name), None) = (names[index], rings) else { continue };
                let mut out = Vec::new();
                self.ends[index].speaker.poll_output(self.now, name, &mut out, usize::MAX);
                if !out.is_empty() {
                    self.send(wire, 1 - index, Some(out));
                }
            }
        }
        self.wires.retain(|wire| wire.names.iter().any(Option::is_some));
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.pump();
            let arrivals = self.wires.iter().flat_map(|wire| {
                let queues = wire.queues.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at);
                queues.chain(wire.rings.as_ref().map(|(at, ..)| *at))
            });
            let timers = self.ends.iter().filter_map(|end| end.speaker.poll_timeout());
            let Some(next) = arrivals.chain(timers).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.deliver();
            for end in &mut self.ends {
                end.speaker.handle_timeout(self.now);
            }
        }
    }

    fn deliver(&mut self) {
        for wire in &mut self.wires {
            if let Some((at, callee, from)) = wire.rings
                && at <= self.now
            {
                wire.rings = None;
                let caller = wire.names[1 - callee];
                let end = &mut self.ends[callee];
                let local = end.address;
                match end.speaker.accept(self.now, SocketAddr::new(from, 40000), local) {
                    Ok(name) => wire.names[callee] = Some(name),
                    Err(refused) => {
                        wire.queues[1 - callee].push_back((self.now, Some(refused.farewell)));
                        wire.queues[1 - callee].push_back((self.now, None));
                    }
                }
                if let Some(connection) = caller {
                    let end = &mut self.ends[1 - callee];
                    end.speaker.handle(self.now, Input::Connected { connection, local: from });
                }
            }
            for index in 0..2 {
                let arrived = |queue: &std::collections::VecDeque<(Instant, _)>| {
                    queue.front().is_some_and(|(at, _)| *at <= self.now)
                };
                while arrived(&wire.queues[index]) {
                    let Some((_, what)) = wire.queues[index].pop_front() else { break };
                    let Some(connection) = wire.names[index] else { continue };
                    let speaker = &mut self.ends[index].speaker;
                    match what {
                        Some(bytes) => {
                            wire.heard[index].take(&bytes);
                            speaker.handle(self.now, Input::Received { connection, bytes: &bytes });
                        }
                        None => {
                            let error = "closed".to_owned();
                            speaker.handle(self.now, Input::Disconnected { connection, error });
                            wire.names[index] = None;
                        }
                    }
                }
            }
        }
    }
}
