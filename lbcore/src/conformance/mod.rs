//! Contract suites: what every backend of a core trait must do, as functions that anybody can run.
//!
//! A suite asks for a *harness*: a few verbs by which it builds the backend, lets time pass and asks the
//! outside world what it sees. Time is the harness's own, so that a suite runs in milliseconds. What a backend
//! cannot do it declares in its capabilities; the suite asserts both directions.
//!
//! Each suite has a `run_all`, and a function per clause for bisecting. A clause panics with what it found.

pub mod allocator;
pub mod announcer;
pub mod elector;
pub mod matcher;
