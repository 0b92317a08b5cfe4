//! What this node knows of another one.

use std::net::SocketAddr;

use lbcore::time::{Duration, Instant};

use super::table::Table;
use crate::config::Timing;
use crate::wire::Boot;

/// Another node.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// Where it is reached; `None` if it is known from others' words only.
    pub(super) address: Option<SocketAddr>,
    /// The run of it that the rest is about.
    pub(super) boot: Option<Boot>,
    pub(super) session: Option<Session>,
    /// Another run that is to prove that it is there now.
    pub(super) pending: Option<Pending>,
    pub(super) alive: bool,
    /// When it became alive or dead.
    pub(super) since: Instant,
    /// When its last own round was first heard of.
    pub(super) heard: Option<Instant>,
    /// In how many intervals after that the next one follows at the latest, as it said; zero if it has not said so.
    pub(super) promise: u8,
    /// When, at the latest, others heard it last.
    pub(super) indirect: Option<Instant>,
    /// Until when it is alive by what others heard and were promised.
    pub(super) vouched: Instant,
    /// Whether this node acts on its death.
    pub(super) watched: bool,
    /// Since when it has been asked whether it is there, without an answer.
    pub(super) doubted: Option<Instant>,
    /// Not held for dead earlier than the takeover time after this: we did not listen ourselves.
    pub(super) grace: Instant,
    /// Its state, and the version that it is said to have reached.
    pub(super) table: Table,
    pub(super) latest: u64,
    /// A state that is being transferred anew.
    pub(super) staged: Option<Table>,
    pub(super) fetched: Option<Instant>,
    pub(super) behind_since: Option<Instant>,
    /// The run of it that is over for certain, whatever others still say.
    pub(super) gone: Option<Boot>,
    /// When it was last greeted out of turn.
    pub(super) greeted: Option<Instant>,
    /// The version of our state that we had when we last sent of it, how far that went, and the version that the
    /// peer says to have.
    pub(super) told: u64,
    pub(super) sent: u64,
    pub(super) acked: u64,
    /// The last of its rounds that we heard, and the last of ours that it answered.
    pub(super) round: u64,
    pub(super) echoed: u64,
    /// Whether it acts on our death, and is spoken to each interval.
    pub(super) quick: bool,
    /// So many rounds more it is spoken to as if it did: it has to learn first that we speak less often.
    pub(super) hurry: u32,
    /// The round in which it is spoken to next otherwise.
    pub(super) due: u64,
    /// What it was promised last; zero for nothing.
    pub(super) promised: u8,
    /// How many others it holds for alive.
    pub(super) live: u16,
    pub(super) stream: Stream,
    /// When a stream that was closed was last asked for again at once.
    pub(super) asked: Option<Instant>,
}

impl Peer {
    pub(super) fn at(address: Option<SocketAddr>) -> Self {
        Self { address, ..Self::default() }
    }

    /// The last word of it that we know of.
    pub(super) fn word(&self) -> Instant {
        let heard = self.heard.unwrap_or(Instant::ZERO);
        heard.max(self.indirect.unwrap_or(Instant::ZERO))
    }

    /// When it is to be held for dead if nothing more is heard.
    pub(super) fn dies_at(&self, timing: &Timing) -> Instant {
        let (takeover, patience) = (timing.takeover(), timing.patience(self.promise));
        if let Some(doubted) = self.doubted {
            return self.word().max(self.grace).max(doubted) + takeover;
        }
        let direct = self.heard.unwrap_or(Instant::ZERO).max(self.grace) + patience;
        let indirect = self.indirect.unwrap_or(Instant::ZERO) + takeover;
        direct.max(indirect).max(if self.watched { Instant::ZERO } else { self.vouched })
    }

    /// Whether its own words arrive.
    pub(super) fn is_heard(&self, now: Instant, timing: &Timing) -> bool {
        let patience = timing.patience(self.promise);
        self.alive && self.session.is_some() && self.heard.is_some_and(|heard| now < heard + patience)
    }

    /// When the next attempt at its stream is due that no round makes, or a refusal is to be believed.
    pub(super) fn asks_at(&self) -> Option<Instant> {
        match self.stream {
            Stream::AskAgain { at, .. } if self.alive && self.session.is_some() => Some(at),
            Stream::Refused { .. } => self.refused_at(),
            _ => None,
        }
    }

    /// When its host's word that the process is gone is to be believed.
    pub(super) fn refused_at(&self) -> Option<Instant> {
        match self.stream {
            Stream::Refused { at, .. } if self.alive => Some(at),
            _ => None,
        }
    }

    /// Whether its state is known as far as it is said to reach.
    pub(super) fn synced(&self) -> bool {
        self.latest > 0 && self.table.version() >= self.latest
    }

    /// Begins to be about another run: what is known of the old one no longer counts.
    pub(super) fn reborn(&mut self, boot: Boot) {
        let old = std::mem::take(self);
        self.address = old.address;
        self.grace = old.grace;
        self.since = old.since;
        self.gone = old.gone.filter(|gone| *gone != boot);
        self.pending = old.pending;
        self.boot = Some(boot);
    }
}

/// A run of another node that has proved to be there now.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) boot: Boot,
    pub(super) address: SocketAddr,
    /// What it must show us.
    pub(super) issued: u64,
    /// What we must show it; zero if it has not said so yet.
    pub(super) shown: u64,
    pub(super) window: Window,
}

impl Session {
    pub(super) fn show(&mut self, token: u64) {
        if token != 0 {
            self.shown = token;
        }
    }
}

impl Pending {
    pub(super) fn show(&mut self, token: u64) {
        if token != 0 {
            self.shown = token;
        }
    }
}

/// A run of another node that has not.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) boot: Boot,
    pub(super) since: Instant,
    pub(super) issued: u64,
    pub(super) shown: u64,
}

/// Another run with this node's own name: a mistake of whoever named them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    pub(super) boot: Boot,
    /// What it must show us next.
    pub(super) issued: u64,
    /// When it last proved to be there.
    pub(super) proved: Option<Instant>,
    /// Whether it may own, as it said then.
    pub(super) settled: bool,
}

impl Rival {
    /// Whether it proved to be there a moment ago. It is greeted every few rounds.
    pub(super) fn is_there(&self, now: Instant, timing: &Timing) -> bool {
        self.proved.is_some_and(|proved| now < proved + timing.takeover() * 3)
    }
}

/// A TCP connection, which tells the end of a process at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stream {
    /// None yet.
    #[default]
    None,
    /// None, and none is asked for before that time.
    Resting { until: Instant },
    /// Asked for.
    Connecting { id: u64 },
    /// It stands.
    Open { id: u64 },
    /// It stood until `closed`; a new attempt is to show whether the process is gone.
    Asking { id: u64, closed: Instant },
    /// The same, and the next attempt is due at `at`.
    AskAgain { closed: Instant, at: Instant },
    /// The attempt was refused. Anybody on the segment can do that, and a firewall: unless the process itself is
    /// heard before `at`, it is gone.
    Refused { closed: Instant, at: Instant },
}

impl Stream {
    /// What was closed at `closed` told nothing yet: while a process ends, its sockets close one after the other. The
    /// next attempt waits as long again as it has taken so far, so that few are made.
    pub(super) fn ask_again(closed: Instant, now: Instant) -> Self {
        Self::AskAgain { closed, at: now + now.saturating_since(closed).max(ASK_AGAIN) }
    }
}

/// After an attempt that told nothing, the next is made no sooner.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Accepts each sequence number once: those above the highest seen, and missing ones not too far below.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    top: u64,
    seen: [u64; Self::WORDS],
}

impl Window {
    const WORDS: usize = 16;
    const SPAN: u64 = Self::WORDS as u64 * 64;

    pub(super) fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.top {
            let steps = sequence - self.top;
            if steps >= Self::SPAN {
                self.seen = [0; Self::WORDS];
            } else {
                for passed in self.top + 1..sequence {
                    self.clear(passed);
                }
            }
            self.clear(sequence);
            self.top = sequence;
        } else if self.top - sequence >= Self::SPAN {
            return false;
        }
        let (word, bit) = Self::place(sequence);
        let fresh = self.seen.get(word).is_some_and(|seen| seen & bit == 0);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen |= bit;
        }
        fresh
    }

    fn clear(&mut self, sequence: u64) {
        let (word, bit) = Self::place(sequence);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen &= !bit;
        }
    }

    fn place(sequence: u64) -> (usize, u64) {
        let at = sequence % Self::SPAN;
        (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sequence_number_is_accepted_once() {
        let mut window = Window::default();
        for (sequence, fresh) in [
            (5, true),
            (5, false),
            (3, true),
            (3, false),
            (1023 + 5, true),
            (5, false),
            (4, false),
            (6, true),
            (10_000, true),
            (6, false),
            (9_000, true),
            (10_000, false),
            (10_000 - 1024, false),
            (10_000 - 1023, true),
        ] {
            assert_eq!(window.accept(sequence), fresh, "{sequence}");
        }
    }

    proptest! {
        #[test]
        fn never_twice_and_the_near_ones_always_once(steps in prop::collection::vec(-1200_i64..1500, 1..400)) {
            let (mut window, mut seen, mut at, mut top) = (Window::default(), BTreeSet::new(), 1_u64, 0_u64);
            for step in steps {
                at = at.saturating_add_signed(step).max(1);
                let near = at + Window::SPAN > top;
                let fresh = window.accept(at);
                prop_assert_eq!(fresh, near && !seen.contains(&at), "{} under {}", at, top);
                if near {
                    seen.insert(at);
                }
                top = top.max(at);
            }
        }
    }
}
