//! What is watched from outside: the frames on the segment, and what the clients live to see.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lbcore::elect::Term;
use lbcore::time::{Duration, Instant};

use super::neighbours::Kind;
use super::scenario::{Mode, Scenario};
use super::{Fake, Wrong};

/// By then all nodes have started.
const STARTED: Instant = Instant::from_millis(50);

/// What a node has said of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Spoken {
    term: Term,
    /// When it spoke first under that term.
    since: Option<Instant>,
    at: Option<Instant>,
    announced: Option<Instant>,
    /// Who could know, a bit each.
    known_to: u32,
}

/// What a client has lived to see of an address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Experience {
    /// Since when its requests fail.
    failing: Option<Instant>,
    /// A frame that would have told it was lost; it is told again within that time.
    excused: Instant,
    /// Whether the present speaker's word has reached it, and how many of its words were lost before.
    told: bool,
    missed: u32,
    /// A frame of a former owner that the rules allow has reached it: its cache is to find out by itself.
    misled: bool,
    /// Since when nobody answers a question on its behalf.
    pub(crate) unanswered: Option<Instant>,
}

/// The longest times without an answer, and how much was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) moves: u64,
    pub(crate) frames: u64,
    pub(crate) escaped: u64,
    pub(crate) datagrams: u64,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) misled: u64,
    pub(crate) unanswered: Duration,
    pub(crate) failing: Duration,
    pub(crate) busiest_second: u64,
}

#[derive(Debug)]
pub(crate) struct Referee {
    pub(crate) addresses: Vec<IpAddr>,
    index: BTreeMap<IpAddr, usize>,
    spoken: Vec<Vec<Spoken>>,
    /// Who announced an address last.
    speaker: Vec<Option<usize>>,
    /// From when on somebody must answer for an address.
    due: Vec<Instant>,
    /// Until then two that heard nothing of each other may both speak.
    lenient_until: Instant,
    by_gossip: bool,
    /// From then on nothing moves.
    pub(crate) quiet_at: Instant,
    /// What is wrong on purpose; some of it with what the referee is told.
    pub(crate) wrong: Wrong,
    pub(crate) clients: Vec<Vec<Experience>>,
    /// When the next unasked frame of each node would be due if they were evenly spaced.
    paced: Vec<Instant>,
    /// Datagrams of each node in the present second.
    seconds: Vec<(u64, u64)>,
    /// A client may be told by two owners.
    torn: bool,
    pub(crate) figures: Figures,
    pub(crate) failure: Option<String>,
}

/// A frame of a node on the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) node: usize,
    pub(crate) address: usize,
    pub(crate) kind: Kind,
    pub(crate) term: Term,
    /// Whom it must agree with, a bit each: those that hear each other.
    pub(crate) related: u32,
    /// Who runs, a bit each.
    pub(crate) running: u32,
}

impl Referee {
    pub(crate) fn new(scenario: &Scenario, addresses: Vec<IpAddr>) -> Self {
        let (nodes, count) = (scenario.nodes, addresses.len());
        Self {
            index: addresses.iter().enumerate().map(|(index, address)| (*address, index)).collect(),
            addresses,
            spoken: vec![vec![Spoken::default(); nodes]; count],
            speaker: vec![None; count],
            due: vec![Instant::ZERO; count],
            lenient_until: Instant::ZERO,
            by_gossip: matches!(scenario.mode, Mode::Gossip(_)),
            quiet_at: Instant::ZERO,
            wrong: Wrong::Program(Fake::None),
            clients: vec![vec![Experience::default(); count]; scenario.clients],
            paced: vec![Instant::ZERO; nodes],
            seconds: vec![(0, 0); nodes],
            torn: false,
            figures: Figures::default(),
            failure: None,
        }
    }

    pub(crate) fn index(&self, address: IpAddr) -> Option<usize> {
        self.index.get(&address).copied()
    }

    pub(crate) fn speaker(&self, address: usize) -> Option<usize> {
        self.speaker[address]
    }

    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(what());
        }
    }

    /// Something happened: somebody must answer again within `bound`, and nothing moves any more after `calm`.
    /// `only` are the addresses that it concerns.
    pub(crate) fn disturbed(&mut self, now: Instant, bound: Duration, calm: Duration, only: Option<usize>) {
        let alone = now > self.quiet_at;
        for (due, speaker) in self.due.iter_mut().zip(&self.speaker) {
            if !alone || only.is_none() || *speaker == only || speaker.is_none() {
                *due = (*due).max(now + bound);
            }
        }
        if self.wrong != Wrong::UntoldFaults || now <= STARTED {
            self.quiet_at = self.quiet_at.max(now + calm);
        }
    }

    /// Nodes that heard nothing of each other do so again. With leases they need not.
    pub(crate) fn lenient(&mut self, until: Instant) {
        if self.by_gossip {
            self.lenient_until = self.lenient_until.max(until);
        }
    }

    /// What `node` knew of terms is known to nobody any more.
    pub(crate) fn forget(&mut self, nodes: &[usize]) {
        for spoken in &mut self.spoken {
            for node in nodes.iter().copied() {
                spoken[node] = Spoken::default();
            }
        }
    }

    /// A process starts: its pace begins anew.
    pub(crate) fn started(&mut self, node: usize) {
        self.paced[node] = Instant::ZERO;
    }

    /// 1 and 5: at most one speaks for an address, and terms rise.
    pub(crate) fn heard(&mut self, now: Instant, it: Heard) {
        self.figures.frames += 1;
        let Heard { node, address, kind, term, related, running } = it;
        let term = if self.wrong == Wrong::OneTerm { Term(1) } else { term };
        let mine = self.spoken[address][node];
        let name = self.addresses[address];
        for (other, theirs) in self.spoken[address].clone().into_iter().enumerate() {
            // What was said on the other side of a cut by one that has been silent since is not known.
            let known = (theirs.known_to >> node | running >> other) & related >> other & 1 == 1;
            let Some(at) = theirs.at.filter(|_| other != node && now > self.lenient_until && known) else {
                continue;
            };
            // A gap that is known: who hears of the last owner through a third one only, after it is dead, may come to
            // the same term. Both must not speak under it.
            let began = mine.since.filter(|_| mine.term == term).unwrap_or(now);
            let repeated = theirs.term == term && at < began;
            if (theirs.term, other) > (term, node) && !repeated {
                let later = theirs.term;
                self.fail(|| {
                    format!(
                        "two speak for {name}: n{} under {term}, though n{} has spoken under {later} at {at:?}",
                        node + 1,
                        other + 1
                    )
                });
            }
            // Whatever the terms. (An answer may come before the first announcement, which waits for its turn.)
            let since = mine.since.filter(|_| mine.term == term);
            let overtaken = theirs.announced.zip(since).is_some_and(|(at, since)| at > since);
            if overtaken && theirs.announced > Some(self.lenient_until) {
                self.fail(|| {
                    format!(
                        "two speak for {name}: n{} still does, though n{} has announced it since",
                        node + 1,
                        other + 1
                    )
                });
            }
        }
        let spoken = &mut self.spoken[address][node];
        if spoken.term != term || spoken.at.is_none() {
            spoken.since = Some(now);
        }
        spoken.at = Some(now);
        spoken.term = term;
        spoken.known_to = related & running;
        if kind == Kind::Announcement {
            spoken.announced = Some(now);
        }
    }

    /// An announcement, for 3: tells who announced the address before, if that was another.
    pub(crate) fn moved(&mut self, address: usize, to: usize) -> Option<usize> {
        let before = self.speaker[address].replace(to).filter(|before| *before != to);
        if before.is_some() {
            self.figures.moves += 1;
            for client in &mut self.clients {
                client[address].told = false;
                client[address].missed = 0;
            }
        }
        before
    }

    /// How many addresses a node speaks for.
    pub(crate) fn load(&self, node: usize) -> usize {
        self.speaker.iter().filter(|speaker| **speaker == Some(node)).count()
    }

    /// 4: an unasked frame.
    pub(crate) fn unasked(&mut self, now: Instant, node: usize, scenario: &Scenario) {
        let interval = Duration::from_secs(1) / scenario.pace.per_second.max(1);
        let ahead = interval * scenario.pace.burst.saturating_sub(1);
        // Their clocks may be fast.
        let ahead = ahead + interval / 10;
        let due = self.paced[node];
        if due > now + ahead {
            let pace = scenario.pace;
            self.fail(|| format!("a storm: n{} sends more frames unasked than {pace:?} allows", node + 1));
        }
        self.paced[node] = due.max(now) + interval.mul_f64(0.999);
    }

    /// 4: a datagram or a request to the store.
    pub(crate) fn sent(&mut self, now: Instant, node: usize, limit: u64) {
        self.figures.datagrams += 1;
        let second = now.as_nanos() / 1_000_000_000;
        let (at, count) = &mut self.seconds[node];
        if *at != second {
            (*at, *count) = (second, 0);
        }
        *count += 1;
        let count = *count;
        self.figures.busiest_second = self.figures.busiest_second.max(count * 100 / limit.max(1));
        if count > limit {
            self.fail(|| format!("a storm: n{} sends more than {limit} messages in a second", node + 1));
        }
    }

    /// A frame about an address reached a client: from its speaker, or by leave from another.
    pub(crate) fn told(&mut self, client: usize, address: usize, from: usize) {
        let speaker = self.speaker[address];
        let it = &mut self.clients[client][address];
        if speaker == Some(from) {
            it.told = true;
            it.misled = self.torn;
        } else {
            it.misled = true;
            self.figures.misled += 1;
        }
    }

    /// A cut that the nodes do not notice, or that lets two owners be heard by one client, begins or ends: the clients'
    /// caches are to find out by themselves who is where.
    pub(crate) fn mislead(&mut self, torn: bool) {
        self.torn = torn;
        self.clients.iter_mut().flatten().for_each(|it| it.misled = true);
    }

    /// A frame about an address was lost on its way to or from a client.
    pub(crate) fn lost(&mut self, now: Instant, client: usize, address: usize) {
        let it = &mut self.clients[client][address];
        it.missed += 1;
        it.excused = it.excused.max(now + Duration::from_millis(1250));
    }

    /// 2: an answer to a question on behalf of a client.
    pub(crate) fn answered(&mut self, now: Instant, client: usize, address: usize) {
        if let Some(since) = self.clients[client][address].unanswered.take() {
            self.figures.unanswered = self.figures.unanswered.max(now.saturating_since(since));
        }
    }

    /// 2: nobody answered a question that was asked at `asked`. `must` tells whether somebody could.
    pub(crate) fn unanswered(
        &mut self,
        asked: Instant,
        client: usize,
        address: usize,
        must: bool,
        handover: Duration,
    ) {
        let it = &mut self.clients[client][address];
        if !must {
            it.unanswered = None;
            return;
        }
        let since = *it.unanswered.get_or_insert(asked);
        let due = self.due[address];
        // A planned move may be under way, unless all is quiet.
        let spare = if asked > self.quiet_at { Duration::ZERO } else { handover };
        if asked > due.max(since) + spare && asked > due {
            let name = self.addresses[address];
            self.fail(|| format!("nobody answers for {name} since {since:?}; somebody should since {due:?}"));
        }
    }

    /// 2: how a request went.
    pub(crate) fn requested(
        &mut self,
        now: Instant,
        client: usize,
        address: usize,
        success: bool,
        (must, bound): (bool, Duration),
    ) {
        self.figures.requests += 1;
        let due = self.due[address];
        let it = &mut self.clients[client][address];
        if success {
            it.misled = false;
            if let Some(since) = it.failing.take() {
                self.figures.failing = self.figures.failing.max(now.saturating_since(since));
            }
            return;
        }
        self.figures.failed += 1;
        if !must || it.misled || (!it.told && it.missed >= 3) {
            it.failing = None;
            return;
        }
        let since = *it.failing.get_or_insert(now);
        let from = due.max(it.excused).max(since);
        if now > from + bound {
            let (name, it) = (self.addresses[address], *it);
            self.fail(|| {
                format!(
                    "the requests of c{} to {name} fail since {since:?}; they should not since {from:?} ({it:?})",
                    client + 1
                )
            });
        }
    }
}
