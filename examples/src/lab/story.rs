//! Telling what happens, as it happens: to a person, or as JSON lines.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use lbcore::time::Instant;
use serde_json::{Value, json};

use super::owners::Claim;

/// How to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Sentences on standard output.
    Prose,
    /// JSON lines on standard output.
    Json,
    /// Not at all.
    Silent,
}

/// The teller. Clones tell the same story.
#[derive(Clone, Debug)]
pub(super) struct Story {
    begin: Instant,
    style: Style,
    /// Whether what the processes print is shown, on standard error.
    verbose: bool,
    /// Why a line could not be written.
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Story {
    pub(super) fn new(begin: Instant, style: Style, verbose: bool) -> Self {
        Self { begin, style, verbose, failure: Arc::default() }
    }

    /// Why a line since the last call could not be written.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Milliseconds since the start of the lab, to a tenth.
    pub(super) fn millis(&self, at: Instant) -> f64 {
        tenths(at.saturating_since(self.begin).as_micros())
    }

    /// One event: `sentence` for a person; `event` and its `fields` for a program.
    pub(super) fn tell(&self, at: Instant, event: &str, mut fields: Value, sentence: &str) {
        let millis = self.millis(at);
        match self.style {
            Style::Prose => self.plain(&format!("{:8.3}s  {sentence}", millis / 1000.0)),
            Style::Silent => {}
            Style::Json => {
                if let Value::Object(fields) = &mut fields {
                    fields.insert("event".to_owned(), json!(event));
                    fields.insert("at_ms".to_owned(), json!(millis));
                }
                self.plain(&fields.to_string());
            }
        }
    }

    /// The owner of an address changed.
    pub(super) fn owner(&self, claim: &Claim) {
        let (address, node) = (claim.address, &claim.node);
        let fields = json!({"address": address, "node": node});
        self.tell(claim.at, "owner", fields, &format!("        {node} claims {address} on the wire"));
    }

    pub(super) fn process_said(&self, name: &str, said: &str) {
        if self.verbose {
            // A closed standard error is no reason to stop.
            let _ = writeln!(io::stderr().lock(), "[{name}] {said}");
        }
    }

    /// A line as it is, flushed at once, so that a reader of a pipe sees it when it happens.
    pub(super) fn plain(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            // Nobody listens any more: the lab goes on to its end, and its exit code still speaks.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            _ => {}
        }
    }
}

/// Microseconds as milliseconds to a tenth.
pub(super) fn tenths(micros: u128) -> f64 {
    let tenths = u32::try_from((micros + 50) / 100).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}
