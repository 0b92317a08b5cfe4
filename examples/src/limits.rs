//! How many files, and so how many connections, this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// File handles that connections leave to everything else: announcing and electing need some, too.
const RESERVED: u64 = 256;

/// What a connection that is passed on takes.
const HANDLES: u64 = 2;

/// Lets this process, and those that it starts, open as many files as they may: the usual 1024 are few for a server.
/// Gives how many that is.
pub fn raise_open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
    })
}

/// For how many connections of each of two sorts, relayed and routed, so many open files have room.
pub fn connections(open: u64) -> usize {
    usize::try_from(open.saturating_sub(RESERVED) / HANDLES / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sorts_together_leave_the_reserve() {
        for open in [1024, 20_000, 1 << 20] {
            let taken = 2 * HANDLES * u64::try_from(connections(open)).unwrap();
            assert!(taken + RESERVED <= open && taken + RESERVED + 4 > open, "{open}");
        }
        assert_eq!(connections(100), 1);
    }

    #[test]
    fn the_limit_is_raised() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard).unwrap();
        assert_eq!(raise_open_files(), hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, hard);
    }
}
