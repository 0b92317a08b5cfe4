//! The machine.

use std::collections::VecDeque;

use super::{Holder, Record, Revision, State, Timing, TimingError};
use crate::elect::Term;
use crate::time::Instant;

/// A lease on one record, without I/O.
///
/// Give it inputs with [`handle`](Self::handle), and call [`handle_timeout`](Self::handle_timeout) when the time of
/// [`poll_timeout`](Self::poll_timeout) has come; the first call starts it. After each of both take all of
/// [`poll_output`](Self::poll_output) and [`poll_event`](Self::poll_event). `now` is read before each call and never goes
/// back. Outputs must be carried out after the call that made them: their time counts from there. Answers may come
/// late, twice, out of order or not at all.
///
/// `N` is the holder's note in the record.
///
/// ```
/// use lbcore::elect::lease::{Goal, Holder, Input, Lease, Output, State, Timing};
/// use lbcore::time::{Duration, Instant};
///
/// let timing = Timing::of(Duration::from_secs(3));
/// let mut lease = Lease::new(Holder::new("node-1".into(), 7), timing, Goal::Hold, ())?;
/// let start = Instant::from_millis(1000);
/// lease.handle_timeout(start);
/// let Some(Output::Read { ticket }) = lease.poll_output() else { panic!("it reads first") };
/// lease.handle(start, Input::Seen { ticket, found: None });
/// // Nothing is there. It could have been deleted from under a holder: that one is waited out first.
/// let Some(Output::Write { record, .. }) = lease.poll_output() else { panic!("then it writes") };
/// assert_eq!(record.state, State::New);
/// # Ok::<(), lbcore::elect::lease::TimingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lease<N> {
    me: Holder,
    timing: Timing,
    goal: Goal,
    note: N,
    now: Instant,
    known: Option<Known<N>>,
    /// Whether `known` may be outdated by a write of ours whose fate is unknown, or by somebody else's.
    doubt: bool,
    last_read: Instant,
    as_of: Option<Instant>,
    held: Option<Held>,
    renew_at: Instant,
    read_at: Instant,
    reading: Option<(Ticket, Instant)>,
    writing: Option<Writing<N>>,
    /// Our writes that name us the holder and that may still turn out to have been applied, oldest first.
    attempts: VecDeque<Attempt>,
    next_ticket: Ticket,
    /// Reads that began before this one say nothing new.
    floor: Ticket,
    beat: u64,
    /// The beat of the last of our writes that the store is known to have applied.
    applied: u64,
    /// The highest term that we have seen or had.
    last_term: Term,
    /// The last term that we held the lease in and lost it. It is never ours again in that term.
    lost_term: Term,
    outputs: VecDeque<Output<N>>,
    events: VecDeque<Event>,
    #[cfg(test)]
    pub(super) mutant: Option<super::tests::Mutant>,
}

/// What a [`Lease`] is to do with its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Take it when it is free or its holder is dead, and keep it.
    Hold,
    /// Free it when its holder is dead, for somebody else's benefit.
    Fence,
    /// Read it, and release it if it is held. Stop acting on the lease before setting this.
    Observe,
}

/// Names a read or a write, to tell its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input<N> {
    /// The answer to a read: what is there, with its revision.
    Seen {
        /// The ticket of the read.
        ticket: Ticket,
        /// The record, if there is one.
        found: Option<(Revision, Record<N>)>,
    },
    /// A read failed.
    ReadFailed {
        /// The ticket of the read.
        ticket: Ticket,
    },
    /// The answer to a write: the new revision.
    Written {
        /// The ticket of the write.
        ticket: Ticket,
        /// How it went.
        outcome: Result<Revision, WriteFailure>,
    },
    /// What to do from now on.
    Goal(Goal),
    /// The note to put into the record, with the next write or at once.
    Note(N),
}

/// Why a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFailure {
    /// The record was not at the expected revision; nothing was changed.
    Conflict,
    /// No answer, or one that leaves it open: it may be applied, or may yet be.
    Unknown,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output<N> {
    /// Read the record.
    Read {
        /// To be given back with the answer.
        ticket: Ticket,
    },
    /// Write the record if it is at `expected`; `None`: if there is none.
    Write {
        /// To be given back with the answer.
        ticket: Ticket,
        /// The revision that it must be at.
        expected: Option<Revision>,
        /// What to write.
        record: Record<N>,
    },
}

/// What became of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is ours, in this term, until then.
    Acquired {
        /// The term, higher than any that this machine has had or seen.
        term: Term,
        /// The deadline.
        until: Instant,
    },
    /// It is ours for longer.
    Renewed {
        /// The new deadline, later than the last.
        until: Instant,
    },
    /// It is no longer ours. Once lost it can only be acquired anew.
    Lost(Loss),
    /// The record was taken from a dead holder and is free.
    Fenced,
}

/// Why a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal succeeded in time.
    Expired,
    /// Another has it, or the record is gone.
    Superseded,
    /// The store has forgotten a write that it had acknowledged: it does not keep its part of the contract.
    Forgotten,
    /// The goal is no longer to hold it.
    Released,
}

#[derive(Clone, Debug)]
struct Known<N> {
    found: Option<(Revision, Record<N>)>,
    /// When we saw it change, on our clock.
    since: Instant,
}

impl<N> Known<N> {
    fn record(&self) -> Option<&Record<N>> {
        self.found.as_ref().map(|(_, record)| record)
    }

    fn state(&self) -> Option<&State> {
        self.record().map(|record| &record.state)
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    term: Term,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Writing<N> {
    ticket: Ticket,
    sent: Instant,
    record: Record<N>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    term: Term,
    beat: u64,
    sent: Instant,
}

impl<N: Clone + PartialEq> Lease<N> {
    /// A machine for one record, which knows nothing of it yet.
    ///
    /// # Errors
    /// If `timing` cannot keep a lease.
    pub fn new(me: Holder, timing: Timing, goal: Goal, note: N) -> Result<Self, TimingError> {
        timing.check()?;
        Ok(Self {
            me,
            timing,
            goal,
            note,
            now: Instant::ZERO,
            known: None,
            doubt: false,
            last_read: Instant::ZERO,
            as_of: None,
            held: None,
            renew_at: Instant::ZERO,
            read_at: Instant::ZERO,
            reading: None,
            writing: None,
            attempts: VecDeque::new(),
            next_ticket: Ticket(0),
            floor: Ticket(0),
            beat: 0,
            applied: 0,
            last_term: Term(0),
            lost_term: Term(0),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            #[cfg(test)]
            mutant: None,
        })
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input<N>) {
        self.advance(now);
        match input {
            Input::Seen { ticket, found } => self.seen(ticket, found),
            Input::ReadFailed { ticket } => {
                if self.reading.is_some_and(|(reading, _)| reading == ticket) {
                    self.read_failed();
                }
            }
            Input::Written { ticket, outcome } => {
                // The fate of a write that was given up is learnt by reading.
                if let Some(writing) = self.writing.take_if(|writing| writing.ticket == ticket) {
                    self.written(writing, outcome);
                }
            }
            Input::Goal(goal) => {
                self.goal = goal;
                if goal != Goal::Hold {
                    self.lose(Loss::Released);
                }
            }
            Input::Note(note) => self.note = note,
        }
        self.act();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.reading.is_some_and(|(_, sent)| self.now >= sent + self.timing.timeout) {
            self.read_failed();
        }
        if let Some(writing) = self.writing.take_if(|writing| self.now >= writing.sent + self.timing.timeout)
        {
            self.written(writing, Err(WriteFailure::Unknown));
        }
        self.act();
    }

    /// What to do next, oldest first.
    pub fn poll_output(&mut self) -> Option<Output<N>> {
        self.outputs.pop_front()
    }

    /// What happened next, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let expiry = self.expiry();
        let answer = self.writing.as_ref().map(|writing| writing.sent + self.timing.timeout);
        let read = match self.reading {
            Some((_, sent)) => Some(sent + self.timing.timeout),
            None => self.wants_to_read().then_some(self.read_at),
        };
        let act = match &self.known {
            Some(known) if self.writing.is_none() && !self.doubt => match (&self.held, self.goal) {
                (Some(_), _) => Some(self.renew_at),
                (None, Goal::Hold) if self.reads_on() => Some(self.death(known)),
                (None, Goal::Fence) if self.reads_on() && known.state() != Some(&State::Free) => {
                    Some(self.death(known))
                }
                _ => None,
            },
            _ => None,
        };
        [expiry, answer, read, act].into_iter().flatten().min()
    }

    /// Says that a read of the record begins now that the machine did not ask for, for example one of many
    /// records at once. Its answer is taken like any other.
    pub fn begin_read(&mut self, now: Instant) -> Ticket {
        self.advance(now);
        let ticket = self.ticket();
        self.reading = Some((ticket, self.now));
        ticket
    }

    /// Until when the lease is ours, with its term.
    pub fn held(&self) -> Option<(Term, Instant)> {
        self.held.map(|held| (held.term, held.until))
    }

    /// The record as it was last seen; `None` while nothing has been read. The inner `None`: there is no record.
    pub fn record(&self) -> Option<Option<&Record<N>>> {
        self.known.as_ref().map(Known::record)
    }

    /// A time since which [`record`](Self::record) has been true, or became so: when the read or write was sent whose
    /// answer it is. What was known by another way before that is older.
    pub fn as_of(&self) -> Option<Instant> {
        self.as_of
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.expiry().is_some_and(|until| self.now >= until) {
            self.lose(Loss::Expired);
        }
        let hold = self.timing.hold();
        while self.attempts.front().is_some_and(|attempt| self.now >= attempt.sent + hold) {
            self.attempts.pop_front();
        }
    }

    fn expiry(&self) -> Option<Instant> {
        let held = self.held;
        #[cfg(test)]
        let held = held.filter(|_| self.mutant != Some(super::tests::Mutant::RenewAfterExpiry));
        held.map(|held| held.until)
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket.0 += 1;
        ticket
    }

    fn lose(&mut self, loss: Loss) {
        if let Some(held) = self.held.take() {
            self.lost_term = held.term;
            self.events.push_back(Event::Lost(loss));
        }
    }

    fn read_failed(&mut self) {
        self.reading = None;
        self.read_at = self.now + self.timing.renew / 4;
    }

    fn seen(&mut self, ticket: Ticket, found: Option<(Revision, Record<N>)>) {
        if ticket < self.floor || ticket >= self.next_ticket {
            return;
        }
        if let Some((_, asked)) = self.reading.take_if(|(reading, _)| *reading <= ticket) {
            self.as_of = Some(asked);
        }
        self.read_at = self.now + self.timing.renew;
        self.floor = Ticket(ticket.0 + 1);
        self.doubt = false;
        self.learn(found);

        let Some(known) = &self.known else { return };
        let mine = known.record().filter(|record| self.is_mine(&record.state));
        let mine = mine.map(|record| (record.term, record.beat));
        match (self.held, mine) {
            (Some(held), Some((term, beat))) if term == held.term && beat < self.applied => {
                self.lose(Loss::Forgotten);
            }
            (Some(held), Some((term, _))) if term == held.term => self.find_attempt(mine),
            (Some(_), _) => self.lose(Loss::Superseded),
            (None, _) => self.find_attempt(mine),
        }
    }

    /// Notes what the record is, and whether that is a change.
    fn learn(&mut self, found: Option<(Revision, Record<N>)>) {
        let revision =
            |found: &Option<(Revision, Record<N>)>| found.as_ref().map(|(revision, _)| revision.clone());
        let unchanged = self.known.as_ref().filter(|known| revision(&known.found) == revision(&found));
        #[cfg(test)]
        let unchanged = self.mutated_unchanged(unchanged, &found);
        // Whoever could not read for long starts to wait anew: the holder may not have been able to write.
        let since = match unchanged {
            Some(known) if self.reads_on() => known.since,
            _ => self.now,
        };
        self.last_read = self.now;
        self.last_term = found.as_ref().map_or(self.last_term, |(_, record)| record.term.max(self.last_term));
        self.known = Some(Known { found, since });
    }

    /// A write of ours whose answer was lost may be seen in the record.
    fn find_attempt(&mut self, seen: Option<(Term, u64)>) {
        let attempt = self.attempts.iter().find(|attempt| Some((attempt.term, attempt.beat)) == seen);
        if let Some(attempt) = attempt.copied() {
            self.applied(attempt);
        }
    }

    fn written(&mut self, writing: Writing<N>, outcome: Result<Revision, WriteFailure>) {
        match outcome {
            Ok(revision) => {
                let Writing { record, sent, .. } = writing;
                let (term, beat) = (record.term, record.beat);
                let (mine, fenced) = (self.is_mine(&record.state), record.state == State::Free);
                self.floor = self.next_ticket;
                self.as_of = Some(sent);
                self.doubt = false;
                self.learn(Some((revision, record)));
                if mine {
                    self.applied(Attempt { term, beat, sent });
                } else if fenced && self.goal == Goal::Fence {
                    self.events.push_back(Event::Fenced);
                }
            }
            Err(failure) => {
                self.doubt = true;
                self.read_at = match failure {
                    WriteFailure::Conflict => self.now,
                    WriteFailure::Unknown => self.now + self.timing.renew / 4,
                };
            }
        }
    }

    /// The store holds this write of ours.
    fn applied(&mut self, attempt: Attempt) {
        self.applied = self.applied.max(attempt.beat);
        self.renew_at = attempt.sent + self.timing.renew;
        let until = attempt.sent + self.timing.hold();
        #[cfg(test)]
        let until = self.mutated_until(until);
        if self.goal != Goal::Hold || self.now >= until || attempt.term <= self.lost_term {
            return;
        }
        match &mut self.held {
            Some(held) if held.term == attempt.term => {
                if until > held.until {
                    held.until = until;
                    self.events.push_back(Event::Renewed { until });
                }
            }
            _ => {
                self.held = Some(Held { term: attempt.term, until });
                self.events.push_back(Event::Acquired { term: attempt.term, until });
            }
        }
    }

    /// Whether the record has been read lately, so that its silence is the holder's and not ours.
    fn reads_on(&self) -> bool {
        self.now.saturating_since(self.last_read) <= self.timing.duration / 2
    }

    /// When whoever may have the record is dead to us.
    fn death(&self, known: &Known<N>) -> Instant {
        known.since + known.record().map_or(self.timing.duration, |record| record.duration)
    }

    /// A holder learns all it must from its writes.
    fn wants_to_read(&self) -> bool {
        self.held.is_none() || self.doubt
    }

    fn act(&mut self) {
        if self.reading.is_none() && self.wants_to_read() && self.now >= self.read_at {
            let now = self.now;
            let ticket = self.begin_read(now);
            self.outputs.push_back(Output::Read { ticket });
        }
        if self.writing.is_some() || self.doubt {
            return;
        }
        let Some(known) = &self.known else { return };
        let dead = self.reads_on() && self.now >= self.death(known);
        #[cfg(test)]
        let dead = self.mutated_dead(dead);
        match (self.goal, &self.held, known.state()) {
            (Goal::Hold, Some(held), _) => {
                let noted = known.record().is_some_and(|record| record.note == self.note);
                if !noted || self.now >= self.renew_at {
                    let term = held.term;
                    self.write(State::Held(self.me.clone()), term);
                }
            }
            (Goal::Hold | Goal::Fence, None, None) => self.write_next(State::New),
            // Ours, but run out: nobody acts on it, so that there is nobody to wait for.
            (Goal::Hold, None, Some(state)) if dead || *state == State::Free || self.is_mine(state) => {
                self.write_next(State::Held(self.me.clone()));
            }
            (Goal::Fence, None, Some(state)) if dead && *state != State::Free => self.write_next(State::Free),
            (Goal::Observe, None, Some(state)) if self.is_mine(state) => self.write_next(State::Free),
            _ => {}
        }
    }

    fn is_mine(&self, state: &State) -> bool {
        matches!(state, State::Held(holder) if *holder == self.me)
    }

    /// Writes a new state, in a term of its own.
    fn write_next(&mut self, state: State) {
        self.last_term.0 = self.last_term.0.saturating_add(1);
        self.write(state, self.last_term);
    }

    fn write(&mut self, state: State, term: Term) {
        self.beat += 1;
        let mine = self.is_mine(&state);
        let old = self.known.as_ref().and_then(|known| known.found.as_ref());
        let expected = old.map(|(revision, _)| revision.clone());
        let note = match old {
            Some((_, old)) if !mine => old.note.clone(),
            _ => self.note.clone(),
        };
        let record = Record { state, term, beat: self.beat, duration: self.timing.duration, note };
        if mine {
            self.attempts.push_back(Attempt { term, beat: self.beat, sent: self.now });
        }
        let ticket = self.ticket();
        self.writing = Some(Writing { ticket, sent: self.now, record: record.clone() });
        self.outputs.push_back(Output::Write { ticket, expected, record });
    }
}

/// Ways to be wrong, each of which a property must notice.
#[cfg(test)]
mod mutants {
    use super::super::tests::Mutant;
    use super::*;

    impl<N: Clone + PartialEq> Lease<N> {
        pub(super) fn mutated_until(&self, until: Instant) -> Instant {
            match self.mutant {
                Some(Mutant::HoldFromAnswer) => self.now + self.timing.hold(),
                Some(Mutant::IgnoreDrift) => until - self.timing.hold() + self.timing.duration,
                _ => until,
            }
        }

        pub(super) fn mutated_unchanged<'k>(
            &'k self,
            unchanged: Option<&'k Known<N>>,
            found: &Option<(Revision, Record<N>)>,
        ) -> Option<&'k Known<N>> {
            match self.mutant {
                Some(Mutant::WaitFromLastRead) => None,
                Some(Mutant::WaitFromFirstSightOfHolder) => self
                    .known
                    .as_ref()
                    .filter(|known| known.state() == found.as_ref().map(|(_, record)| &record.state)),
                _ => unchanged,
            }
        }

        pub(super) fn mutated_dead(&self, dead: bool) -> bool {
            let new = self.known.as_ref().is_some_and(|known| known.state() == Some(&State::New));
            dead || (new && self.mutant == Some(Mutant::TakeWhatIsMissing))
        }
    }
}
