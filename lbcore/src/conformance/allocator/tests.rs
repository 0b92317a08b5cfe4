//! Who keeps the contract, and for each clause somebody who does not: an allocator with one thing broken.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::allocator::PoolAllocator;

#[test]
fn the_pool_allocator_keeps_the_contract() {
    run_all(&|| Box::new(PoolAllocator::new()));
}

#[test]
fn so_does_one_behind_two_boxes() {
    run_all(&|| Box::new(Box::new(PoolAllocator::new()) as Box<dyn IpAllocator>));
}

type Result = std::result::Result<Allocation, AllocError>;

/// The methods of an allocator, each sound until a fake overrides it.
trait Break: fmt::Debug + Send + Default + 'static {
    fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
        inner.set_pools(pools)
    }

    fn adopt(&mut self, inner: &mut PoolAllocator, request: &AllocRequest, held: &[IpAddr]) -> Result {
        inner.adopt(request, held)
    }

    fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
        inner.allocate(request)
    }

    fn release(&mut self, inner: &mut PoolAllocator, owner: &OwnerKey) -> Option<Allocation> {
        inner.release(owner)
    }

    fn list<'a>(&self, inner: &'a PoolAllocator) -> Vec<&'a Allocation> {
        inner.allocations().collect()
    }

    fn usage(&self, inner: &PoolAllocator) -> BTreeMap<PoolName, Usage> {
        inner.usage()
    }
}

#[derive(Debug, Default)]
struct Fake<B> {
    inner: PoolAllocator,
    broken: B,
}

impl<B: Break> IpAllocator for Fake<B> {
    fn set_pools(&mut self, pools: &Pools) -> Vec<Change> {
        self.broken.set_pools(&mut self.inner, pools)
    }

    fn adopt(&mut self, request: &AllocRequest, held: &[IpAddr]) -> Result {
        self.broken.adopt(&mut self.inner, request, held)
    }

    fn allocate(&mut self, request: &AllocRequest) -> Result {
        self.broken.allocate(&mut self.inner, request)
    }

    fn release(&mut self, owner: &OwnerKey) -> Option<Allocation> {
        self.broken.release(&mut self.inner, owner)
    }

    fn allocation(&self, owner: &OwnerKey) -> Option<&Allocation> {
        self.inner.allocation(owner)
    }

    fn allocations(&self) -> Box<dyn Iterator<Item = &Allocation> + '_> {
        Box::new(self.broken.list(&self.inner).into_iter())
    }

    fn usage(&self) -> BTreeMap<PoolName, Usage> {
        self.broken.usage(&self.inner)
    }
}

/// Nothing broken: the frame of the fakes is sound.
#[derive(Debug, Default)]
struct Sound;
impl Break for Sound {}

#[test]
fn the_frame_of_the_fakes_is_sound() {
    run_all(&|| Box::new(Fake::<Sound>::default()));
}

/// Defines a fake by the methods that it breaks.
macro_rules! fakes {
    ($($(#[$doc:meta])* $fake:ident$(($state:ty))? fails $clause:ident { $($method:item)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default)]
            struct $fake$(($state))?;
            impl Break for $fake { $($method)* }
        )*

        const FAKES: &[(&str, &str, Clause, fn() -> Box<dyn IpAllocator>)] = &[
            $((stringify!($fake), stringify!($clause), $clause, || Box::new(Fake::<$fake>::default()))),*
        ];
    };
}

#[test]
fn every_clause_fails_against_its_broken_fake() {
    for (fake, name, clause, build) in FAKES {
        let outcome = catch_unwind(AssertUnwindSafe(|| clause(build)));
        assert!(outcome.is_err(), "{fake} passes {name}");
    }
    for (name, _) in CLAUSES {
        assert!(FAKES.iter().any(|(_, clause, ..)| clause == name), "no fake shows that {name} can fail");
    }
}

/// Sets pools that are not those that were given.
fn with_each(inner: &mut PoolAllocator, pools: &Pools, change: impl Fn(&mut Pool)) -> Vec<Change> {
    let mut changed: Vec<_> = pools.iter().cloned().collect();
    changed.iter_mut().for_each(change);
    set(inner, changed)
}

/// Takes `addresses` out of circulation.
fn hide(inner: &mut PoolAllocator, addresses: &[IpAddr]) {
    for address in addresses {
        let hidden = at(&format!("hidden-{address}"), &[&address.to_string()]);
        let _ = inner.adopt(&hidden, &[*address]);
    }
}

fakes! {
    NamesTheFirstPool fails addresses_lie_in_the_pool_named {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let mut held = inner.allocate(request)?;
            held.pool = "a".into();
            Ok(held)
        }
    }

    SharesBlindly fails no_address_has_two_owners {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.allocate(&sharing(request.clone(), "any", "", &[]))
        }
    }

    ListsInReverse fails what_is_reported_is_what_is_held {
        fn list<'a>(&self, inner: &'a PoolAllocator) -> Vec<&'a Allocation> {
            let mut all: Vec<_> = inner.allocations().collect();
            all.reverse();
            all
        }
    }

    AvoidsEverywhere fails a_pool_gives_all_it_has {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| pool.avoid_buggy = true)
        }
    }

    IgnoresSelectors fails selectors_are_enforced {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| pool.service_allocation = None)
        }
    }

    /// MetalLB's `serviceSelectors`, taken for all instead of any.
    WantsEverySelector fails selectors_are_enforced {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| {
                if let Some(allocation) = &mut pool.service_allocation {
                    allocation.service_selectors.truncate(1);
                }
            })
        }
    }

    AssignsManualPools fails a_manual_pool_gives_only_to_those_who_ask {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| pool.auto_assign = true)
        }
    }

    AvoidsNothing fails avoided_addresses_are_not_given {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| pool.avoid_buggy = false)
        }
    }

    NeverDrains fails a_draining_pool_gives_nothing_new {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| pool.draining = false)
        }
    }

    IgnoresPriority fails priority_comes_before_name {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            with_each(inner, pools, |pool| {
                if let Some(allocation) = &mut pool.service_allocation {
                    allocation.priority = 0;
                }
            })
        }
    }

    IgnoresTheRequestedPool fails a_requested_pool_or_address_is_given_or_refused {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.allocate(&AllocRequest { pool: None, ..request.clone() })
        }
    }

    IgnoresTheRequestedAddress fails a_requested_pool_or_address_is_given_or_refused {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.allocate(&AllocRequest { addresses: Vec::new(), ..request.clone() })
        }
    }

    SharesUnderAnyKey fails sharing_needs_equal_keys {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let mut request = request.clone();
            if let Some(sharing) = &mut request.sharing {
                sharing.key = "any".into();
            }
            inner.allocate(&request)
        }
    }

    IgnoresBackends fails sharing_needs_equal_backends {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let mut request = request.clone();
            if let Some(sharing) = &mut request.sharing {
                sharing.backend = "".into();
            }
            inner.allocate(&request)
        }
    }

    IgnoresPorts fails sharers_serve_different_ports {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.allocate(&AllocRequest { ports: Vec::new(), ..request.clone() })
        }
    }

    /// Judges ports at the first request only.
    KeepsTheFirstTerms fails a_sole_user_changes_its_terms_in_place {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            match inner.allocation(&request.owner) {
                Some(held) => Ok(held.clone()),
                None => inner.allocate(request),
            }
        }
    }

    MixesPools fails both_families_come_from_one_pool {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let first = AllocRequest { families: Families::Single(Family::V4), ..request.clone() };
            let second = of(V6, &format!("{}-v6", request.owner.object().name));
            if let Families::Single(_) = request.families {
                return inner.allocate(request);
            }
            let (mut held, other) = (inner.allocate(&first)?, inner.allocate(&second)?);
            held.addresses.extend(other.addresses);
            Ok(held)
        }
    }

    NeverCompletes fails the_preferred_second_family_comes_late {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let mut request = request.clone();
            if let Some([one]) = inner.allocation(&request.owner).map(|held| held.addresses.as_slice()) {
                request.families = Families::Single(Family::of(*one));
            }
            inner.allocate(&request)
        }
    }

    ForgetsOnFailure fails a_failed_call_changes_nothing {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.allocate(request).inspect_err(|_| drop(inner.release(&request.owner)))
        }
    }

    ForgetsOnFailedAdoption fails a_failed_call_changes_nothing {
        fn adopt(&mut self, inner: &mut PoolAllocator, request: &AllocRequest, held: &[IpAddr]) -> Result {
            inner.adopt(request, held).inspect_err(|_| drop(inner.release(&request.owner)))
        }
    }

    /// Seeks the best address anew each time.
    MovesOnRepeat fails a_repeated_call_changes_nothing {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.release(&request.owner);
            inner.allocate(request)
        }
    }

    LeavesTheOldBehind fails a_changed_request_is_followed {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let before = inner.allocation(&request.owner).cloned();
            let held = inner.allocate(request)?;
            hide(inner, &before.map(|before| before.addresses).unwrap_or_default());
            Ok(held)
        }
    }

    Evicts fails others_take_nothing_away {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            for _ in 0..2 {
                if let Err(AllocError::Refused(refusals)) = inner.allocate(request)
                    && let Some(Rule::Taken { holder, .. }) = refusals.first().map(|refusal| &refusal.rule)
                {
                    inner.release(holder);
                }
            }
            inner.allocate(request)
        }
    }

    LeaksOnRelease fails a_release_frees {
        fn release(&mut self, inner: &mut PoolAllocator, owner: &OwnerKey) -> Option<Allocation> {
            let held = inner.release(owner)?;
            hide(inner, &held.addresses);
            Some(held)
        }
    }

    StartsAnewOnReload fails new_pools_keep_what_fits {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            let mut changes = inner.set_pools(&Pools::default());
            changes.extend(inner.set_pools(pools));
            changes
        }
    }

    RenamesSilently fails new_pools_keep_what_fits {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            let mut changes = inner.set_pools(pools);
            changes.retain(|change| !matches!(change, Change::Renamed { .. }));
            changes
        }
    }

    RevokesSilently fails new_pools_revoke_what_does_not_fit {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            let mut changes = inner.set_pools(pools);
            changes.retain(|change| !matches!(change, Change::Revoked { .. }));
            changes
        }
    }

    /// Refuses a configuration that would revoke something.
    KeepsWhatIsStale fails new_pools_revoke_what_does_not_fit {
        fn set_pools(&mut self, inner: &mut PoolAllocator, pools: &Pools) -> Vec<Change> {
            let mut trial = inner.clone();
            let changes = trial.set_pools(pools);
            if changes.iter().any(|change| matches!(change, Change::Revoked { .. })) {
                return Vec::new();
            }
            *inner = trial;
            changes
        }
    }

    AllocatesInsteadOfAdopting fails what_is_shown_is_adopted {
        fn adopt(&mut self, inner: &mut PoolAllocator, request: &AllocRequest, _: &[IpAddr]) -> Result {
            inner.allocate(request)
        }
    }

    AdoptsLikeARequest fails a_draining_pool_is_adopted_from {
        fn adopt(&mut self, inner: &mut PoolAllocator, request: &AllocRequest, held: &[IpAddr]) -> Result {
            inner.allocate(&AllocRequest { addresses: held.to_vec(), ..request.clone() })
        }
    }

    AdoptsWhatIsNotAskedFor fails adoption_obeys_request_and_rules {
        fn adopt(&mut self, inner: &mut PoolAllocator, request: &AllocRequest, held: &[IpAddr]) -> Result {
            let anything = AllocRequest { addresses: Vec::new(), pool: None, ..request.clone() };
            inner.adopt(&anything, held)
        }
    }

    AdoptsOnlyWhole fails one_family_held_is_adopted_and_completed {
        fn adopt(&mut self, inner: &mut PoolAllocator, request: &AllocRequest, held: &[IpAddr]) -> Result {
            let wanted = Family::ALL.iter().filter(|family| request.families.wants(**family)).count();
            if held.len() < wanted {
                return Err(AllocError::BadRequest("half of it is missing".to_owned()));
            }
            inner.adopt(request, held)
        }
    }

    SaysOnlyNo fails refusals_explain {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            inner.allocate(request).map_err(|_| AllocError::Refused(Vec::new()))
        }
    }

    CountsOwners fails usage_counts_addresses {
        fn usage(&self, inner: &PoolAllocator) -> BTreeMap<PoolName, Usage> {
            let mut usage = inner.usage();
            for (pool, usage) in &mut usage {
                let holders = inner.allocations().filter(|held| held.pool == *pool).count();
                usage.assigned_v4 = AddressCount::new(holders as u128);
            }
            usage
        }
    }

    TakesGatewaysForServices fails gateways_are_owners_too {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            let owner = OwnerKey::Service(request.owner.object().clone());
            inner.allocate(&AllocRequest { owner, ..request.clone() })
        }
    }

    /// An allocator with a memory.
    TakesTurns(usize) fails equal_states_choose_alike {
        fn allocate(&mut self, inner: &mut PoolAllocator, request: &AllocRequest) -> Result {
            self.0 += 1;
            let spare = AllocRequest { owner: owner("spare"), ..request.clone() };
            if self.0.is_multiple_of(2) && inner.allocation(&request.owner).is_none() {
                let _ = inner.allocate(&spare);
            }
            let held = inner.allocate(request);
            inner.release(&spare.owner);
            held
        }
    }
}
