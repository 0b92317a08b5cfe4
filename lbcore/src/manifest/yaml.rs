//! YAML text to trees of nodes that remember their lines.
//!
//! Built on the parser's events instead of a ready-made tree: that is where aliases can be counted before they
//! are copied, depth be bounded without recursion, and a key that is given twice be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// How deep collections may nest.
pub(super) const MAX_DEPTH: usize = 100;
/// How many nodes the anchors and aliases of a document may copy, all in all.
pub(super) const MAX_COPIED: usize = 100_000;

/// A value, and the line where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `plain` if it was written without quotes, so that it may be a number, a boolean or null.
    Scalar {
        text: Arc<str>,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) line: u32,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if is_null(text))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == name).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The text of a scalar that is not null.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar { .. } => 1,
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|entry| entry.node.size()).sum::<usize>(),
        }
    }
}

pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A document of a file.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Node,
    /// What is wrong with it although its structure is clear: keys that are given twice.
    pub(super) flaws: Vec<Flaw>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) line: u32,
    pub(super) path: String,
    pub(super) message: String,
}

/// The documents of `text` in order. One that does not parse takes no other with it: a line that begins with
/// `---` ends a document whatever came before (YAML 1.2.2 §9.1.2).
pub(super) fn documents(text: &str) -> Vec<Result<Document, Flaw>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for (part, first_line) in parts(text) {
        parse_part(part, first_line, &mut documents);
    }
    documents
}

/// Cuts `text` before each line that begins a document; each part with the number of its first line.
fn parts(text: &str) -> Vec<(&str, u32)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut offset, mut line) = (0, 1);
    // Directives belong to the document that the marker after them begins.
    let mut only_directives = false;
    for text_line in text.split_inclusive('\n') {
        let content = text_line.trim_end_matches(['\n', '\r']);
        let marker =
            content.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if marker && !only_directives && offset > start {
            parts.push((&text[start..offset], start_line));
            (start, start_line) = (offset, line);
        }
        if content.starts_with('%') && text[start..offset].lines().all(is_blank) {
            only_directives = true;
        } else if !is_blank(content) {
            only_directives = false;
        }
        offset += text_line.len();
        line += 1;
    }
    parts.push((&text[start..], start_line));
    parts
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with(['#', '%'])
}

fn parse_part(text: &str, first_line: u32, documents: &mut Vec<Result<Document, Flaw>>) {
    let mut builder = Builder { first_line, ..Builder::default() };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let flaw = match event {
            Ok((Event::StreamEnd, _)) => return,
            Ok((event, span)) => match builder.handle(event, span) {
                Ok(None) => continue,
                Ok(Some(document)) => {
                    documents.push(Ok(document));
                    continue;
                }
                Err(flaw) => flaw,
            },
            Err(error) => Flaw {
                // What is missing at the end of the text is missing in its last line.
                line: builder.line_at(error.marker().line().min(text.lines().count().max(1))),
                path: String::new(),
                message: format!(
                    "this is not YAML: {} (column {}): mend the line or the indentation before it",
                    error.info(),
                    error.marker().col() + 1
                ),
            },
        };
        documents.push(Err(flaw));
        return;
    }
}

/// A collection whose end has not come yet.
#[derive(Debug)]
enum Open {
    List {
        line: u32,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        line: u32,
        anchor: usize,
        entries: Vec<Entry>,
        seen: BTreeSet<Arc<str>>,
        merges: Vec<Node>,
        key: Option<Key>,
    },
}

#[derive(Debug)]
struct Key {
    text: Arc<str>,
    line: u32,
    plain: bool,
}

#[derive(Debug, Default)]
struct Builder {
    first_line: u32,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    copied: usize,
    flaws: Vec<Flaw>,
}

impl Builder {
    fn line_at(&self, line_of_part: usize) -> u32 {
        let line = u32::try_from(line_of_part).unwrap_or(u32::MAX);
        self.first_line.saturating_add(line.saturating_sub(1))
    }

    fn handle(&mut self, event: Event<'_>, span: Span) -> Result<Option<Document>, Flaw> {
        let line = self.line_at(span.start.line());
        match event {
            Event::DocumentStart(_) => {
                *self = Self { first_line: self.first_line, ..Self::default() };
            }
            Event::DocumentEnd => {
                let flaws = std::mem::take(&mut self.flaws);
                return Ok(self
                    .root
                    .take()
                    .filter(|root| !root.is_null())
                    .map(|root| Document { root, flaws }));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                let plain = style == ScalarStyle::Plain && !is_text;
                let node = Node { line, value: Value::Scalar { text: text.into(), plain } };
                self.complete(node, anchor)?;
            }
            Event::Alias(anchor) => {
                // An anchor that is still open would hold itself.
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(
                        self.flaw(line, "this alias stands inside of what it names: write the value out")
                    );
                };
                let mut node = node.clone();
                node.line = line;
                self.count(node.size(), line)?;
                self.complete(node, 0)?;
            }
            Event::SequenceStart(anchor, _) => {
                self.check_depth(line)?;
                self.open.push(Open::List { line, anchor, items: Vec::new() });
            }
            Event::MappingStart(anchor, _) => {
                self.check_depth(line)?;
                self.open.push(Open::Map {
                    line,
                    anchor,
                    entries: Vec::new(),
                    seen: BTreeSet::new(),
                    merges: Vec::new(),
                    key: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { line, anchor, items }) => {
                    self.complete(Node { line, value: Value::List(items) }, anchor)?;
                }
                Some(Open::Map { line, anchor, mut entries, mut seen, merges, .. }) => {
                    merge(&mut entries, &mut seen, merges);
                    self.complete(Node { line, value: Value::Map(entries) }, anchor)?;
                }
                None => {}
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
        }
        Ok(None)
    }

    /// Puts a whole node where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Flaw> {
        if anchor != 0 {
            self.count(node.size(), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        let path = |open: &[Open]| path_of(open);
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, seen, merges, key, .. }) => match key.take() {
                None => {
                    let Value::Scalar { text, plain } = node.value else {
                        return Err(self.flaw(node.line, "a key must be text"));
                    };
                    *key = Some(Key { text, line: node.line, plain });
                }
                Some(key) if &*key.text == "<<" && key.plain => merges.push(node),
                Some(key) => {
                    if seen.insert(key.text.clone()) {
                        entries.push(Entry { key: key.text, line: key.line, node });
                    } else {
                        let first =
                            entries.iter().find(|entry| entry.key == key.text).map_or(0, |entry| entry.line);
                        let parent = path(&self.open);
                        // What begins every document is given twice when the line between two of them is missing.
                        let begins = parent.is_empty() && &*key.text == "apiVersion";
                        let or = if begins {
                            ", or write --- before it if another document begins there"
                        } else {
                            ""
                        };
                        self.flaws.push(Flaw {
                            line: key.line,
                            path: join(&parent, &key.text),
                            message: format!("is given twice, first in line {first}: remove one{or}"),
                        });
                    }
                }
            },
        }
        Ok(())
    }

    fn check_depth(&self, line: u32) -> Result<(), Flaw> {
        if self.open.len() < MAX_DEPTH {
            return Ok(());
        }
        Err(self.flaw(line, &format!("is nested deeper than {MAX_DEPTH} levels: no manifest needs that")))
    }

    fn count(&mut self, nodes: usize, line: u32) -> Result<(), Flaw> {
        self.copied = self.copied.saturating_add(nodes);
        if self.copied <= MAX_COPIED {
            return Ok(());
        }
        Err(self
            .flaw(line, &format!("aliases expand to more than {MAX_COPIED} values: write the values out")))
    }

    fn flaw(&self, line: u32, message: &str) -> Flaw {
        Flaw { line, path: path_of(&self.open), message: message.to_owned() }
    }
}

/// The merge key of YAML 1.1, which Kubernetes' reader knows: what is written out wins.
fn merge(entries: &mut Vec<Entry>, seen: &mut BTreeSet<Arc<str>>, merges: Vec<Node>) {
    let mut queue: Vec<Node> = merges.into_iter().rev().collect();
    while let Some(node) = queue.pop() {
        match node.value {
            Value::Map(more) => {
                entries.extend(more.into_iter().filter(|entry| seen.insert(entry.key.clone())));
            }
            Value::List(items) => queue.extend(items.into_iter().rev()),
            Value::Scalar { .. } => {}
        }
    }
}

fn path_of(open: &[Open]) -> String {
    let mut path = String::new();
    for open in open {
        match open {
            Open::List { items, .. } => path = format!("{path}[{}]", items.len()),
            Open::Map { key: Some(key), .. } => path = join(&path, &key.text),
            Open::Map { .. } => {}
        }
    }
    path
}

/// `parent.key`, with a key that has dots or slashes in brackets.
pub(super) fn join(parent: &str, key: &str) -> String {
    let simple =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    match (simple, parent.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{parent}.{key}"),
        (false, _) => format!("{parent}[{key:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Document {
        let mut documents = documents(text);
        assert_eq!(documents.len(), 1, "{documents:?}");
        documents.remove(0).unwrap()
    }

    fn error(text: &str) -> Flaw {
        documents(text).into_iter().find_map(Result::err).unwrap()
    }

    #[test]
    fn documents_know_their_lines() {
        let text = "# a licence\n---\na: 1\n---\n---\nb:\n  - x\n  - y: 2\n...\nc: 3\n";
        let lines: Vec<_> = documents(text).into_iter().map(|document| document.unwrap().root.line).collect();
        assert_eq!(lines, [3, 6, 10]);
        let Value::List(items) = &one("b:\n  - x\n  - y: 2\n").root.get("b").unwrap().value.clone() else {
            panic!()
        };
        assert_eq!((items[0].line, items[1].line), (2, 3));
    }

    #[test]
    fn one_that_does_not_parse_takes_no_other_with_it() {
        let documents = documents("a: 1\n---\nb: [\n---\nc: 3\n---\nd: \"x\n--- # next\ne: 5\n");
        let fine: Vec<_> = documents.iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, true, false, true]);
        assert_eq!(documents[4].as_ref().unwrap().root.line, 8 + 1);
    }

    #[test]
    fn directives_stay_with_their_document() {
        assert_eq!(one("%YAML 1.2\n---\na: 1\n").root.get("a").unwrap().text(), Some("1"));
    }

    #[test]
    fn a_key_given_twice_is_a_flaw_of_the_document() {
        let document = one("spec:\n  list:\n  - a: 1\n    a: 2\n");
        assert_eq!(
            document.flaws,
            [Flaw {
                line: 4,
                path: "spec.list[0].a".into(),
                message: "is given twice, first in line 3: remove one".into()
            }]
        );
        let document = one("apiVersion: v1\nkind: A\napiVersion: v1\nkind: B\n");
        let messages: Vec<_> = document.flaws.iter().map(|flaw| &*flaw.message).collect();
        assert_eq!(
            messages,
            [
                "is given twice, first in line 1: remove one, or write --- before it if another document begins there",
                "is given twice, first in line 2: remove one"
            ]
        );
    }

    #[test]
    fn aliases_and_merge_keys_are_read() {
        let document = one("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\nsame: *b\n");
        let more = document.root.get("more").unwrap();
        assert_eq!((more.get("x").unwrap().text(), more.get("y").unwrap().text()), (Some("1"), Some("3")));
        assert_eq!(document.root.get("same").unwrap().get("y").unwrap().text(), Some("2"));
    }

    #[test]
    fn what_would_explode_is_refused() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..20 {
            let before = format!("*a{}", level - 1);
            laughs += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
        }
        assert!(error(&laughs).message.contains("aliases expand to more than 100000 values"));
        assert!(error(&"- ".repeat(5000)).message.contains("nested deeper than 100"));
        assert!(error(&"[".repeat(200)).message.contains("nested deeper than 100"));
        assert!(error("a: &a [*a]").message.contains("inside of what it names"));
        assert!(error("a: *b").message.contains("not YAML"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_text_panics(text in "([-:?\\[\\]{}&*a!|>'\"%#, \n\t]|---\n|\\.\\.\\.\n|<<: ){0,60}") {
            let _ = documents(&text);
        }
    }
}
