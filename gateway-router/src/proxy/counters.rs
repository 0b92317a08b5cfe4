//! What happened, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a proxy has done so far. All but [`open`](Self::open) only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// Where they are counted.
        #[derive(Debug, Default)]
        pub(super) struct CounterCells {
            $(pub(super) $name: Cell,)*
        }

        impl CounterCells {
            pub(super) fn read(&self) -> Counters {
                Counters { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Client connections accepted.
    accepted,
    /// Client connections open now.
    open,
    /// `accept` failed, mostly for want of file descriptors; tried again after a pause.
    accept_errors,
    /// Client connections that ended with an error: bad heads, timeouts, resets.
    connection_errors,
    /// Requests whose head was read.
    requests,
    /// Requests sent to an endpoint whose answer was passed on, whatever its status.
    forwarded,
    /// Requests answered with a redirect.
    redirected,
    /// 400: no or two Host headers, or one that is no host.
    bad_request,
    /// 404: no rule matches.
    not_found,
    /// 405: `CONNECT`.
    method_not_allowed,
    /// 421: the connection was made for another host.
    misdirected,
    /// 500: the rule has no valid backend, or a filter that cannot be done.
    no_backend,
    /// 503: the backend has no ready endpoint, or the Gateway is not in the world.
    no_endpoint,
    /// 501: a transfer coding other than `chunked`.
    not_implemented,
    /// 502: no endpoint could be reached, or the one reached broke off or did not speak HTTP as we do.
    upstream_failed,
    /// 504: no endpoint could be reached, or did not answer, in time.
    upstream_timeout,
    /// Connections to endpoints made.
    connected,
    /// Attempts to connect to an endpoint that failed.
    connect_failed,
    /// Requests sent on a connection that was kept.
    reused,
    /// Requests sent again on a new connection, since the kept one had been closed.
    resent,
    /// Answers that broke off in the middle, so that the client's connection was cut.
    cut_short,
}

/// One counter. Relaxed: they order nothing.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CounterCells {
    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }
}
