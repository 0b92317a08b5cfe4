//! What is wrong with a document, and what is only worth saying.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Where in the files something is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 for the file as a whole.
    pub line: u32,
    /// The document within the file, counted from 1 without empty ones; 0 for the file as a whole.
    pub document: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printable(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.document > 0 {
            write!(f, " (document {})", self.document)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Something that is wrong: a document with one is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The object, as `Kind namespace/name`; `None` if it is not known.
    pub object: Option<Arc<str>>,
    /// The field, as `spec.addresses[0]`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, and the fix.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.place, self.object.as_deref(), &self.path, &self.message)
    }
}

/// Something that is worth saying, but not wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Notice {
    /// Where it is.
    pub place: Place,
    /// The object, as `Kind namespace/name`; `None` if it is not known.
    pub object: Option<Arc<str>>,
    /// The field; empty for the document as a whole.
    pub path: String,
    /// What there is to say.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.place, self.object.as_deref(), &self.path, &self.message)
    }
}

fn write(
    f: &mut fmt::Formatter<'_>,
    place: &Place,
    object: Option<&str>,
    path: &str,
    message: &str,
) -> fmt::Result {
    write!(f, "{place}: ")?;
    for part in object.into_iter().chain((!path.is_empty()).then_some(path)) {
        write!(f, "{}: ", Printable(part))?;
    }
    write!(f, "{}", Printable(message))
}

/// Text of a user's for a terminal or a log: a control character in it, such as the end of a line or the escape that
/// begins a terminal's commands, is shown as Rust writes it, `\n` or `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'t>(pub &'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }
        })
    }
}

/// Collects what the readers of one document find.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) file: Arc<str>,
    pub(super) document: u32,
    pub(super) object: RefCell<Option<Arc<str>>>,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) notices: RefCell<Vec<Notice>>,
}

impl Sink {
    pub(super) fn new(file: Arc<str>, document: u32) -> Self {
        Self {
            file,
            document,
            object: RefCell::default(),
            problems: RefCell::default(),
            notices: RefCell::default(),
        }
    }

    pub(super) fn place(&self, line: u32) -> Place {
        Place { file: self.file.clone(), line, document: self.document }
    }

    pub(super) fn problem(&self, line: u32, path: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            place: self.place(line),
            object: self.object.borrow().clone(),
            path: path.into(),
            message: message.into(),
        });
    }

    pub(super) fn notice(&self, line: u32, path: impl Into<String>, message: impl Into<String>) {
        self.notices.borrow_mut().push(Notice {
            place: self.place(line),
            object: self.object.borrow().clone(),
            path: path.into(),
            message: message.into(),
        });
    }
}
