//! Whom to believe: the exchange of tokens, the sequence of datagrams, the streams.

use std::net::SocketAddr;

use lbcore::id::NodeName;
use lbcore::time::Duration;
use rand::RngExt;

use super::membership::Id;
use super::peer::{Peer, Pending, Rival, Session, Stream, Window};
use super::table::Applied;
use super::{Cause, Machine, Output, Phase, STREAM_REST, StreamEvent, on_link_of};
use crate::wire::{Boot, Entries, Fetch, Hello, Message, Packet, WireError};

/// Between two greetings to a group once somebody was met.
const CALL_GROUPS: Duration = Duration::from_secs(10);

impl Machine {
    pub(super) fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.counters.received += 1;
        let opened = self
            .sealer
            .open(bytes)
            .and_then(|(boot, sequence, payload)| Ok((boot, sequence, Packet::parse(&payload)?)));
        let (boot, sequence, packet) = match opened {
            Ok(opened) => opened,
            Err(WireError::Unauthentic) => {
                self.troubles.foreign_key(self.now, from);
                return self.counters.unauthentic += 1;
            }
            Err(WireError::Malformed(_)) => return self.counters.malformed += 1,
            Err(_) => return self.counters.foreign += 1,
        };
        if boot == self.boot {
            return self.counters.own += 1;
        }
        // What it says of its address is under its seal, and where a datagram came from is not: whoever copies one and
        // sends it on is not taken for its sender.
        let from = match &packet.message {
            Message::Hello(hello) => on_link_of(self.address, hello.address),
            _ => from,
        };
        if packet.from == self.me {
            self.clash(packet.from, from);
            if let Message::Hello(hello) = packet.message {
                self.meet_rival(from, boot, packet.token, hello);
            }
            return;
        }
        if let Message::Hello(hello) = packet.message {
            return self.handle_hello(from, boot, sequence, &packet.from, packet.token, hello);
        }
        let session = self.peers.get_mut(&packet.from).and_then(|peer| peer.session.as_mut());
        let Some(session) = session.filter(|it| it.boot == boot && it.issued == packet.token) else {
            self.counters.unproven += 1;
            return self.challenge(from, boot, &packet.from);
        };
        if !session.window.accept(sequence) {
            return self.counters.replayed += 1;
        }
        let round = match &packet.message {
            Message::Heartbeat(heartbeat) => Some(heartbeat.round),
            _ => None,
        };
        self.touch(&packet.from, round);
        match packet.message {
            Message::Heartbeat(heartbeat) => self.handle_heartbeat(&packet.from, heartbeat),
            Message::Entries(part) => self.handle_entries(&packet.from, &part),
            Message::Fetch(fetch) => self.handle_fetch(&packet.from, &fetch),
            Message::Membership(data) => {
                let mut words = Vec::new();
                self.membership.handle_data(self.now, &data, &mut words);
                self.spread_words(words);
            }
            Message::Hello(_) => {}
        }
    }

    /// A word of a member arrived, of this round of its if it is a heartbeat.
    fn touch(&mut self, name: &NodeName, round: Option<u64>) {
        self.unheard = 0;
        let Some(peer) = self.peers.get_mut(name) else { return };
        // An owner's time runs from when its rounds begin: what it says in between gives it no more.
        if !peer.alive || peer.heard.is_none() || round.is_some_and(|round| round > peer.round) {
            peer.heard = Some(self.now);
        }
        // What waited for that may be decided.
        self.dirty |= peer.doubted.take().is_some();
        if let Stream::Refused { closed, .. } = peer.stream {
            // It may have said that before it ended.
            peer.stream = Stream::ask_again(closed, self.now);
        }
        if !peer.alive {
            self.revive(name);
        }
    }

    fn handle_hello(
        &mut self,
        from: SocketAddr,
        boot: Boot,
        sequence: u64,
        name: &NodeName,
        token: u64,
        hello: Hello,
    ) {
        let issued = self.rng.random::<u64>() | 1;
        let now = self.now;
        let peer =
            self.peers.entry(name.clone()).or_insert_with(|| Peer { since: now, ..Peer::at(Some(from)) });
        let mut accepted = false;
        if let Some(session) = peer.session.as_mut().filter(|session| session.boot == boot) {
            if !session.window.accept(sequence) {
                self.counters.replayed += 1;
                return;
            }
            session.show(hello.token);
            accepted = session.issued == token;
        } else {
            if peer.pending.as_ref().is_none_or(|pending| pending.boot != boot) {
                peer.pending = Some(Pending { boot, since: now, issued, shown: 0 });
            }
            if let Some(pending) = &mut peer.pending {
                pending.show(hello.token);
                accepted = pending.issued == token;
            }
            if accepted && !self.accept(from, boot, sequence, name) {
                // Told all the same that we are there, or it would take itself for the only node.
                return self.challenge(from, boot, name);
            }
        }
        if accepted {
            self.touch(name, None);
        }
        if !accepted || !hello.accepted {
            self.send_hello(from, boot, name);
        }
    }

    /// The run `boot` of `name` has proved to be there now. False if another run of that name is there too.
    fn accept(&mut self, from: SocketAddr, boot: Boot, sequence: u64, name: &NodeName) -> bool {
        let Some(peer) = self.peers.get(name) else { return false };
        if peer.alive && peer.boot != Some(boot) {
            let address = peer.session.as_ref().map(|session| session.address).or(peer.address);
            if address.is_some_and(|address| address != from) {
                self.clash(name.clone(), from);
                return false;
            }
            // Only one process can have the address: the other one is over.
            self.bury(name, Cause::Restarted);
        }
        let Some(peer) = self.peers.get_mut(name) else { return false };
        let Some(pending) = peer.pending.take() else { return false };
        if peer.boot != Some(boot) {
            peer.reborn(boot);
        }
        let mut window = Window::default();
        window.accept(sequence);
        peer.gone = None;
        peer.hurry = self.timing.missed;
        peer.address = Some(from);
        peer.session =
            Some(Session { boot, address: from, issued: pending.issued, shown: pending.shown, window });
        peer.told = 0;
        peer.sent = peer.acked;
        self.dirty = true;
        let mut words = Vec::new();
        let id = Id { node: name.clone(), address: from, boot, epoch: 0 };
        self.membership.announce(self.now, id, &mut words);
        self.spread_words(words);
        true
    }

    /// Asks a sender that is not believed to prove that it is there now.
    fn challenge(&mut self, to: SocketAddr, boot: Boot, name: &NodeName) {
        let issued = self.rng.random::<u64>() | 1;
        let now = self.now;
        let peer = self.peers.entry(name.clone()).or_insert_with(|| Peer { since: now, ..Peer::default() });
        if peer.greeted.is_some_and(|at| now < at + self.timing.interval / 2) {
            return;
        }
        peer.greeted = Some(now);
        let known = peer.session.as_ref().is_some_and(|session| session.boot == boot);
        if !known && peer.pending.as_ref().is_none_or(|pending| pending.boot != boot) {
            peer.pending = Some(Pending { boot, since: now, issued, shown: 0 });
        }
        self.send_hello(to, boot, name);
    }

    fn send_hello(&mut self, to: SocketAddr, boot: Boot, name: &NodeName) {
        let Some(peer) = self.peers.get(name) else { return };
        let session = peer.session.as_ref().filter(|session| session.boot == boot);
        let pending = peer.pending.as_ref().filter(|pending| pending.boot == boot);
        let (shown, token) = match (session, pending) {
            (Some(session), _) => (session.shown, session.issued),
            (None, Some(pending)) => (pending.shown, pending.issued),
            (None, None) => (0, 0),
        };
        let accepted = session.is_some();
        self.send_to(to, shown, self.hello(token, accepted));
    }

    fn hello(&self, token: u64, accepted: bool) -> Message {
        Message::Hello(Hello {
            token,
            accepted,
            settled: self.phase == Phase::Settled,
            address: self.address,
        })
    }

    /// Greets somebody of whom only the address is known, or no session stands with.
    pub(super) fn greet(&mut self, to: SocketAddr, name: &NodeName) {
        let boot = self.peers.get(name).and_then(|peer| peer.pending.as_ref()).map(|pending| pending.boot);
        match boot {
            Some(boot) => self.send_hello(to, boot, name),
            None => self.send_to(to, 0, self.hello(0, false)),
        }
    }

    pub(super) fn set_seeds(&mut self, seeds: impl IntoIterator<Item = SocketAddr>) {
        let (ours, now) = (self.address, self.now);
        let others = seeds.into_iter().filter(|seed| *seed != ours);
        let met = |seed: &SocketAddr| self.seeds.get(seed).copied();
        self.seeds = others.map(|seed| (seed, met(&seed).unwrap_or(Some(now)))).collect();
    }

    /// Greets the seeds that are nobody's address yet, and all members without a session. A group is greeted until
    /// somebody is met, and rarely afterwards: two halves of it may have begun without hearing each other.
    pub(super) fn greet_all(&mut self) {
        let anybody = self.peers.values().any(|peer| peer.session.is_some());
        let calls = !anybody || self.called + CALL_GROUPS <= self.now;
        let strangers: Vec<_> = self
            .seeds
            .keys()
            .copied()
            .filter(|seed| !seed.ip().is_multicast() || calls)
            .filter(|seed| !self.peers.values().any(|peer| peer.address == Some(*seed)))
            .collect();
        if calls {
            self.called = self.now;
        }
        for seed in strangers {
            self.send_to(seed, 0, self.hello(0, false));
        }
        let silent: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.session.is_none())
            .filter_map(|(name, peer)| Some((name.clone(), peer.address?)))
            .collect();
        for (name, address) in silent {
            self.greet(address, &name);
        }
    }

    /// Another run with our name, which must prove to be there now: recorded words of our own last run come from one,
    /// too. Of two that both may own the one with the higher number becomes silent.
    fn meet_rival(&mut self, from: SocketAddr, boot: Boot, token: u64, hello: Hello) {
        let fresh = self.rng.random::<u64>() | 1;
        let rival = match &mut self.rival {
            Some(rival) if rival.boot == boot || rival.is_there(self.now, &self.timing) => rival,
            rival => rival.insert(Rival { boot, issued: fresh, proved: None, settled: false }),
        };
        if rival.boot != boot {
            return;
        }
        let accepted = rival.issued == token;
        if accepted {
            // Once only, so that nothing is proved by a record of it.
            rival.issued = fresh;
            rival.proved = Some(self.now);
            rival.settled = hello.settled;
        }
        let (issued, yields) = (rival.issued, accepted && rival.settled && boot < self.boot);
        if !accepted || !hello.accepted {
            self.send_to(from, hello.token, self.hello(issued, accepted));
        }
        if yields && self.phase == Phase::Settled {
            self.lose_lease();
        }
    }

    /// Two nodes have one name.
    fn clash(&mut self, name: NodeName, from: SocketAddr) {
        self.counters.name_clash += 1;
        self.troubles.name_clash(self.now, name, from);
    }

    fn handle_entries(&mut self, from: &NodeName, part: &Entries) {
        if part.origin == self.me {
            return;
        }
        let Some(peer) = self.peers.get_mut(&part.origin).filter(|peer| peer.boot == Some(part.boot)) else {
            return;
        };
        peer.latest = peer.latest.max(part.latest);
        if part.anew {
            peer.staged = Some(super::Table::default());
        }
        let table = peer.staged.as_mut().unwrap_or(&mut peer.table);
        let applied = table.apply(part);
        if let Some(staged) = peer.staged.take_if(|staged| staged.version() >= peer.latest) {
            peer.table = staged;
        }
        match applied {
            Applied::Yes => {
                self.claims.hear_terms(&part.entries);
                self.dirty = true;
                if part.pauses {
                    peer.fetched = None;
                    self.catch_up(&part.origin, from);
                }
            }
            Applied::Gap => self.catch_up(&part.origin, from),
            Applied::Old => {}
        }
    }

    fn handle_fetch(&mut self, from: &NodeName, fetch: &Fetch) {
        if fetch.origin == self.me {
            if fetch.boot == self.boot {
                self.send_state(from, fetch.have);
            }
            return;
        }
        let known = self.peers.get(&fetch.origin).filter(|peer| peer.boot == Some(fetch.boot));
        let room = Entries::room(&self.me, &fetch.origin);
        let parts = known
            .map(|peer| peer.table.since(&fetch.origin, fetch.boot, fetch.have, room))
            .unwrap_or_default();
        for part in parts {
            self.send(from, Message::Entries(part));
        }
    }

    /// Asks `via` for what is missing of the state of `origin`, unless that was asked a moment ago.
    pub(super) fn catch_up(&mut self, origin: &NodeName, via: &NodeName) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(origin) else { return };
        let have = peer.staged.as_ref().unwrap_or(&peer.table).version();
        let Some(boot) = peer.boot.filter(|_| have < peer.latest) else { return };
        if peer.fetched.is_some_and(|at| now < at + self.timing.interval / 2) {
            return;
        }
        peer.fetched = Some(now);
        self.send(via, Message::Fetch(Fetch { origin: origin.clone(), boot, have }));
    }

    /// Opens the streams that are wanted, to those on whose deaths this node acts, and closes those that are no more.
    pub(super) fn tend_streams(&mut self) {
        let (now, takeover) = (self.now, self.timing.takeover());
        for peer in self.peers.values_mut() {
            if !peer.watched {
                if let Stream::Open { id } | Stream::Connecting { id } = peer.stream {
                    self.outputs.push_back(Output::Disconnect { stream: id });
                    peer.stream = Stream::None;
                }
                continue;
            }
            let Some(session) = peer.session.as_ref().filter(|_| peer.alive) else { continue };
            let id = self.next_stream + 1;
            peer.stream = match peer.stream {
                Stream::None => Stream::Connecting { id },
                Stream::Resting { until } if until <= now => Stream::Connecting { id },
                Stream::AskAgain { closed, .. } if closed + takeover <= now => Stream::Connecting { id },
                Stream::AskAgain { closed, at } if at <= now => Stream::Asking { id, closed },
                _ => continue,
            };
            self.next_stream = id;
            self.outputs.push_back(Output::Connect { to: session.address, stream: id });
        }
    }

    pub(super) fn handle_stream(&mut self, stream: u64, event: StreamEvent) {
        let (now, takeover) = (self.now, self.timing.takeover());
        let found = self.peers.iter_mut().find(|(_, peer)| match peer.stream {
            Stream::Connecting { id } | Stream::Open { id } | Stream::Asking { id, .. } => id == stream,
            _ => false,
        });
        let Some((name, peer)) = found else { return };
        let name = name.clone();
        peer.stream = match (peer.stream, event) {
            // At once only once a second: a host that is out of room closes each as soon as it stands.
            (Stream::Open { .. }, StreamEvent::Closed)
                if peer.asked.is_none_or(|asked| asked + STREAM_REST <= now) =>
            {
                peer.asked = Some(now);
                // Maybe the process ended, maybe only the connection: its host knows, and so does it.
                let id = self.next_stream + 1;
                self.next_stream = id;
                if let Some(session) = &peer.session {
                    self.outputs.push_back(Output::Connect { to: session.address, stream: id });
                }
                peer.stream = Stream::Asking { id, closed: now };
                return self.send_heartbeat(&name, true);
            }
            (Stream::Asking { closed, .. }, StreamEvent::Refused) if now < closed + takeover => {
                peer.stream = Stream::Refused { closed, at: now + self.timing.last_word() };
                return self.send_heartbeat(&name, true);
            }
            (Stream::Asking { closed, .. }, StreamEvent::Failed | StreamEvent::Closed) => {
                Stream::ask_again(closed, now)
            }
            // Taken by a listener that was about to close itself.
            (Stream::Open { .. }, StreamEvent::Closed)
                if let Some(closed) = peer.asked.filter(|asked| now < *asked + takeover) =>
            {
                Stream::ask_again(closed, now)
            }
            (Stream::Connecting { id } | Stream::Asking { id, .. }, StreamEvent::Opened) => {
                Stream::Open { id }
            }
            (_, StreamEvent::Opened) => return,
            _ => Stream::Resting { until: now + STREAM_REST.max(Duration::from_millis(1)) },
        };
    }
}
