//! Cursors over a document: each step knows its path, each error goes to the document's list, and reading goes
//! on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::problem::Sink;
use super::suggest;
use super::yaml::{Entry, Node, Value, join};
use crate::id::ObjectName;
use crate::labels::{LabelSelector, Labels, Operator, Requirement};
use crate::time::{Timestamp, parse_duration};

/// An object of Kubernetes' form: `apiVersion`, `kind`, `metadata`, and the rest below [`root`](Self::root).
#[derive(Debug)]
#[non_exhaustive]
pub struct Object<'d> {
    /// The API group, empty for Kubernetes' core.
    pub group: &'d str,
    /// The version within the group.
    pub version: &'d str,
    /// The kind.
    pub kind: &'d str,
    /// Namespace and name; the namespace of an object of a kind without namespaces is empty.
    pub name: ObjectName,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// `metadata.creationTimestamp`; `None` if the object is not created yet.
    pub created: Option<Timestamp>,
    pub(super) root: Mapping<'d>,
}

impl<'d> Object<'d> {
    /// The fields of the object: `spec`, `data`…
    pub fn root(&self) -> &Mapping<'d> {
        &self.root
    }

    /// The field `spec`.
    pub fn spec(&self) -> Field<'d> {
        self.root.get("spec")
    }

    /// The annotation `key`, as a field whose errors name it.
    pub fn annotation(&self, key: &'static str) -> Field<'d> {
        self.root.peek("metadata").child("annotations").child(key)
    }

    /// Reports something worth saying about the object.
    pub fn notice(&self, message: impl fmt::Display) {
        self.root.sink.notice(self.root.line, "", message.to_string());
    }

    /// Reports something wrong with the object as a whole.
    pub fn problem(&self, message: impl fmt::Display) {
        self.root.sink.problem(self.root.line, "", message.to_string());
    }
}

/// The fields of a mapping. What is never asked for is an unknown field, an error in a strict kind.
#[derive(Debug)]
pub struct Mapping<'d> {
    entries: &'d [Entry],
    line: u32,
    path: String,
    sink: &'d Sink,
    strict: bool,
    known: RefCell<Vec<&'static str>>,
    keys_are_data: Cell<bool>,
}

impl<'d> Mapping<'d> {
    pub(super) fn new(entries: &'d [Entry], line: u32, path: String, sink: &'d Sink, strict: bool) -> Self {
        Self { entries, line, path, sink, strict, known: RefCell::default(), keys_are_data: Cell::new(false) }
    }

    /// The field `name`; absent if it is not there or null.
    pub fn get(&self, name: &'static str) -> Field<'d> {
        self.ignore(&[name]);
        self.peek(name)
    }

    /// Takes these fields for known without reading them.
    pub fn ignore(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    /// All keys with their fields, for mappings whose keys are data. Makes every key known.
    pub fn entries(&self) -> impl Iterator<Item = (&'d str, Field<'d>)> {
        self.keys_are_data.set(true);
        self.entries.iter().map(|entry| (&*entry.key, self.field(Some(&entry.node), &entry.key)))
    }

    /// Reports something wrong with this mapping.
    pub fn problem(&self, message: impl fmt::Display) {
        self.sink.problem(self.line, self.path.clone(), message.to_string());
    }

    /// Requires that exactly one of these fields is there, and returns which.
    pub fn exactly_one(&self, names: &[&'static str]) -> Option<&'static str> {
        self.ignore(names);
        let present: Vec<_> = names.iter().copied().filter(|name| self.peek(name).is_present()).collect();
        match present.as_slice() {
            [one] => return Some(one),
            [] => self.problem(format!("needs one of {}: add it", list(names))),
            several => self.problem(format!("has {}: keep one of them", list(several))),
        }
        None
    }

    fn peek(&self, name: &str) -> Field<'d> {
        let node = self.entries.iter().find(|entry| &*entry.key == name).map(|entry| &entry.node);
        self.field(node, name)
    }

    fn field(&self, node: Option<&'d Node>, name: &str) -> Field<'d> {
        Field {
            line: node.map_or(self.line, |node| node.line),
            node: node.filter(|node| !node.is_null()),
            path: join(&self.path, name),
            sink: self.sink,
            strict: self.strict,
        }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(&self) {
        if !self.strict || self.keys_are_data.get() {
            return;
        }
        let mut known = self.known.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for entry in self.entries {
            if known.binary_search(&&*entry.key).is_ok() {
                continue;
            }
            let message = match suggest::closest(&entry.key, &known) {
                Some(name) => format!("unknown field: did you mean `{name}`?"),
                None if known.is_empty() => "unknown field: remove it".to_owned(),
                None => format!("unknown field: remove it, or use one of {}", list(&known)),
            };
            self.sink.problem(entry.line, join(&self.path, &entry.key), message);
        }
    }
}

/// A place in a document, with or without a value.
///
/// The reading methods return `None` where there is no value, and where there is a wrong one, after reporting
/// it: a document with a problem is not used, so a reader goes on with any default.
#[derive(Clone, Debug)]
pub struct Field<'d> {
    node: Option<&'d Node>,
    line: u32,
    path: String,
    sink: &'d Sink,
    strict: bool,
}

/// A value that is neither a list nor a mapping.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scalar<'d> {
    /// Text.
    Text(&'d str),
    /// A number, as it is written.
    Number(&'d str),
    /// A boolean.
    Bool(bool),
}

impl<'d> Field<'d> {
    /// Whether there is a value that is not null.
    pub fn is_present(&self) -> bool {
        self.node.is_some()
    }

    /// The path of the field, as `spec.addresses[0]`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reports something wrong with this field. The message says what, and the fix.
    pub fn problem(&self, message: impl fmt::Display) {
        self.sink.problem(self.line, self.path.clone(), message.to_string());
    }

    /// Reports something worth saying about this field.
    pub fn notice(&self, message: impl fmt::Display) {
        self.sink.notice(self.line, self.path.clone(), message.to_string());
    }

    /// The same field, reported if it is absent.
    #[must_use]
    pub fn required(self) -> Self {
        if !self.is_present() {
            self.problem("is missing: add it");
        }
        self
    }

    fn child(&self, name: &str) -> Self {
        let node = self.node.and_then(|node| node.get(name));
        Field {
            line: node.map_or(self.line, |node| node.line),
            node: node.filter(|node| !node.is_null()),
            path: join(&self.path, name),
            sink: self.sink,
            strict: self.strict,
        }
    }

    fn wrong(&self, expected: impl fmt::Display) {
        let found = match self.node.map(|node| &node.value) {
            Some(Value::Scalar { text, plain: true }) => format!("{text}"),
            Some(Value::Scalar { text, plain: false }) => format!("{text:?}"),
            Some(Value::List(_)) => "a list".to_owned(),
            Some(Value::Map(_)) => "a mapping".to_owned(),
            None => "nothing".to_owned(),
        };
        let found = if found.len() > 80 { "a long text".to_owned() } else { found };
        self.problem(format!("must be {expected}, not {found}"));
    }

    /// Reads a mapping. Fields that `read` does not ask for are reported if the kind is strict.
    pub fn mapping<T>(&self, read: impl FnOnce(&Mapping<'d>) -> T) -> Option<T> {
        let node = self.node?;
        let Value::Map(entries) = &node.value else {
            self.wrong("a mapping");
            return None;
        };
        let mapping = Mapping::new(entries, node.line, self.path.clone(), self.sink, self.strict);
        let value = read(&mapping);
        mapping.finish();
        Some(value)
    }

    /// The items of a list; none if it is absent.
    pub fn list(&self) -> Vec<Self> {
        let Some(node) = self.node else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.wrong("a list");
            return Vec::new();
        };
        let item = |(index, node): (usize, &'d Node)| Field {
            node: Some(node).filter(|node| !node.is_null()),
            line: node.line,
            path: format!("{}[{index}]", self.path),
            sink: self.sink,
            strict: self.strict,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// Text, a number or a boolean.
    pub fn scalar(&self) -> Option<Scalar<'d>> {
        match &self.node?.value {
            Value::Scalar { text, plain } => Some(resolve(text, *plain)),
            _ => {
                self.wrong("a single value");
                None
            }
        }
    }

    /// Text. What YAML reads as a number or a boolean is refused, as Kubernetes does.
    pub fn str(&self) -> Option<&'d str> {
        match self.node.map(|node| &node.value)? {
            Value::Scalar { text, plain } => match resolve(text, *plain) {
                Scalar::Text(text) => Some(text),
                Scalar::Number(_) | Scalar::Bool(_) => {
                    self.problem(format!(
                        "must be text, which {text} is not: put it in quotes, {:?}",
                        &**text
                    ));
                    None
                }
            },
            _ => {
                self.wrong("text");
                None
            }
        }
    }

    /// Text that is not empty.
    pub fn non_empty(&self) -> Option<&'d str> {
        let text = self.str()?;
        if text.is_empty() {
            self.problem("must not be empty: remove it or give it a value");
            return None;
        }
        Some(text)
    }

    /// A boolean.
    pub fn bool(&self) -> Option<bool> {
        match self.node.map(|node| &node.value)? {
            Value::Scalar { text, plain } if let Scalar::Bool(value) = resolve(text, *plain) => Some(value),
            _ => {
                self.wrong("true or false");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn int<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + FromStr + fmt::Display,
    {
        if let Value::Scalar { text, plain: true } = &self.node?.value
            && let Ok(number) = text.strip_prefix('+').unwrap_or(text).parse::<T>()
            && range.contains(&number)
        {
            return Some(number);
        }
        self.wrong(format_args!("a whole number from {} to {}", range.start(), range.end()));
        None
    }

    /// Text that `T` reads. The error of `T` is the message.
    pub fn parse<T>(&self) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        match self.str()?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(error);
                None
            }
        }
    }

    /// One of these words.
    pub fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.str()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        match suggest::closest(text, &known) {
            Some(word) => self.problem(format!("{text:?} is not known here: did you mean {word:?}?")),
            None => self.problem(format!("{text:?} is not known here: use {}", list(&known))),
        }
        None
    }

    /// An IP address.
    pub fn address(&self) -> Option<std::net::IpAddr> {
        let text = self.str()?;
        let address = text.parse().ok();
        if address.is_none() {
            self.problem(format!("{text:?} is no IP address: write one like 192.0.2.1 or 2001:db8::1"));
        }
        address
    }

    /// A duration as Go writes it: `1h30m`, `90s`, `300ms` (see [`parse_duration`]).
    pub fn duration(&self) -> Option<Duration> {
        parse_duration(self.str()?).map_err(|error| self.problem(error)).ok()
    }

    /// Texts of which none comes twice.
    pub fn distinct(&self) -> Vec<&'d str> {
        let mut texts: Vec<&str> = Vec::new();
        for item in self.list() {
            let Some(text) = item.non_empty() else { continue };
            if texts.contains(&text) {
                item.problem(format!("{text:?} is there twice: remove one"));
            } else {
                texts.push(text);
            }
        }
        texts
    }

    /// A mapping of texts.
    pub fn texts(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let Some(Value::Map(entries)) = self.node.map(|node| &node.value) else {
            if self.node.is_some() {
                self.wrong("a mapping");
            }
            return BTreeMap::new();
        };
        let text = |entry: &'d Entry| Some((entry.key.clone(), Arc::from(self.child(&entry.key).str()?)));
        entries.iter().filter_map(text).collect()
    }

    /// Labels.
    pub fn labels(&self) -> Labels {
        self.texts().into_iter().collect()
    }

    /// A label selector (`metav1.LabelSelector`).
    pub fn label_selector(&self) -> Option<LabelSelector> {
        self.mapping(|selector| LabelSelector {
            match_labels: selector.get("matchLabels").texts(),
            match_expressions: selector
                .get("matchExpressions")
                .list()
                .iter()
                .filter_map(requirement)
                .collect(),
        })
    }

    /// Label selectors of which none comes twice.
    pub fn label_selectors(&self) -> Vec<LabelSelector> {
        let mut selectors: Vec<LabelSelector> = Vec::new();
        for item in self.list() {
            let Some(mut selector) = item.clone().required().label_selector() else { continue };
            selector.match_expressions.sort();
            if selectors.contains(&selector) {
                item.problem(format!("the selector {selector} is there twice: remove one"));
            } else {
                selectors.push(selector);
            }
        }
        selectors
    }
}

fn requirement(field: &Field<'_>) -> Option<Requirement> {
    #[derive(Clone, Copy)]
    enum Word {
        In,
        NotIn,
        Exists,
        DoesNotExist,
    }
    const WORDS: [(&str, Word); 4] = [
        ("In", Word::In),
        ("NotIn", Word::NotIn),
        ("Exists", Word::Exists),
        ("DoesNotExist", Word::DoesNotExist),
    ];
    field.clone().required().mapping(|fields| {
        let key = fields.get("key").required().non_empty();
        let word = fields.get("operator").required().one_of(&WORDS);
        let values_field = fields.get("values");
        let values = values_field.distinct_or_empty().into_iter().map(Arc::from).collect();
        let operator = match word? {
            Word::In | Word::NotIn if values_field.list().is_empty() => {
                values_field.problem("needs at least one value with the operators In and NotIn");
                return None;
            }
            Word::Exists | Word::DoesNotExist if !values_field.list().is_empty() => {
                values_field.problem("must be empty with the operators Exists and DoesNotExist: remove it");
                return None;
            }
            Word::In => Operator::In(values),
            Word::NotIn => Operator::NotIn(values),
            Word::Exists => Operator::Exists,
            Word::DoesNotExist => Operator::DoesNotExist,
        };
        Some(Requirement { key: key?.into(), operator })
    })?
}

impl<'d> Field<'d> {
    /// Like [`distinct`](Self::distinct); the empty text is a label's value like any other.
    fn distinct_or_empty(&self) -> Vec<&'d str> {
        let mut texts: Vec<&str> = Vec::new();
        for item in self.list() {
            let Some(text) = item.str() else { continue };
            if texts.contains(&text) {
                item.problem(format!("{text:?} is there twice: remove one"));
            } else {
                texts.push(text);
            }
        }
        texts
    }
}

/// What YAML makes of a scalar, in the dialect of Kubernetes' tools: `yes` and `on` are booleans.
fn resolve(text: &str, plain: bool) -> Scalar<'_> {
    if !plain {
        return Scalar::Text(text);
    }
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Scalar::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Scalar::Bool(false),
        _ if is_number(text) => Scalar::Number(text),
        _ => Scalar::Text(text),
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(digits) = unsigned.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(digits) = unsigned.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    }
    // Rust's own reader of floats also takes "inf" and "nan", which YAML writes with a dot.
    match unsigned.as_bytes() {
        [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => unsigned.parse::<f64>().is_ok(),
        _ => matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"),
    }
}

pub(super) fn list(names: &[&str]) -> String {
    names.join(", ")
}

/// What stands at `path` below `root`, or the nearest thing above it: for errors that are found after reading.
pub(super) fn line_of(root: &Node, path: &str) -> u32 {
    let mut node = root;
    let mut line = root.line;
    let mut rest = path;
    while !rest.is_empty() {
        let (next, tail, next_line) = if let Some(inner) = rest.strip_prefix("[\"") {
            let Some((key, tail)) = inner.split_once("\"]") else { break };
            step(node, key, tail)
        } else if let Some(inner) = rest.strip_prefix('[') {
            let Some((index, tail)) = inner.split_once(']') else { break };
            let item = match &node.value {
                Value::List(items) => index.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            (item, tail, item.map(|item| item.line))
        } else {
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            let (key, tail) = plain.split_at(end);
            step(node, key, tail)
        };
        line = next_line.unwrap_or(line);
        let Some(next) = next else { break };
        (node, rest) = (next, tail);
    }
    line
}

fn step<'n, 't>(node: &'n Node, key: &str, tail: &'t str) -> (Option<&'n Node>, &'t str, Option<u32>) {
    let entry = match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
        _ => None,
    };
    (entry.map(|entry| &entry.node), tail, entry.map(|entry| entry.line))
}

/// Whether `text` may be the name of an object (a DNS subdomain, RFC 1123).
pub(super) fn is_object_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_what_kubernetes_reads() {
        for (text, expected) in [
            ("80", Scalar::Number("80")),
            ("1.10", Scalar::Number("1.10")),
            ("-3", Scalar::Number("-3")),
            ("1e3", Scalar::Number("1e3")),
            ("0x1f", Scalar::Number("0x1f")),
            ("yes", Scalar::Bool(true)),
            ("off", Scalar::Bool(false)),
            ("10.0.0.1", Scalar::Text("10.0.0.1")),
            ("65000:100", Scalar::Text("65000:100")),
            ("infinity", Scalar::Text("infinity")),
            ("nan", Scalar::Text("nan")),
            ("1.2.3", Scalar::Text("1.2.3")),
        ] {
            assert_eq!(resolve(text, true), expected);
            assert_eq!(resolve(text, false), Scalar::Text(text));
        }
    }
}
