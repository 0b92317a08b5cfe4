//! Counts what this program allocates, so cheaply that it is not felt in figures of time.
#![expect(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What was allocated by a thread while it ran something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// How often memory was asked for.
    pub(crate) allocations: u64,
    /// How many bytes more are held than before.
    pub(crate) bytes: i64,
}

/// Runs `run`, and counts.
pub(crate) fn during<T>(run: impl FnOnce() -> T) -> (T, Counted) {
    let before = (ALLOCATIONS.get(), BYTES.get());
    let made = run();
    (made, Counted { allocations: ALLOCATIONS.get() - before.0, bytes: BYTES.get() - before.1 })
}

// Constant and without destructor, so that an allocator may ask for them at any time.
thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn note(allocations: u64, more: usize, less: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
    // No object is larger than `isize::MAX`.
    BYTES.set(BYTES.get() + more as i64 - less as i64);
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: each call goes to the system's allocator as it came; counting touches only cells of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size(), 0);
        // SAFETY: the caller keeps the promises of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size(), 0);
        // SAFETY: the caller keeps the promises of this very method.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, size, layout.size());
        // SAFETY: the caller keeps the promises of this very method.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(0, 0, layout.size());
        // SAFETY: the caller keeps the promises of this very method.
        unsafe { System.dealloc(place, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_and_what_was_asked_for() {
        let (held, counted) = during(|| {
            drop(std::hint::black_box(vec![0_u8; 1000]));
            let mut held = std::hint::black_box(Vec::<u8>::with_capacity(10));
            held.reserve_exact(100);
            held
        });
        assert_eq!(counted, Counted { allocations: 3, bytes: 100 });
        let (_, counted) = during(|| drop(held));
        assert_eq!(counted, Counted { allocations: 0, bytes: -100 });
    }
}
