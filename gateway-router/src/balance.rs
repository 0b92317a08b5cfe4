//! Which backend of a rule, and which endpoint of a backend.
//!
//! Both are pure functions of a *ticket*: a number that the caller counts up, one per rule and one per backend. The
//! tickets 0, 1, 2, … are spread by the golden ratio (a Kronecker sequence), which keeps every run of
//! successive tickets close to the weights: of any *n*, a backend's share is off by a few requests, not by √*n* as with
//! random picks, and no pattern of period 2, 3, … that a client may have falls in with it, as it would with a
//! cycle.
//!
//! ```
//! use gateway_router::balance::{Backend, Split};
//!
//! let split = Split::new([(70, Backend::new(Some(0))), (30, Backend::new(Some(1)))]);
//! let second = (0..100).filter(|ticket| split.pick(*ticket).unwrap().service == Some(1)).count();
//! assert_eq!(second, 30);
//! ```

use std::sync::Arc;

use crate::filter::HeaderChange;
use crate::model::ServicePort;

/// 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The backends of a rule with their shares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// Each with the sum of the weights up to and including its own, which is not zero.
    backends: Vec<(u64, Backend)>,
}

impl Split {
    /// Shares requests among `backends` by their weights. Those of weight 0 get none.
    pub fn new(backends: impl IntoIterator<Item = (u32, Backend)>) -> Self {
        let mut sum = 0_u64;
        let backends = backends.into_iter().filter(|(weight, _)| *weight > 0).map(|(weight, backend)| {
            sum = sum.saturating_add(u64::from(weight));
            (sum, backend)
        });
        Self { backends: backends.collect() }
    }

    /// The backend for `ticket`; `None` if no backend has a weight.
    pub fn pick(&self, ticket: u64) -> Option<&Backend> {
        let (total, _) = self.backends.last()?;
        let point = (u128::from(ticket.wrapping_mul(GOLDEN)) * u128::from(*total)) >> 64;
        let place = self.backends.partition_point(|(upto, _)| u128::from(*upto) <= point);
        self.backends.get(place).map(|(_, backend)| backend)
    }

    /// The backends that get requests.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().map(|(_, backend)| backend)
    }
}

/// Where a share of the requests goes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Backend {
    /// The Service's number in [`Compiled::services`](crate::compile::Compiled::services); `None` for a reference
    /// that is not valid, whose share gets 500.
    pub service: Option<u32>,
    /// What is done to the requests that go there.
    pub request: Vec<HeaderChange>,
    /// What is done to the responses from there.
    pub response: Vec<HeaderChange>,
}

impl Backend {
    /// Service number `service`, or an invalid reference.
    pub const fn new(service: Option<u32>) -> Self {
        Self { service, request: Vec::new(), response: Vec::new() }
    }
}

/// The endpoints of one Service port, taken in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    port: ServicePort,
    addresses: Arc<[std::net::SocketAddr]>,
}

impl Endpoints {
    /// Those of `port`.
    pub fn new(port: ServicePort, addresses: impl IntoIterator<Item = std::net::SocketAddr>) -> Self {
        Self { port, addresses: addresses.into_iter().collect() }
    }

    /// The Service port that they serve.
    pub const fn port(&self) -> &ServicePort {
        &self.port
    }

    /// All of them.
    pub fn addresses(&self) -> &[std::net::SocketAddr] {
        &self.addresses
    }

    /// The endpoint for `ticket`: each in turn. `None` if there is none.
    pub fn pick(&self, ticket: u64) -> Option<std::net::SocketAddr> {
        let count = u64::try_from(self.addresses.len()).ok().filter(|count| *count > 0)?;
        self.addresses.get(usize::try_from(ticket % count).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use lbcore::id::ObjectName;

    fn split(weights: &[u32]) -> Split {
        Split::new(weights.iter().zip(0..).map(|(weight, service)| (*weight, Backend::new(Some(service)))))
    }

    fn shares(split: &Split, tickets: std::ops::Range<u64>, count: usize) -> Vec<u64> {
        let mut shares = vec![0; count];
        for ticket in tickets {
            shares[split.pick(ticket).unwrap().service.unwrap() as usize] += 1;
        }
        shares
    }

    #[test]
    fn without_weight_there_is_no_backend() {
        assert_eq!(split(&[]).pick(0), None);
        assert_eq!(split(&[0, 0]).pick(7), None);
        assert_eq!(split(&[0, 3, 0]).pick(7).unwrap().service, Some(1));
    }

    #[test]
    fn the_shares_of_the_conformance_test() {
        let shares = shares(&split(&[70, 30, 0]), 0..500, 3);
        assert!(shares[0].abs_diff(350) <= 2 && shares[2] == 0, "{shares:?}");
    }

    #[test]
    fn half_and_half_within_one_of_ten() {
        for start in [0, 1, 1_000_003, u64::MAX - 500] {
            let shares = shares(&split(&[1, 1]), start..start + 10, 2);
            assert!(shares[0].abs_diff(5) <= 1, "{shares:?}");
        }
    }

    proptest! {
        #[test]
        fn any_run_of_tickets_is_near_the_weights(
            weights in prop::collection::vec(0_u32..=1_000_000, 1..8),
            start in 0_u64..u64::MAX - 1000,
        ) {
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            prop_assume!(total > 0);
            let shares = shares(&split(&weights), start..start + 1000, weights.len());
            for (weight, share) in weights.iter().zip(&shares) {
                let expected = u64::from(*weight) * 1000 / total;
                // The bound for an interval of a Kronecker sequence of the golden ratio is logarithmic.
                prop_assert!(share.abs_diff(expected) <= 8, "{weights:?}: {shares:?}");
                prop_assert!(*weight > 0 || *share == 0);
            }
        }

        #[test]
        fn endpoints_take_turns(count in 1_u16..9, start in 0_u64..1000) {
            let addresses: Vec<_> = (0..count).map(|n| ([127, 0, 0, 1], n).into()).collect();
            let endpoints = Endpoints::new(ServicePort::new(ObjectName::new("a", "b"), 80), addresses.clone());
            let mut picked: Vec<_> = (start..start + u64::from(count)).filter_map(|t| endpoints.pick(t)).collect();
            picked.sort();
            prop_assert_eq!(picked, addresses);
        }
    }

    #[test]
    fn no_endpoint_is_no_panic() {
        assert_eq!(Endpoints::new(ServicePort::new(ObjectName::new("a", "b"), 80), []).pick(3), None);
    }
}
