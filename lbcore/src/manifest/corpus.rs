//! All documents together, and what stays when one of them breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::field::{Field, Mapping, Object, is_object_name, line_of, list};
use super::kinds::{AnyKind, Kind, Kinds, Lookup, ObjectId, Reader};
use super::problem::{Notice, Place, Problem, Sink};
use super::suggest;
use super::yaml::{self, Node, Value, join};
use crate::id::ObjectName;

/// The longest file that is read.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceFile {
    /// Its name, for messages; what a file held is remembered under it.
    pub name: Arc<str>,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}

impl SourceFile {
    /// A file and its text.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: Ok(text.into()) }
    }

    /// A file, or a folder, that is there but cannot be read: what was last read from it stays.
    pub fn unreadable(name: impl Into<Arc<str>>, why: impl Into<String>) -> Self {
        Self { name: name.into(), text: Err(why.into()) }
    }
}

/// The valid objects of a set of files, over time.
///
/// [`load`](Self::load) is given all files each time. A document that became invalid keeps its last valid
/// version, so that a typo revokes nothing; one that is gone goes. Where objects contradict each other, the one
/// that changed last is the one that falls back.
#[derive(Clone, Debug)]
pub struct Corpus {
    kinds: Kinds,
    objects: Objects,
}

/// What a [`Corpus::load`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Everything that is wrong, ordered by place.
    pub problems: Vec<Problem>,
    /// Everything that is worth saying, ordered by place.
    pub notices: Vec<Notice>,
    /// The objects that stay at their last valid version, in order.
    pub kept: Vec<ObjectId>,
    /// Whether the objects differ from those before.
    pub changed: bool,
}

impl Corpus {
    /// Nothing yet; `kinds` will be read.
    pub fn new(kinds: Kinds) -> Self {
        Self { kinds, objects: Objects::default() }
    }

    /// The valid objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Reads `files`, which are all there are: what was read before and is in none of them is forgotten.
    pub fn load(&mut self, files: &[SourceFile]) -> Report {
        let mut loading = Loading::new(&self.kinds);
        for file in files {
            loading.file(file);
        }
        let Loading { candidates, nameless, mut problems, mut notices, unread, .. } = loading;
        notices.extend(unread.into_values().map(Unread::into_notice));

        let chosen = choose(candidates, &self.objects, &mut problems);
        let mut kept = BTreeSet::new();
        let unknown = nameless.iter().map(|nameless| nameless.kind).collect();
        let mut next = Objects { unknown, ..Objects::default() };
        for (id, candidate) in &chosen {
            next.declared.insert(id.clone());
            let previous = self.objects.stored(id);
            let stored = match (&candidate.value, previous) {
                (Some(value), previous) => Stored {
                    value: value.clone(),
                    place: candidate.place.clone(),
                    order: candidate.order,
                    fresh: previous.is_none_or(|previous| !previous.value.equals(&**value)),
                },
                (None, Some(previous)) => {
                    kept.insert(id.clone());
                    Stored { place: candidate.place.clone(), order: candidate.order, ..previous.clone() }
                }
                (None, None) => continue,
            };
            next.insert(id.clone(), stored);
        }
        for (id, previous) in self.objects.all() {
            let may_be = |nameless: &Nameless| {
                nameless.kind.is_none_or(|kind| kind == (id.group, id.kind))
                    && holds(&nameless.file, &previous.place.file)
            };
            if !next.declared.contains(&id) && nameless.iter().any(may_be) {
                kept.insert(id.clone());
                next.declared.insert(id.clone());
                next.insert(id, Stored { fresh: false, ..previous.clone() });
            }
        }
        notices.extend(self.settle(&mut next, &chosen, &mut problems, &mut kept));

        let changed = !next.equals(&self.objects);
        for stored in next.by_kind.values_mut().flat_map(BTreeMap::values_mut) {
            stored.fresh = false;
        }
        self.objects = next;
        problems.sort();
        problems.dedup();
        notices.sort();
        notices.dedup();
        Report { problems, notices, kept: kept.into_iter().collect(), changed }
    }

    /// Asks the rules between objects, and lets those that changed and break one fall back, until none does. Gives what
    /// the rules have to say of the objects that are left.
    fn settle(
        &self,
        next: &mut Objects,
        chosen: &BTreeMap<ObjectId, Candidate>,
        problems: &mut Vec<Problem>,
        kept: &mut BTreeSet<ObjectId>,
    ) -> Vec<Notice> {
        loop {
            let mut findings = Findings { objects: next, found: Vec::new(), noticed: Vec::new() };
            for check in self.kinds.checks() {
                check(next, &mut findings);
            }
            let Findings { found, noticed, .. } = findings;
            let blamed: BTreeSet<ObjectId> = found.iter().map(|finding| finding.id.clone()).collect();
            problems.extend(found.into_iter().filter_map(|finding| finding.into_problem(next, chosen)));
            let mut settled = true;
            for id in blamed {
                let Some(stored) = next.stored(&id).filter(|stored| stored.fresh).cloned() else { continue };
                settled = false;
                match self.objects.stored(&id) {
                    Some(previous) => {
                        kept.insert(id.clone());
                        next.insert(id, Stored { value: previous.value.clone(), fresh: false, ..stored });
                    }
                    None => next.remove(&id),
                }
            }
            if settled {
                let problems = noticed.into_iter().filter_map(|finding| finding.into_problem(next, chosen));
                let notice =
                    |Problem { place, object, path, message }| Notice { place, object, path, message };
                return problems.map(notice).collect();
            }
        }
    }
}

/// Whether `path` is the file `of`, or lies in the folder of that name.
fn holds(of: &str, path: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || of.ends_with('/'))
}

/// One candidate an object: among several of one name the one that was there before, else the first.
fn choose(
    candidates: Vec<Candidate>,
    before: &Objects,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ObjectId, Candidate> {
    let mut chosen: BTreeMap<ObjectId, Candidate> = BTreeMap::new();
    for candidate in candidates {
        let Some(other) = chosen.get_mut(&candidate.id) else {
            chosen.insert(candidate.id.clone(), candidate);
            continue;
        };
        problems.push(Problem {
            place: candidate.place.clone(),
            object: Some(candidate.id.to_string().into()),
            path: candidate.base.clone(),
            message: format!("is there twice, first at {}: rename or remove one", other.place),
        });
        let is_known = |candidate: &Candidate| match (&candidate.value, before.stored(&candidate.id)) {
            (Some(value), Some(stored)) => stored.value.equals(&**value),
            _ => false,
        };
        if is_known(&candidate) && !is_known(other) {
            *other = candidate;
        }
    }
    chosen
}

/// The valid objects of a [`Corpus`], by kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    by_kind: BTreeMap<KindName, BTreeMap<ObjectName, Stored>>,
    /// Every object that has a document, valid or not.
    declared: BTreeSet<ObjectId>,
    /// The kinds of documents that do not say which object they are; `None` for one that does not say its kind.
    unknown: BTreeSet<Option<KindName>>,
}

/// Group and kind.
type KindName = (&'static str, &'static str);

#[derive(Clone, Debug)]
struct Stored {
    value: Arc<dyn AnyKind>,
    place: Place,
    /// The document's place among all.
    order: usize,
    /// Whether it differs from the last load's.
    fresh: bool,
}

impl Objects {
    /// The objects of kind `K`, ordered by namespace and name.
    pub fn iter<K: Kind>(&self) -> impl Iterator<Item = (&ObjectName, &K)> {
        let stored = self.by_kind.get(&(K::GROUP, K::KIND)).into_iter().flatten();
        stored.filter_map(|(name, stored)| Some((name, stored.value.as_any().downcast_ref()?)))
    }

    /// The object of kind `K` with this name.
    pub fn get<K: Kind>(&self, name: &ObjectName) -> Option<&K> {
        self.by_kind.get(&(K::GROUP, K::KIND))?.get(name)?.value.as_any().downcast_ref()
    }

    /// Where the object's document is.
    pub fn place(&self, id: &ObjectId) -> Option<&Place> {
        self.stored(id).map(|stored| &stored.place)
    }

    /// How many objects of kind `K` there are.
    pub fn count<K: Kind>(&self) -> usize {
        self.by_kind.get(&(K::GROUP, K::KIND)).map_or(0, BTreeMap::len)
    }

    /// Whether there may be an object of kind `K` with this name: it has a document, even an invalid one, or
    /// some document that may be of this kind does not say which object it is. For rules about references, so
    /// that one typo gives one problem.
    pub fn may_exist<K: Kind>(&self, name: &ObjectName) -> bool {
        self.has_unknown::<K>() || self.declared.contains(&ObjectId::of::<K>(name.clone()))
    }

    /// The same for kinds whose objects are named without their namespace.
    pub fn may_exist_anywhere<K: Kind>(&self, name: &str) -> bool {
        self.has_unknown::<K>()
            || self
                .declared
                .iter()
                .any(|id| id.group == K::GROUP && id.kind == K::KIND && &*id.name.name == name)
    }

    /// Whether every document of kind `K` is valid, and every document that may be of this kind says which object
    /// it is.
    pub fn all_valid<K: Kind>(&self) -> bool {
        let declared = self.declared.iter().filter(|id| id.group == K::GROUP && id.kind == K::KIND);
        !self.has_unknown::<K>() && declared.into_iter().all(|id| self.stored(id).is_some())
    }

    /// Which of two objects that contradict each other is to blame: the one that changed since the last load,
    /// else the one whose document comes later.
    pub fn to_blame<'i>(&self, a: &'i ObjectId, b: &'i ObjectId) -> &'i ObjectId {
        let rank = |id: &ObjectId| self.stored(id).map(|stored| (stored.fresh, stored.order));
        if rank(a) > rank(b) { a } else { b }
    }

    fn has_unknown<K: Kind>(&self) -> bool {
        self.unknown.contains(&None) || self.unknown.contains(&Some((K::GROUP, K::KIND)))
    }

    fn stored(&self, id: &ObjectId) -> Option<&Stored> {
        self.by_kind.get(&(id.group, id.kind))?.get(&id.name)
    }

    fn insert(&mut self, id: ObjectId, stored: Stored) {
        self.by_kind.entry((id.group, id.kind)).or_default().insert(id.name, stored);
    }

    fn remove(&mut self, id: &ObjectId) {
        if let Some(objects) = self.by_kind.get_mut(&(id.group, id.kind)) {
            objects.remove(&id.name);
        }
    }

    fn all(&self) -> impl Iterator<Item = (ObjectId, &Stored)> {
        self.by_kind.iter().flat_map(|((group, kind), objects)| {
            objects.iter().map(|(name, stored)| (ObjectId { group, kind, name: name.clone() }, stored))
        })
    }

    fn equals(&self, other: &Self) -> bool {
        let count = |objects: &Self| objects.by_kind.values().map(BTreeMap::len).sum::<usize>();
        count(self) == count(other)
            && self
                .all()
                .all(|(id, stored)| other.stored(&id).is_some_and(|other| stored.value.equals(&*other.value)))
    }
}

/// Takes what a rule between objects finds.
#[derive(Debug)]
pub struct Findings<'o> {
    objects: &'o Objects,
    found: Vec<Finding>,
    noticed: Vec<Finding>,
}

#[derive(Debug)]
struct Finding {
    id: ObjectId,
    path: String,
    message: String,
}

impl Findings<'_> {
    /// `id` is wrong at `path` (as `spec.ipAddressPools[0]`). If it changed since the last load it falls back to
    /// its last valid version; otherwise it stays as it is, and is reported.
    pub fn report(&mut self, id: ObjectId, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(Finding { id, path: path.into(), message: message.into() });
    }

    /// There is something to say of `id` at `path` that is not wrong.
    pub fn notice(&mut self, id: ObjectId, path: impl Into<String>, message: impl Into<String>) {
        self.noticed.push(Finding { id, path: path.into(), message: message.into() });
    }

    /// Where the object's document is, to name it in the message about another one.
    pub fn place(&self, id: &ObjectId) -> String {
        self.objects.place(id).map_or_else(|| "an earlier load".to_owned(), ToString::to_string)
    }
}

impl Finding {
    fn into_problem(self, objects: &Objects, chosen: &BTreeMap<ObjectId, Candidate>) -> Option<Problem> {
        let Self { id, mut path, message } = self;
        let mut place = objects.place(&id)?.clone();
        if let Some(candidate) = chosen.get(&id) {
            place.line = line_of(&candidate.root, &path);
            path = match (candidate.base.as_str(), path.as_str()) {
                ("", _) => path,
                (base, "") => base.to_owned(),
                (base, path) => format!("{base}.{path}"),
            };
        }
        Some(Problem { place, object: Some(id.to_string().into()), path, message })
    }
}

/// An object as it was read, valid or not.
#[derive(Debug)]
struct Candidate {
    id: ObjectId,
    place: Place,
    order: usize,
    value: Option<Arc<dyn AnyKind>>,
    root: Node,
    /// The path of `root` within its document: of an item of a list.
    base: String,
}

/// That a file, or one in a folder, has a document that does not say which object it is: any that was read from there
/// may be meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Nameless {
    file: Arc<str>,
    /// Its kind, if it says that.
    kind: Option<KindName>,
}

/// Documents of one kind that are passed over.
#[derive(Debug)]
struct Unread {
    kind: String,
    count: usize,
    first: Place,
    why: String,
}

impl Unread {
    fn into_notice(self) -> Notice {
        let Self { kind, count, first, why } = self;
        let message = match count {
            1 => format!("{kind} is passed over: {why}"),
            _ => format!("{count} documents of kind {kind} are passed over, this is the first: {why}"),
        };
        Notice { place: first, object: None, path: String::new(), message }
    }
}

#[derive(Debug)]
struct Loading<'k> {
    kinds: &'k Kinds,
    candidates: Vec<Candidate>,
    nameless: BTreeSet<Nameless>,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
    unread: BTreeMap<(String, String), Unread>,
}

impl<'k> Loading<'k> {
    fn new(kinds: &'k Kinds) -> Self {
        Self {
            kinds,
            candidates: Vec::new(),
            nameless: BTreeSet::new(),
            problems: Vec::new(),
            notices: Vec::new(),
            unread: BTreeMap::new(),
        }
    }

    fn file(&mut self, file: &SourceFile) {
        let whole = |message: String| Problem {
            place: Place { file: file.name.clone(), line: 0, document: 0 },
            object: None,
            path: String::new(),
            message,
        };
        let text = match &file.text {
            Ok(text) if text.len() <= MAX_FILE_BYTES => text,
            // Who reads it may have stopped there: nobody knows how many there are.
            Ok(_) => {
                self.nameless(&file.name, None);
                self.problems.push(whole(format!("has more than {MAX_FILE_BYTES} bytes: split it")));
                return;
            }
            Err(why) => {
                self.nameless(&file.name, None);
                self.problems.push(whole(format!("cannot be read: {why}")));
                return;
            }
        };
        for (index, document) in yaml::documents(text).into_iter().enumerate() {
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let sink = Sink::new(file.name.clone(), number);
            match document {
                Ok(document) => {
                    let flawed = !document.flaws.is_empty();
                    for flaw in document.flaws {
                        sink.problem(flaw.line, flaw.path, flaw.message);
                    }
                    self.node(document.root, String::new(), None, &sink, flawed);
                }
                Err(flaw) => {
                    self.nameless(&file.name, None);
                    sink.problem(flaw.line, flaw.path, flaw.message);
                }
            }
            self.problems.append(&mut sink.problems.into_inner());
            self.notices.append(&mut sink.notices.into_inner());
        }
    }

    /// One object, or a list of them. `implied` is the version and kind of the items of a `ServiceList`.
    fn node(&mut self, root: Node, base: String, implied: Option<(&str, &str)>, sink: &Sink, flawed: bool) {
        let nameless = |this: &mut Self, line, path: &str, message: String| {
            this.nameless(&sink.file, None);
            sink.problem(line, path, message);
        };
        if !matches!(root.value, Value::Map(_)) {
            let message = "is no Kubernetes object: it needs apiVersion, kind and metadata".to_owned();
            return nameless(self, root.line, &base, message);
        }
        let header = |name| root.get(name).and_then(Node::text);
        let implied_or = |name, implied: Option<&str>| header(name).or(implied).map(str::to_owned);
        let api_version = implied_or("apiVersion", implied.map(|(version, _)| version));
        let kind = implied_or("kind", implied.map(|(_, kind)| kind));
        let (Some(api_version), Some(kind)) = (&api_version, &kind) else {
            let missing: Vec<_> = [("apiVersion", &api_version), ("kind", &kind)]
                .into_iter()
                .filter_map(|(name, value)| value.is_none().then_some(name))
                .collect();
            let message = format!("is no Kubernetes object: add {}", list(&missing));
            return nameless(self, root.line, &base, message);
        };
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));

        let lookup = self.kinds.find(group, kind);
        if !matches!(lookup, Lookup::Read(_))
            && let Some(item_kind) = kind.strip_suffix("List")
            && root.get("items").is_some()
        {
            let implied = Some((api_version.as_str(), item_kind)).filter(|_| !item_kind.is_empty());
            let Value::Map(entries) = root.value else { return };
            let items = entries.into_iter().find(|entry| &*entry.key == "items").map(|entry| entry.node);
            match items {
                Some(Node { value: Value::List(items), .. }) => {
                    for (index, item) in items.into_iter().enumerate() {
                        let path = format!("{}[{index}]", join(&base, "items"));
                        self.node(item, path, implied, sink, flawed);
                    }
                }
                Some(node) if node.is_null() => {}
                _ => nameless(self, 0, &join(&base, "items"), "must be a list".to_owned()),
            }
            return;
        }
        match lookup {
            Lookup::Read(reader) => self.object(reader, root, base, version, sink, flawed),
            Lookup::Unread(why) => self.pass_over(group, kind, root.line, why, sink),
            Lookup::Other { read } => {
                let why = match suggest::closest(kind, &read) {
                    Some(name) => &format!("nothing here reads this kind: did you mean {name}?"),
                    None => "nothing here reads this kind",
                };
                self.pass_over(group, kind, root.line, why, sink);
            }
            Lookup::Unknown { known } => {
                let line = root.get("kind").map_or(root.line, |node| node.line);
                let message = match suggest::closest(kind, &known) {
                    Some(name) => format!("{group} has no kind {kind}: did you mean {name}?"),
                    None => format!("{group} has no kind {kind}: it has {}", list(&known)),
                };
                nameless(self, line, &join(&base, "kind"), message);
            }
        }
    }

    fn nameless(&mut self, file: &Arc<str>, kind: Option<KindName>) {
        self.nameless.insert(Nameless { file: file.clone(), kind });
    }

    fn pass_over(&mut self, group: &str, kind: &str, line: u32, why: &str, sink: &Sink) {
        let entry = self.unread.entry((group.to_owned(), kind.to_owned()));
        let unread = entry.or_insert_with(|| Unread {
            kind: if group.is_empty() { kind.to_owned() } else { format!("{kind} ({group})") },
            count: 0,
            first: sink.place(line),
            why: why.to_owned(),
        });
        unread.count += 1;
    }

    fn object(
        &mut self,
        reader: &Reader,
        root: Node,
        base: String,
        version: &str,
        sink: &Sink,
        flawed: bool,
    ) {
        let Value::Map(entries) = &root.value else { return };
        let before = sink.problems.borrow().len();
        let mapping = Mapping::new(entries, root.line, base.clone(), sink, reader.strict);
        mapping.ignore(&["apiVersion", "kind", "status"]);
        let metadata = mapping.get("metadata").required().mapping(|metadata| read_metadata(metadata, reader));
        let Metadata { name, labels, annotations, created } = metadata.unwrap_or_default();
        let id = name.map(|name| ObjectId { group: reader.group, kind: reader.kind, name });
        if let Some(id) = &id {
            *sink.object.borrow_mut() = Some(id.to_string().into());
            // The name was not known yet when these were found.
            let first = if base.is_empty() { 0 } else { before };
            for problem in sink.problems.borrow_mut().iter_mut().skip(first) {
                problem.object.clone_from(&sink.object.borrow());
            }
        } else {
            self.nameless(&sink.file, Some((reader.group, reader.kind)));
        }
        let value = if reader.versions.contains(&version) {
            let object = Object {
                group: reader.group,
                version,
                kind: reader.kind,
                // What else is wrong is said of one without a name too.
                name: id.as_ref().map_or_else(|| ObjectName::new("", "unnamed"), |id| id.name.clone()),
                labels,
                annotations,
                created,
                root: mapping,
            };
            let value = (reader.read)(&object);
            object.root.finish();
            value
        } else {
            let line = root.get("apiVersion").map_or(root.line, |node| node.line);
            let versions: Vec<_> = reader
                .versions
                .iter()
                .map(|version| match reader.group {
                    "" => (*version).to_owned(),
                    group => format!("{group}/{version}"),
                })
                .collect();
            let message =
                format!("{} has no version {version}: write {}", reader.kind, versions.join(" or "));
            sink.problem(line, join(&base, "apiVersion"), message);
            None
        };
        let clean = sink.problems.borrow().len() == before && !flawed;
        if clean && value.is_none() {
            sink.problem(root.line, base.clone(), "cannot be used");
        }
        let place = sink.place(root.line);
        let order = self.candidates.len();
        let value = value.filter(|_| clean);
        *sink.object.borrow_mut() = None;
        if let Some(id) = id {
            self.candidates.push(Candidate { id, place, order, value, root, base });
        }
    }
}

#[derive(Default)]
struct Metadata {
    name: Option<ObjectName>,
    labels: crate::labels::Labels,
    annotations: BTreeMap<Arc<str>, Arc<str>>,
    created: Option<crate::time::Timestamp>,
}

fn read_metadata(metadata: &Mapping<'_>, reader: &Reader) -> Metadata {
    metadata.ignore(&[
        "generateName",
        "uid",
        "resourceVersion",
        "generation",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
        "clusterName",
    ]);
    let checked = |field: &Field<'_>| {
        let name = field.non_empty()?;
        if !is_object_name(name) {
            field.problem(format!(
                "{name:?} is no name: use lower-case letters, digits, - and ., and begin and end with a letter or digit"
            ));
        }
        Some(name.to_owned())
    };
    let name = checked(&metadata.get("name").required());
    let namespace_field = metadata.get("namespace");
    let namespace = checked(&namespace_field);
    let namespace = match namespace {
        Some(namespace) if reader.namespaced => namespace,
        Some(_) => String::new(),
        None if reader.namespaced => "default".to_owned(),
        None => String::new(),
    };
    let labels = metadata.get("labels").labels();
    let annotations = metadata.get("annotations").texts();
    let created = metadata.get("creationTimestamp").parse();
    Metadata { name: name.map(|name| ObjectName::new(namespace, name)), labels, annotations, created }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    /// A strict kind with a rule between objects: no two have one number.
    #[derive(Debug, PartialEq)]
    struct Thing {
        number: u32,
        friend: Option<String>,
    }

    impl Kind for Thing {
        const GROUP: &'static str = "example.org";
        const KIND: &'static str = "Thing";
        const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
        const NAMESPACED: bool = true;
        const STRICT: bool = true;

        fn read(object: &Object<'_>) -> Option<Self> {
            object.spec().required().mapping(|spec| {
                let number = spec.get("number").required().int(1..=9);
                let friend = spec.get("friend").str().map(str::to_owned);
                Some(Self { number: number?, friend })
            })?
        }
    }

    fn unique(objects: &Objects, findings: &mut Findings<'_>) {
        let mut seen: BTreeMap<u32, ObjectId> = BTreeMap::new();
        for (name, thing) in objects.iter::<Thing>() {
            let id = ObjectId::of::<Thing>(name.clone());
            if let Some(other) = seen.get(&thing.number) {
                let blamed = objects.to_blame(&id, other);
                let other = if *blamed == id { other } else { &id };
                findings.report(
                    blamed.clone(),
                    "spec.number",
                    format!("{other} has it: {}", findings.place(other)),
                );
            } else {
                seen.insert(thing.number, id);
            }
            if let Some(friend) = &thing.friend
                && !objects.may_exist::<Thing>(&ObjectName::new("default", friend.as_str()))
            {
                findings.report(ObjectId::of::<Thing>(name.clone()), "spec.friend", "is unknown");
            }
        }
    }

    fn corpus() -> Corpus {
        let kinds =
            Kinds::new().read::<Thing>().closed_group("example.org", &[("Other", "it is for others")]);
        Corpus::new(kinds.check(unique))
    }

    fn thing(name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: example.org/v1\nkind: Thing\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    }

    fn load(corpus: &mut Corpus, texts: &[String]) -> (Vec<String>, Vec<String>) {
        let files: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(n, text)| SourceFile::new(format!("{n}.yaml"), text.clone()))
            .collect();
        let report = corpus.load(&files);
        (report.problems.iter().map(ToString::to_string).collect(), numbers(corpus))
    }

    fn numbers(corpus: &Corpus) -> Vec<String> {
        corpus
            .objects()
            .iter::<Thing>()
            .map(|(name, thing)| format!("{}={}", name.name, thing.number))
            .collect()
    }

    #[test]
    fn a_document_that_broke_keeps_its_last_valid_version_and_a_deleted_one_goes() {
        let mut corpus = corpus();
        let good = [thing("a", "number: 1") + &thing("b", "number: 2") + &thing("c", "number: 3")];
        assert_eq!(load(&mut corpus, &good), (vec![], vec!["a=1".into(), "b=2".into(), "c=3".into()]));

        let (problems, left) = load(&mut corpus, &[thing("a", "number: 0") + &thing("b", "number: 4")]);
        assert_eq!(
            problems,
            [
                "0.yaml:5 (document 1): Thing default/a: spec.number: must be a whole number from 1 to 9, not 0"
            ]
        );
        assert_eq!(left, ["a=1", "b=4"], "a stays, b changes, c goes");

        // Restored, and gone for good.
        assert_eq!(load(&mut corpus, &[thing("a", "number: 5")]), (vec![], vec!["a=5".into()]));
        assert_eq!(load(&mut corpus, &[]), (vec![], vec![]));
    }

    #[test]
    fn what_a_file_held_stays_while_it_does_not_parse() {
        let mut corpus = corpus();
        load(&mut corpus, &[thing("a", "number: 1") + &thing("b", "number: 2"), thing("c", "number: 3")]);
        let (problems, left) = load(&mut corpus, &[thing("a", "number: 4") + "---\n{", String::new()]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("0.yaml:7 (document 2): this is not YAML: "), "{problems:?}");
        assert_eq!(left, ["a=4", "b=2"], "b may be what does not parse; c is gone");

        let files = [SourceFile::unreadable("0.yaml", "permission denied")];
        let report = corpus.load(&files);
        assert_eq!(report.problems[0].to_string(), "0.yaml: cannot be read: permission denied");
        assert_eq!(
            report.kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["Thing default/a", "Thing default/b"]
        );
        assert!(!report.changed);
        assert_eq!(numbers(&corpus), ["a=4", "b=2"]);

        let mut corpus = self::corpus();
        corpus.load(&[SourceFile::new("dir/a.yaml", thing("a", "number: 1"))]);
        corpus.load(&[SourceFile::unreadable("dir", "permission denied")]);
        assert_eq!(numbers(&corpus), ["a=1"]);
        corpus.load(&[SourceFile::unreadable("di", "permission denied")]);
        assert!(numbers(&corpus).is_empty());
    }

    #[test]
    fn what_has_no_name_may_be_any_of_its_kind_in_its_file() {
        let mut corpus = corpus();
        load(&mut corpus, &[thing("a", "number: 1"), thing("b", "number: 2")]);
        let (problems, left) = load(&mut corpus, &[thing("", "number: 3, friend: 4"), String::new()]);
        assert_eq!(
            problems,
            [
                "0.yaml:4 (document 1): metadata.name: is missing: add it",
                "0.yaml:5 (document 1): spec.friend: must be text, which 4 is not: put it in quotes, \"4\"",
            ],
            "its other mistakes are told too"
        );
        assert_eq!(left, ["a=1"]);
        assert!(!corpus.objects().all_valid::<Thing>());
        assert!(corpus.objects().may_exist::<Thing>(&ObjectName::new("default", "c")));

        // Of another kind, it cannot be a.
        let kinds = Kinds::new().read::<Thing>().read::<super::super::Namespace>();
        let mut corpus = Corpus::new(kinds);
        load(&mut corpus, &[thing("a", "number: 1")]);
        let (_, left) = load(&mut corpus, &["apiVersion: v1\nkind: Namespace\nmetadata: {}\n".to_owned()]);
        assert_eq!(left, [] as [&str; 0]);
        assert!(corpus.objects().all_valid::<Thing>());
        assert!(!corpus.objects().all_valid::<super::super::Namespace>());
    }

    #[test]
    fn of_two_that_contradict_each_other_the_one_that_changed_falls_back() {
        let mut corpus = corpus();
        load(&mut corpus, &[thing("a", "number: 1") + &thing("b", "number: 2")]);
        // a comes first in the file, but b was there before.
        let (problems, left) = load(&mut corpus, &[thing("a", "number: 2") + &thing("b", "number: 2")]);
        assert_eq!(
            problems,
            [
                "0.yaml:5 (document 1): Thing default/a: spec.number: Thing default/b has it: 0.yaml:7 (document 2)"
            ]
        );
        assert_eq!(left, ["a=1", "b=2"]);
        // c takes the number that a would have freed, had its new version been valid: both fall back.
        let texts = [thing("a", "number: 2") + &thing("b", "number: 2") + &thing("c", "number: 1")];
        let (problems, left) = load(&mut corpus, &texts);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(left, ["a=1", "b=2"]);
        // A swap is no contradiction.
        let (problems, left) = load(&mut corpus, &[thing("a", "number: 2") + &thing("b", "number: 1")]);
        assert_eq!((problems, left), (vec![], vec!["a=2".into(), "b=1".into()]));
    }

    #[test]
    fn a_reference_whose_object_was_deleted_is_reported_and_stays() {
        let mut corpus = corpus();
        load(&mut corpus, &[thing("a", "number: 1, friend: b") + &thing("b", "number: 2")]);
        let (problems, left) = load(&mut corpus, &[thing("a", "number: 1, friend: b")]);
        assert_eq!(problems, ["0.yaml:5 (document 1): Thing default/a: spec.friend: is unknown"]);
        assert_eq!(left, ["a=1"]);
        // One typo, one problem: b is invalid, not unknown.
        let mut corpus = self::corpus();
        let (problems, left) =
            load(&mut corpus, &[thing("a", "number: 1, friend: b") + &thing("b", "number: 0")]);
        assert_eq!((problems.len(), left), (1, vec!["a=1".into()]), "{problems:?}");
    }

    #[test]
    fn two_of_one_name_are_refused_and_the_known_one_stays() {
        let mut corpus = corpus();
        let twice = [thing("a", "number: 1"), thing("a", "number: 2")];
        let (problems, left) = load(&mut corpus, &twice);
        assert_eq!(
            problems,
            [
                "1.yaml:2 (document 1): Thing default/a: is there twice, first at 0.yaml:2 (document 1): rename or remove one"
            ]
        );
        assert_eq!(left, ["a=1"]);
        let (_, left) = load(&mut corpus, &[thing("a", "number: 2"), thing("a", "number: 1")]);
        assert_eq!(left, ["a=1"]);
    }

    #[test]
    fn lists_are_read_and_their_items_know_their_path() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: example.org/v1\n  kind: Thing\n  \
                    metadata: {name: a, namespace: x}\n  spec: {number: 1}\n- apiVersion: example.org/v1\n  kind: Thing\n  \
                    metadata: {name: b}\n  spec: {nummer: 1}\n";
        let (problems, left) = load(&mut corpus(), &[list.to_owned()]);
        assert_eq!(
            problems,
            [
                "0.yaml:11 (document 1): Thing default/b: items[1].spec.number: is missing: add it",
                "0.yaml:11 (document 1): Thing default/b: items[1].spec.nummer: unknown field: did you mean `number`?",
            ]
        );
        assert_eq!(left, ["a=1"]);
        // As the API itself lists them: the items do not say what they are. JSON is YAML.
        let list = r#"{"apiVersion":"example.org/v1","kind":"ThingList","metadata":{},
            "items":[{"metadata":{"name":"a"},"spec":{"number":7}}]}"#;
        assert_eq!(load(&mut corpus(), &[list.to_owned()]), (vec![], vec!["a=7".into()]));
    }

    #[test]
    fn what_is_no_object_of_a_known_kind() {
        for (text, expected) in [
            (
                "just text",
                "0.yaml:1 (document 1): is no Kubernetes object: it needs apiVersion, kind and metadata",
            ),
            ("a: 1", "0.yaml:1 (document 1): is no Kubernetes object: add apiVersion, kind"),
            ("apiVersion: v1\nkind:\n", "0.yaml:1 (document 1): is no Kubernetes object: add kind"),
            (
                "apiVersion: example.org/v1\nkind: Thin\n",
                "0.yaml:2 (document 1): kind: example.org has no kind Thin: did you mean Thing?",
            ),
            (
                "apiVersion: example.org/v1\nkind: Deployment\n",
                "0.yaml:2 (document 1): kind: example.org has no kind Deployment: it has Other, Thing",
            ),
            (
                "apiVersion: example.org/v2\nkind: Thing\nmetadata: {name: a}",
                "0.yaml:1 (document 1): Thing default/a: apiVersion: Thing has no version v2: write example.org/v1 or \
                 example.org/v1beta1",
            ),
            (
                "apiVersion: example.org/v1\nkind: Thing\nspec: {number: 1}",
                "0.yaml:1 (document 1): metadata: is missing: add it",
            ),
            (
                "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: A_b}\nspec: {number: 1}",
                "0.yaml:3 (document 1): Thing default/A_b: metadata.name: \"A_b\" is no name: use lower-case letters, \
                 digits, - and ., and begin and end with a letter or digit",
            ),
            (
                "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: a, lables: {}}\nspec: {number: 1}",
                "0.yaml:3 (document 1): Thing default/a: metadata.lables: unknown field: did you mean `labels`?",
            ),
            (
                "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: a}\nspec: {number: 1, number: 2}",
                "0.yaml:4 (document 1): Thing default/a: spec.number: is given twice, first in line 4: remove one",
            ),
            (
                "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: a, labels: {a: 1}}\nspec: {number: 1}",
                "0.yaml:3 (document 1): Thing default/a: metadata.labels.a: must be text, which 1 is not: put it in quotes, \
                 \"1\"",
            ),
        ] {
            let (problems, left) = load(&mut corpus(), &[text.to_owned()]);
            assert_eq!(problems, [expected], "{text}");
            assert!(left.is_empty(), "{text}");
        }
    }

    #[test]
    fn what_nobody_reads_is_passed_over_with_one_notice_a_kind() {
        let text = "apiVersion: apps/v1\nkind: Deployment\n---\n".repeat(2)
            + "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: example.org/v1\nkind: Other\n";
        let report = corpus().load(&[SourceFile::new("x.yaml", text)]);
        assert!(report.problems.is_empty(), "{report:?}");
        assert_eq!(
            report.notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "x.yaml:1 (document 1): 2 documents of kind Deployment (apps) are passed over, this is the first: \
                 nothing here reads this kind",
                "x.yaml:7 (document 3): ConfigMap is passed over: nothing here reads this kind",
                "x.yaml:10 (document 4): Other (example.org) is passed over: it is for others",
            ]
        );
    }
}
