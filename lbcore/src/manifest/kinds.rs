//! Which kinds are read, and by whom.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::corpus::{Findings, Objects};
use super::field::Object;
use crate::id::ObjectName;

/// A kind of object that can be read from documents. Each crate implements it for the kinds that it owns, and
/// registers them with [`Kinds::read`].
pub trait Kind: Any + fmt::Debug + PartialEq + Send + Sync + Sized {
    /// The API group, for example `"metallb.io"`; empty for Kubernetes' core.
    const GROUP: &'static str;
    /// The kind, for example `"IPAddressPool"`.
    const KIND: &'static str;
    /// The versions that are read.
    const VERSIONS: &'static [&'static str];
    /// Whether objects of it have a namespace.
    const NAMESPACED: bool;
    /// Whether an unknown field is an error. Kubernetes' own kinds have many that are not read here.
    const STRICT: bool;

    /// Reads an object. Problems are reported through the fields; an object with one is not used, whatever this
    /// returns.
    fn read(object: &Object<'_>) -> Option<Self>;
}

/// What names an object: its kind, namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ObjectId {
    /// The API group.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Namespace and name.
    pub name: ObjectName,
}

impl ObjectId {
    /// The object of kind `K` with this name.
    pub fn of<K: Kind>(name: ObjectName) -> Self {
        Self { group: K::GROUP, kind: K::KIND, name }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name.namespace {
            "" => write!(f, "{} {}", self.kind, self.name.name),
            _ => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A value of some [`Kind`].
pub(super) trait AnyKind: Any + fmt::Debug + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn equals(&self, other: &dyn AnyKind) -> bool;
}

impl<K: Kind> AnyKind for K {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn equals(&self, other: &dyn AnyKind) -> bool {
        other.as_any().downcast_ref::<K>().is_some_and(|other| self == other)
    }
}

type Check = Arc<dyn Fn(&Objects, &mut Findings<'_>) + Send + Sync>;

/// How one kind is read.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) versions: &'static [&'static str],
    pub(super) namespaced: bool,
    pub(super) strict: bool,
    pub(super) read: fn(&Object<'_>) -> Option<Arc<dyn AnyKind>>,
}

/// The kinds that are read, and the rules between objects.
///
/// Every crate that owns kinds has a function that registers them; the caller combines those that it uses and
/// gives the result to a [`Corpus`](super::Corpus).
#[derive(Clone, Default)]
pub struct Kinds {
    readers: BTreeMap<&'static str, BTreeMap<&'static str, Reader>>,
    /// The groups of which every kind must be known, with those that are.
    closed: BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>,
    checks: Vec<Check>,
}

impl Kinds {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads kind `K`.
    #[must_use]
    pub fn read<K: Kind>(mut self) -> Self {
        let reader = Reader {
            group: K::GROUP,
            kind: K::KIND,
            versions: K::VERSIONS,
            namespaced: K::NAMESPACED,
            strict: K::STRICT,
            read: |object| K::read(object).map(|value| Arc::new(value) as Arc<dyn AnyKind>),
        };
        self.readers.entry(K::GROUP).or_default().insert(K::KIND, reader);
        self
    }

    /// Makes a kind of `group` that is not registered an error. `unread` are the kinds of the group that exist
    /// but are not read, each with what to tell the user; a kind that is registered wins over its entry here.
    #[must_use]
    pub fn closed_group(mut self, group: &'static str, unread: &[(&'static str, &'static str)]) -> Self {
        self.closed.entry(group).or_default().extend(unread.iter().copied());
        self
    }

    /// Adds a rule between objects, asked after all documents are read.
    #[must_use]
    pub fn check(mut self, check: impl Fn(&Objects, &mut Findings<'_>) + Send + Sync + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    pub(super) fn checks(&self) -> &[Check] {
        &self.checks
    }

    pub(super) fn find(&self, group: &str, kind: &str) -> Lookup<'_> {
        if let Some(reader) = self.readers.get(group).and_then(|kinds| kinds.get(kind)) {
            return Lookup::Read(reader);
        }
        let read = self.readers.get(group).into_iter().flat_map(|kinds| kinds.keys().copied());
        let Some(unread) = self.closed.get(group) else {
            return Lookup::Other { read: read.collect() };
        };
        if let Some(why) = unread.get(kind) {
            return Lookup::Unread(why);
        }
        let mut known: Vec<&'static str> = read.chain(unread.keys().copied()).collect();
        known.sort_unstable();
        known.dedup();
        Lookup::Unknown { known }
    }
}

/// What is known of a kind.
#[derive(Debug)]
pub(super) enum Lookup<'k> {
    /// It is read.
    Read(&'k Reader),
    /// It exists, but is not read, and why.
    Unread(&'static str),
    /// Its group has no such kind.
    Unknown { known: Vec<&'static str> },
    /// Somebody else's; these are read of its group.
    Other { read: Vec<&'static str> },
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.kind)
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kinds")
            .field("readers", &self.readers)
            .field("closed", &self.closed)
            .field("checks", &self.checks.len())
            .finish()
    }
}
