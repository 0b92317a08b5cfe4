//! A map from byte strings to 32-bit values for look-ups by borrowed, piecewise hashed keys.
//!
//! Open addressing with linear probing, at most half full: 8 bytes a slot, of which one half is a tag out of
//! the hash, so that nearly every miss ends in the slots and nearly every hit compares one key. The keys
//! themselves lie in one arena.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::{FixedState, FoldHasher};

/// A key belongs to a scope; equal bytes in two scopes are two keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Keys {
    seed: u64,
    /// The tag above, the number of the entry plus one below; zero if free. The number of slots is a power of two.
    slots: Vec<u64>,
    entries: Vec<KeyEntry>,
    bytes: Vec<u8>,
    longest_probe: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct KeyEntry {
    scope: u32,
    start: u32,
    len: u32,
    value: u32,
}

/// Probes longer than this are worth another seed.
const LONG_PROBE: u32 = 32;
const SEEDS: u64 = 8;

impl Keys {
    /// Makes the map. `None` if it would not fit into 32-bit numbers.
    pub(super) fn new<'k>(keys: impl IntoIterator<Item = (u32, KeyKind, &'k [u8], u32)>) -> Option<Self> {
        let mut kinds = Vec::new();
        let mut map = Self::default();
        for (scope, kind, key, value) in keys {
            let start = u32::try_from(map.bytes.len()).ok()?;
            map.bytes.extend_from_slice(key);
            map.entries.push(KeyEntry { scope, start, len: u32::try_from(key.len()).ok()?, value });
            kinds.push(kind);
        }
        u32::try_from(map.bytes.len()).ok()?;
        u32::try_from(map.entries.len()).ok()?;
        let slots = (map.entries.len() * 2).next_power_of_two().max(2);
        // Keys that collide under one seed do not under the next, unless their hashes are equal as a whole.
        for seed in 0..SEEDS {
            map.fill(seed, slots, &kinds);
            if map.longest_probe <= LONG_PROBE {
                break;
            }
        }
        Some(map)
    }

    fn fill(&mut self, seed: u64, slots: usize, kinds: &[KeyKind]) {
        self.seed = seed;
        self.slots = vec![0; slots];
        self.longest_probe = 0;
        for (number, (entry, kind)) in (1_u64..).zip(self.entries.iter().zip(kinds)) {
            let key = self.key(entry);
            let hash = match kind {
                KeyKind::Whole => self.hash(entry.scope, key),
                KeyKind::Elements => self.hash_elements(entry.scope, key),
            };
            let mut probe = 1;
            let mut at = self.first_slot(hash);
            while self.slots.get(at).is_some_and(|slot| *slot != 0) {
                at = (at + 1) & (slots - 1);
                probe += 1;
            }
            if let Some(slot) = self.slots.get_mut(at) {
                *slot = (hash << 32) | number;
            }
            self.longest_probe = self.longest_probe.max(probe);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn longest_probe(&self) -> u32 {
        self.longest_probe
    }

    /// The value of a key that was hashed as a whole.
    pub(super) fn get(&self, scope: u32, key: &[u8]) -> Option<u32> {
        self.get_hashed(self.hash(scope, key), scope, key)
    }

    /// The value of a key whose hash is known.
    pub(super) fn get_hashed(&self, hash: u64, scope: u32, key: &[u8]) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = self.first_slot(hash);
        for _ in 0..self.longest_probe {
            let slot = *self.slots.get(at)?;
            if slot == 0 {
                return None;
            }
            if slot >> 32 == hash & u64::from(u32::MAX) {
                let entry = self.entries.get((slot as u32).wrapping_sub(1) as usize)?;
                if entry.scope == scope && self.key(entry) == key {
                    return Some(entry.value);
                }
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn key(&self, entry: &KeyEntry) -> &[u8] {
        let start = entry.start as usize;
        self.bytes.get(start..start + entry.len as usize).unwrap_or_default()
    }

    /// By the upper bits; the tag is made of the lower ones.
    fn first_slot(&self, hash: u64) -> usize {
        let bits = self.slots.len().trailing_zeros();
        // There are at least two slots, so the shift is less than 64; without slots nothing is probed.
        hash.wrapping_shr(64 - bits) as usize
    }

    fn hasher(&self, scope: u32) -> FoldHasher<'static> {
        // Odd, so that it permutes; it moves the scope to the upper bits.
        FixedState::with_seed(self.seed ^ u64::from(scope).wrapping_mul(0x9e37_79b9_7f4a_7c15)).build_hasher()
    }

    fn hash(&self, scope: u32, key: &[u8]) -> u64 {
        let mut hasher = self.hasher(scope);
        hasher.write(key);
        hasher.finish()
    }

    fn hash_elements(&self, scope: u32, prefix: &[u8]) -> u64 {
        let mut hasher = self.hasher(scope);
        for element in prefix.split(|byte| *byte == b'/').skip(1) {
            hasher.write(element);
        }
        hasher.finish()
    }

    /// The prefixes of `path` whose number of elements is in `depths`, with their hashes: the [`Boundaries::MAX`]
    /// deepest of them. `path` begins with a slash.
    pub(super) fn boundaries(&self, scope: u32, path: &[u8], depths: u64) -> Boundaries {
        let mut boundaries = Boundaries { ring: [Boundary::default(); Boundaries::MAX], count: 0, asked: 0 };
        let deepest = 63 - depths.leading_zeros();
        let mut hasher = self.hasher(scope);
        let mut end = 0;
        for depth in 1..=deepest {
            let Some([b'/', rest @ ..]) = path.get(end..) else { break };
            let len = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            hasher.write(rest.get(..len).unwrap_or_default());
            end += 1 + len;
            if depths & (1 << depth) != 0 {
                let boundary = Boundary { hash: hasher.finish(), end, depth };
                if let Some(place) = boundaries.ring.get_mut(boundaries.count % Boundaries::MAX) {
                    *place = boundary;
                }
                boundaries.count += 1;
            }
        }
        boundaries.asked = boundaries
            .deepest_first()
            .map(|boundary| boundary.depth)
            .last()
            .map_or(u64::MAX, |shallowest| u64::MAX << shallowest);
        boundaries
    }
}

/// How a key is hashed.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyKind {
    /// In one piece.
    Whole,
    /// Path element by path element, so that the hashes of all prefixes of a path come out of one pass.
    Elements,
}

/// Where a path can be cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Boundary {
    pub(super) hash: u64,
    pub(super) end: usize,
    depth: u32,
}

/// The deepest boundaries of a path.
#[derive(Debug)]
pub(super) struct Boundaries {
    ring: [Boundary; Self::MAX],
    count: usize,
    asked: u64,
}

impl Boundaries {
    /// Buckets with prefixes of more different depths are rare, and take another pass.
    pub(super) const MAX: usize = 8;

    pub(super) fn deepest_first(&self) -> impl Iterator<Item = &Boundary> {
        let kept = self.count.min(Self::MAX);
        (self.count - kept..self.count).rev().filter_map(|place| self.ring.get(place % Self::MAX))
    }

    /// The depths that are less than those given out, as a mask.
    pub(super) fn not_asked(&self) -> u64 {
        !self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[(u32, KeyKind, &[u8], u32)]) -> Keys {
        Keys::new(list.iter().copied()).unwrap()
    }

    #[test]
    fn finds_what_was_put_in_by_scope() {
        use KeyKind::{Elements, Whole};
        let map = keys(&[
            (1, Whole, b"a", 10),
            (2, Whole, b"a", 20),
            (1, Elements, b"/a/b", 30),
            (1, Whole, b"", 40),
        ]);
        assert_eq!(map.get(1, b"a"), Some(10));
        assert_eq!(map.get(2, b"a"), Some(20));
        assert_eq!(map.get(3, b"a"), None);
        assert_eq!(map.get(1, b"b"), None);
        assert_eq!(map.get(1, b""), Some(40));
        let found = map.boundaries(1, b"/a/b/c", 1 << 2);
        let [boundary] = found.deepest_first().collect::<Vec<_>>()[..] else { panic!("{found:?}") };
        assert_eq!(boundary.end, 4);
        assert_eq!(map.get_hashed(boundary.hash, 1, b"/a/b"), Some(30));
        assert_eq!(Keys::default().get(1, b"a"), None);
        assert_eq!(keys(&[]).get(1, b"a"), None);
    }

    #[test]
    fn boundaries_come_deepest_first_and_in_several_passes() {
        let path = b"/a/b/c/d/e/f/g/h/i/j/k/l".as_slice();
        let map = keys(&[]);
        let ends = |boundaries: &Boundaries| boundaries.deepest_first().map(|b| b.end).collect::<Vec<_>>();
        let all = u64::MAX ^ 1;
        let first = map.boundaries(0, path, all);
        assert_eq!(ends(&first), [24, 22, 20, 18, 16, 14, 12, 10]);
        let second = map.boundaries(0, path, all & first.not_asked());
        assert_eq!(ends(&second), [8, 6, 4, 2]);
        assert_eq!(all & first.not_asked() & second.not_asked(), 0);
        let none = map.boundaries(0, b"/a", 1 << 2);
        assert_eq!(ends(&none), [0; 0]);
        assert_eq!((1 << 2) & none.not_asked(), 0);
        // An empty element is one: the path `/a/` has two, of which the first is `a`.
        assert_eq!(ends(&map.boundaries(0, b"/a/", all)), [3, 2]);
    }

    #[test]
    fn probes_stay_short_when_many() {
        let names: Vec<_> = (0..50_000).map(|n| format!("/svc{n:05}/api")).collect();
        let map =
            Keys::new(names.iter().zip(0..).map(|(name, n)| (0, KeyKind::Elements, name.as_bytes(), n)))
                .unwrap();
        assert!(map.longest_probe() <= LONG_PROBE, "{}", map.longest_probe());
        for (name, n) in names.iter().zip(0..) {
            let boundaries = map.boundaries(0, name.as_bytes(), 1 << 2);
            let boundary = boundaries.deepest_first().next().unwrap();
            assert_eq!(map.get_hashed(boundary.hash, 0, name.as_bytes()), Some(n));
        }
    }
}
