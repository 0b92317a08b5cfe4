//! What was observed so far, collected by one thread a source, waited on by predicate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use lbcore::time::{Duration, Instant};

use super::attempts::{self, Attempt, Record};
use super::owners::{self, Claim};
use super::story::Story;
use crate::netns::Tap;

/// So many lines of each process are kept, to be shown when it ends unexpectedly.
const LAST_WORDS: usize = 20;

/// Everything observed so far.
#[derive(Debug, Default)]
pub(super) struct Observations {
    /// By client, in the order in which they ended.
    pub(super) logs: Vec<Vec<Attempt>>,
    /// When connections were cut that no attempt tells of.
    pub(super) cuts: Vec<Instant>,
    pub(super) not_started: u64,
    /// In the order of time, of the watched addresses only.
    pub(super) claims: Vec<Claim>,
    /// Who claimed an address last, as the first client heard it.
    owners: BTreeMap<IpAddr, String>,
    /// The nodes that the first client cannot hear.
    unheard: Vec<String>,
    processes: BTreeMap<String, Process>,
    /// The first line of the probe or frame of the tap that could not be read.
    pub(super) broken: Option<String>,
}

#[derive(Debug, Default)]
struct Process {
    /// How often it was started: what an earlier one said does not count.
    incarnation: u64,
    /// Whether the present one has said that it is ready.
    ready: bool,
    /// How many members of its cluster it last spoke of.
    members: Option<usize>,
    last_words: VecDeque<String>,
}

impl Process {
    fn said(&mut self, line: String) {
        let event: Option<serde_json::Value> = serde_json::from_str(&line).ok();
        let kind = event.as_ref().and_then(|event| event.get("event")?.as_str());
        self.ready |= line == "ready" || kind == Some("ready");
        if kind == Some("members") {
            self.members = event.as_ref().and_then(|event| Some(event.get("members")?.as_array()?.len()));
        }
        if self.last_words.len() == LAST_WORDS {
            self.last_words.pop_front();
        }
        self.last_words.push_back(line);
    }
}

impl Observations {
    /// The attempts of a client that ended at or after `since`, in the order of their start.
    pub(super) fn attempts_since(&self, client: usize, since: Instant) -> Vec<Attempt> {
        let log = self.logs.get(client).map_or(&[][..], Vec::as_slice);
        let first = log.iter().rposition(|attempt| attempt.end < since).map_or(0, |index| index + 1);
        let mut log = log[first..].to_vec();
        attempts::sort(&mut log);
        log
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<&str> {
        self.owners.get(&address).map(String::as_str)
    }

    /// The addresses that `node` claimed last.
    pub(super) fn owned_by(&self, node: &str) -> BTreeSet<IpAddr> {
        self.owners.iter().filter(|(_, owner)| *owner == node).map(|(address, _)| *address).collect()
    }

    /// The claims at or after `since`.
    pub(super) fn claims_since(&self, since: Instant) -> &[Claim] {
        self.claims.get(self.claims.partition_point(|claim| claim.at < since)..).unwrap_or_default()
    }

    /// Whether the present process of that name has said that it is ready.
    pub(super) fn is_ready(&self, process: &str) -> bool {
        self.processes.get(process).is_some_and(|process| process.ready)
    }

    /// Whether it sees that many members; `true` for one that does not speak of members.
    pub(super) fn sees_members(&self, process: &str, count: usize) -> bool {
        self.processes.get(process).and_then(|process| process.members).is_none_or(|members| members == count)
    }

    /// The last lines that a process printed.
    pub(super) fn last_words(&self, process: &str) -> String {
        let lines = self.processes.get(process).map(|process| process.last_words.iter());
        lines.into_iter().flatten().fold(String::new(), |text, line| text + "\n    " + line)
    }
}

/// The observations, shared by the threads that make them and the one that waits for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Observer {
    inner: Arc<(Mutex<Observations>, Condvar)>,
}

impl Observer {
    pub(super) fn lock(&self) -> MutexGuard<'_, Observations> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Observations)) {
        change(&mut self.lock());
        self.inner.1.notify_all();
    }

    /// Waits until `found` finds something, or until `deadline`. It is asked at most once in 5 ms.
    pub(super) fn wait<T>(
        &self,
        deadline: Instant,
        mut found: impl FnMut(&Observations) -> Option<T>,
    ) -> Option<T> {
        const PAUSE: Duration = Duration::from_millis(5);
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&state) {
                return Some(value);
            }
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            let again = deadline.min(now + PAUSE);
            while let left = again.saturating_since(Instant::now())
                && !left.is_zero()
            {
                state = self
                    .inner
                    .1
                    .wait_timeout(state, left)
                    .map_or_else(|error| error.into_inner().0, |done| done.0);
            }
        }
    }

    /// Reads the records of the probe of a client.
    pub(super) fn watch_probe(&self, client: usize, output: impl Read + Send + 'static) {
        let observer = self.clone();
        self.update(|state| state.logs.resize_with(state.logs.len().max(client + 1), Vec::new));
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let record = line.parse();
                observer.update(|state| match record {
                    Ok(Record::Attempt(attempt)) => state.logs[client].push(attempt),
                    Ok(Record::Cut(at)) => state.cuts.push(at),
                    Ok(Record::NotStarted(count)) => state.not_started += count,
                    Err(error) => drop(state.broken.get_or_insert(error)),
                });
            }
        });
    }

    /// A process of that name starts; what its forerunner said is forgotten. The function returned reads an output
    /// of it: a line `ready` or a JSON object with `"event":"ready"` makes the process ready, one with
    /// `"event":"members"` says which `members` it sees.
    pub(super) fn watch_process(&self, name: &str, story: &Story) -> impl Fn(Box<dyn Read + Send>) + use<> {
        let mut incarnation = 0;
        self.update(|state| {
            let process = state.processes.entry(name.to_owned()).or_default();
            incarnation = process.incarnation + 1;
            *process = Process { incarnation, ..Process::default() };
        });
        let (observer, story, name) = (self.clone(), story.clone(), name.to_owned());
        move |output| {
            let (observer, story, name) = (observer.clone(), story.clone(), name.clone());
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    story.process_said(&name, &line);
                    observer.update(|state| {
                        if let Some(process) = state.processes.get_mut(&name)
                            && process.incarnation == incarnation
                        {
                            process.said(line);
                        }
                    });
                }
            });
        }
    }

    /// From now on the first client cannot hear these nodes: what they own is no matter of its.
    pub(super) fn set_unheard(&self, nodes: &[String]) {
        self.update(|state| state.unheard = nodes.to_vec());
    }

    /// Reads the claims of `addresses` and tells of each change of hands.
    pub(super) fn watch_claims(&self, mut tap: Tap, addresses: BTreeSet<IpAddr>, story: &Story) {
        let (observer, story) = (self.clone(), story.clone());
        thread::spawn(move || {
            loop {
                let frame = match tap.next(Duration::from_secs(3600)) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => continue,
                    Err(error) => break observer.update(|state| state.broken = Some(tap_failed(&error))),
                };
                let Some((address, announcement)) = owners::claimed(&frame.bytes) else { continue };
                if !addresses.contains(&address) {
                    continue;
                }
                let claim = Claim { at: frame.at, address, node: frame.host, announcement };
                let mut changed = false;
                observer.update(|state| {
                    let is_heard = !state.unheard.contains(&claim.node);
                    changed = is_heard && state.owner(address) != Some(&claim.node);
                    if changed {
                        state.owners.insert(address, claim.node.clone());
                    }
                    state.claims.push(claim.clone());
                });
                if changed {
                    story.owner(&claim);
                }
            }
        });
    }
}

fn tap_failed(error: &io::Error) -> String {
    format!("the tap on the segment failed: {error}")
}
