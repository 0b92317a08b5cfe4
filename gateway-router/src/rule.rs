//! What a compiled rule does with the requests that match it: the targets of the tables that
//! [`compile`](crate::compile::compile) makes.

use std::sync::Arc;

use lbcore::id::ObjectName;

use crate::balance::Split;
use crate::filter::{HeaderChange, Redirect, Rewrite};

/// One rule of a route, compiled.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rule {
    /// The route.
    pub route: ObjectName,
    /// Its place in the route.
    pub place: usize,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// Its number in its table: counters of rules are kept by it.
    pub number: u32,
    /// What is done to the request on its way in.
    pub request: Vec<RequestFilter>,
    /// What is done to the response on its way out.
    pub response: Vec<HeaderChange>,
    /// Where the request goes.
    pub action: Action,
}

/// A filter that works on a request.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RequestFilter {
    /// Changes its headers.
    Headers(HeaderChange),
    /// Changes its host and path.
    Rewrite(Rewrite),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// To one of several backends.
    Forward(Split),
    /// Back to the client, with another URL.
    Redirect(Redirect),
    /// Nowhere: 500, since a filter of the rule cannot be done, and a filter is never skipped.
    Refuse,
}
