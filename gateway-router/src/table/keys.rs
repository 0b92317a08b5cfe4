//! A map from byte strings to 32-bit values whose keys can be all prefixes of a path at once.
//!
//! Open addressing with linear probing, at most half full: 8 bytes a slot, of which one half is a tag out of
//! the hash, so that nearly every miss ends in the slots and nearly every hit reads one record. A record has its
//! key beside its value: a look-up touches two lines of memory.
//!
//! The hash takes in eight bytes at a time from the beginning and can be ended anywhere, so that one pass over a path
//! gives the hashes of all its prefixes. Its step is a multiplication folded in half, as in wyhash and foldhash.

/// A key belongs to a scope; equal bytes in two scopes are two keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Keys {
    seed: u64,
    /// The tag above, the place of the record plus one below; zero if free. The number is a power of two.
    slots: Vec<u64>,
    /// One after the other: scope, length of the key, value, key.
    records: Vec<u8>,
    len: usize,
    longest_probe: u32,
}

/// Scope, length and value.
const HEADER: usize = 12;
/// Probes longer than this are worth another seed.
const LONG_PROBE: u32 = 32;
const SEEDS: u64 = 8;

// Digits of π, as good as any with about as many ones as zeros.
const STEP: u64 = 0x2438_6a88_85a3_08d3;
const END: u64 = 0x1319_8a2e_0370_7345;
const SCOPE: u64 = 0xa409_3822_299f_31d1;

impl Keys {
    /// Makes the map. `None` if it would not fit into 32-bit numbers.
    pub(super) fn new<'k>(keys: impl IntoIterator<Item = (u32, &'k [u8], u32)>) -> Option<Self> {
        let mut map = Self::default();
        let mut places = Vec::new();
        for (scope, key, value) in keys {
            places.push((u32::try_from(map.records.len() + 1).ok()?, scope, key));
            map.records.extend_from_slice(&scope.to_le_bytes());
            map.records.extend_from_slice(&u32::try_from(key.len()).ok()?.to_le_bytes());
            map.records.extend_from_slice(&value.to_le_bytes());
            map.records.extend_from_slice(key);
        }
        map.len = places.len();
        // Keys that collide under one seed do not under the next, unless their hashes are equal as a whole.
        for seed in 0..SEEDS {
            map.fill(seed, &places);
            if map.longest_probe <= LONG_PROBE {
                break;
            }
        }
        Some(map)
    }

    fn fill(&mut self, seed: u64, places: &[(u32, u32, &[u8])]) {
        let count = (places.len() * 2).next_power_of_two().max(2);
        self.seed = fold(seed ^ END, STEP);
        self.slots = vec![0; count];
        self.longest_probe = 0;
        for (place, scope, key) in places {
            let hash = self.hash(*scope, key);
            let mut probe = 1;
            let mut at = self.first_slot(hash);
            while self.slots.get(at).is_some_and(|slot| *slot != 0) {
                at = (at + 1) & (count - 1);
                probe += 1;
            }
            if let Some(slot) = self.slots.get_mut(at) {
                *slot = (hash << 32) | u64::from(*place);
            }
            self.longest_probe = self.longest_probe.max(probe);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn longest_probe(&self) -> u32 {
        self.longest_probe
    }

    /// The value of `key`.
    #[inline]
    pub(super) fn get(&self, scope: u32, key: &[u8]) -> Option<u32> {
        self.get_hashed(self.hash(scope, key), scope, key)
    }

    /// The value of a key whose hash is known.
    #[inline]
    pub(super) fn get_hashed(&self, hash: u64, scope: u32, key: &[u8]) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = self.first_slot(hash);
        for _ in 0..self.longest_probe {
            let slot = *self.slots.get(at)?;
            if slot == 0 {
                return None;
            }
            if slot >> 32 == hash & u64::from(u32::MAX)
                && let Some(value) = self.value_at((slot as u32).wrapping_sub(1) as usize, scope, key)
            {
                return Some(value);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The value of the record at `place`, if it is that of `key`.
    #[inline]
    fn value_at(&self, place: usize, scope: u32, key: &[u8]) -> Option<u32> {
        let (header, rest) = self.records.get(place..)?.split_first_chunk::<HEADER>()?;
        let number = |at: usize| {
            header.get(at..).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes))
        };
        let is_key = number(0)? == scope && number(4)? as usize == key.len() && rest.get(..key.len())? == key;
        if is_key { number(8) } else { None }
    }

    /// By the upper bits; the tag is made of the lower ones.
    #[inline]
    fn first_slot(&self, hash: u64) -> usize {
        // Without slots nothing is probed, and whatever this is does no harm.
        hash.wrapping_shr(64 - self.slots.len().trailing_zeros()) as usize
    }

    #[inline]
    fn start(&self, scope: u32) -> u64 {
        self.seed ^ u64::from(scope).wrapping_mul(SCOPE)
    }

    #[inline]
    fn hash(&self, scope: u32, key: &[u8]) -> u64 {
        let mut state = self.start(scope);
        let (words, _) = key.as_chunks::<8>();
        for word in words {
            state = fold(state ^ u64::from_le_bytes(*word), STEP);
        }
        end(state, last_word(key), key.len())
    }

    /// Finds the prefixes of `path` whose number of elements is in `depths`, with their hashes: the [`Boundaries::MAX`]
    /// deepest of them. `path` begins with a slash.
    #[inline]
    pub(super) fn boundaries(&self, scope: u32, path: &[u8], depths: u64, found: &mut Boundaries) {
        found.count = 0;
        found.fill(self.start(scope), path, depths);
    }
}

/// Multiplies, and adds the upper half of the product to the lower one without carry.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of what went into `state` and the `len % 8` bytes of `word`.
#[inline]
fn end(state: u64, word: u64, len: usize) -> u64 {
    fold(state ^ word, END ^ len as u64)
}

/// What is left of `bytes` after whole words of eight, with zeros above.
#[inline]
fn last_word(bytes: &[u8]) -> u64 {
    let left = bytes.len() % 8;
    if left == 0 {
        return 0;
    }
    match bytes.last_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk) >> (64 - 8 * left),
        None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The upper bit of each byte that is a slash.
#[inline]
fn slashes(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let different = word ^ 0x2f2f_2f2f_2f2f_2f2f;
    !(((different & LOW) + LOW) | different | LOW)
}

/// Where a path can be cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Boundary {
    pub(super) hash: u64,
    end: u32,
    depth: u32,
}

impl Boundary {
    /// The length of the prefix.
    pub(super) const fn end(&self) -> usize {
        self.end as usize
    }
}

/// The deepest boundaries of a path. Filled in place, as it is large enough for a copy to be felt.
#[derive(Debug, Default)]
pub(super) struct Boundaries {
    ring: [Boundary; Self::MAX],
    count: usize,
}

impl Boundaries {
    /// Buckets with prefixes of more different depths are rare, and take another pass.
    pub(super) const MAX: usize = 8;

    #[inline]
    fn fill(&mut self, mut state: u64, path: &[u8], depths: u64) {
        // How many slashes there are before the place looked at, and the place of the word that has it.
        let mut depth = 0;
        let mut at = 0;
        let (words, _) = path.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word);
            self.cut(state, word, at, slashes(word), &mut depth, depths);
            if depths.wrapping_shr(depth) == 0 || depth > 63 {
                return;
            }
            state = fold(state ^ word, STEP);
            at += 8;
        }
        let word = last_word(path);
        // The end of the path is a boundary as if another slash followed it.
        let past_the_end = 0x80 << (8 * (path.len() - at));
        self.cut(state, word, at, slashes(word) | past_the_end, &mut depth, depths);
    }

    /// Notes the boundaries in `word`, which begins at place `at`.
    #[inline]
    fn cut(&mut self, state: u64, word: u64, at: usize, mut slashes: u64, depth: &mut u32, depths: u64) {
        while slashes != 0 {
            let byte = slashes.trailing_zeros() / 8;
            slashes &= slashes - 1;
            // Depth 0 is the slash that a path begins with.
            if *depth < 64 && *depth > 0 && depths & (1 << *depth) != 0 {
                let len = at + byte as usize;
                let hash = end(state, word & ((1 << (8 * byte)) - 1), len);
                if let (Some(place), Ok(end)) =
                    (self.ring.get_mut(self.count % Self::MAX), u32::try_from(len))
                {
                    *place = Boundary { hash, end, depth: *depth };
                    self.count += 1;
                }
            }
            *depth += 1;
        }
    }

    #[inline]
    pub(super) fn deepest_first(&self) -> impl Iterator<Item = &Boundary> {
        let kept = self.count.min(Self::MAX);
        (self.count - kept..self.count).rev().filter_map(|place| self.ring.get(place % Self::MAX))
    }

    /// The depths that are less than those given out, as a mask.
    #[inline]
    pub(super) fn not_asked(&self) -> u64 {
        if self.count <= Self::MAX {
            return 0;
        }
        let shallowest = self.ring.get(self.count % Self::MAX).map_or(0, |boundary| boundary.depth);
        (1 << shallowest) - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(list: &[(u32, &[u8], u32)]) -> Keys {
        Keys::new(list.iter().copied()).unwrap()
    }

    #[test]
    fn finds_what_was_put_in_by_scope() {
        let map = keys(&[(1, b"a", 10), (2, b"a", 20), (1, b"/a/b", 30), (1, b"", 40)]);
        assert_eq!(map.get(1, b"a"), Some(10));
        assert_eq!(map.get(2, b"a"), Some(20));
        assert_eq!(map.get(3, b"a"), None);
        assert_eq!(map.get(1, b"b"), None);
        assert_eq!(map.get(1, b"a\0"), None);
        assert_eq!(map.get(1, b""), Some(40));
        assert_eq!(map.get(1, b"/a/b"), Some(30));
        assert_eq!(Keys::default().get(1, b"a"), None);
        assert_eq!(keys(&[]).get(1, b"a"), None);
    }

    #[test]
    fn boundaries_come_deepest_first_and_in_several_passes() {
        let path = b"/a/b/c/d/e/f/g/h/i/j/k/l".as_slice();
        let map = keys(&[]);
        let ends =
            |boundaries: &Boundaries| boundaries.deepest_first().map(Boundary::end).collect::<Vec<_>>();
        let boundaries = |path: &[u8], depths| {
            let mut found = Boundaries::default();
            map.boundaries(0, path, depths, &mut found);
            found
        };
        let all = u64::MAX ^ 1;
        let first = boundaries(path, all);
        assert_eq!(ends(&first), [24, 22, 20, 18, 16, 14, 12, 10]);
        let second = boundaries(path, all & first.not_asked());
        assert_eq!(ends(&second), [8, 6, 4, 2]);
        assert_eq!(all & first.not_asked() & second.not_asked(), 0);
        let none = boundaries(b"/a", 1 << 2);
        assert_eq!(ends(&none), [0; 0]);
        assert_eq!(none.not_asked(), 0);
        // An empty element is one: the path `/a/` has two, of which the first is `a`.
        assert_eq!(ends(&boundaries(b"/a/", all)), [3, 2]);
    }

    proptest! {
        #[test]
        fn a_boundary_has_the_hash_of_its_prefix(path in "/[ab/]{0,90}", depths: u64) {
            let map = keys(&[]);
            let path = path.as_bytes();
            let mut left = depths & !1;
            let mut given = Vec::new();
            let mut boundaries = Boundaries::default();
            while left != 0 {
                map.boundaries(7, path, left, &mut boundaries);
                for boundary in boundaries.deepest_first() {
                    prop_assert_eq!(boundary.hash, map.hash(7, &path[..boundary.end()]));
                    given.push(boundary.end());
                }
                left &= boundaries.not_asked();
            }
            let is_end = |at: &usize| *at == path.len() || path[*at] == b'/';
            let depth = |at: &usize| path[..*at].iter().filter(|byte| **byte == b'/').count();
            let wanted = |at: &usize| depth(at) < 64 && depths & (1 << depth(at)) != 0;
            let expected: Vec<_> = (1..=path.len()).rev().filter(is_end).filter(wanted).collect();
            prop_assert_eq!(given, expected);
        }

        #[test]
        fn slashes_are_found_exactly(bytes: [u8; 8]) {
            let found = slashes(u64::from_le_bytes(bytes)).to_le_bytes();
            prop_assert_eq!(found, bytes.map(|byte| if byte == b'/' { 0x80 } else { 0 }));
        }
    }

    #[test]
    fn probes_stay_short_when_many() {
        for form in ["/svc{}/api", "{}.example.com", "/{}", "/a/very/long/and/common/beginning/{}"] {
            let names: Vec<_> = (0..50_000).map(|n| form.replace("{}", &n.to_string())).collect();
            let map = Keys::new(names.iter().zip(0..).map(|(name, n)| (n % 3, name.as_bytes(), n))).unwrap();
            assert!(map.longest_probe() <= LONG_PROBE, "{form}: {}", map.longest_probe());
            for (name, n) in names.iter().zip(0..) {
                assert_eq!(map.get(n % 3, name.as_bytes()), Some(n));
            }
        }
    }
}
