//! How many connections this process takes on: announcing and electing need file handles, too.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// File handles that connections leave to everything else.
const RESERVED: u64 = 256;

/// What a connection that is passed on takes.
const HANDLES: u64 = 2;

/// Lets this process open as many files as it may; the usual 1024 are few for a server. Gives how many connections of
/// each of the two sorts, relayed and routed, that is room for.
pub fn connections() -> usize {
    let open = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
    });
    share(open)
}

fn share(open: u64) -> usize {
    usize::try_from(open.saturating_sub(RESERVED) / HANDLES / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sorts_together_leave_the_reserve() {
        for open in [1024, 20_000, 1 << 20] {
            let taken = 2 * HANDLES * u64::try_from(share(open)).unwrap();
            assert!(taken + RESERVED <= open && taken + RESERVED + 4 > open, "{open}");
        }
        assert_eq!(share(100), 1);
    }

    #[test]
    fn the_limit_is_raised() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard).unwrap();
        assert_eq!(connections(), share(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, hard);
    }
}
