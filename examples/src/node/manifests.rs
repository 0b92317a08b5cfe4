//! The documents that the node is given, over time.

use std::path::PathBuf;

use lbcore::manifest::{Corpus, Objects, Report, SourceFile};

use crate::files;

/// Files, and what is valid in them.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    corpus: Corpus,
    seen: Vec<SourceFile>,
}

impl Manifests {
    /// Nothing is read yet.
    pub fn new(paths: &[PathBuf]) -> Self {
        Self { paths: paths.to_vec(), corpus: files::corpus(), seen: Vec::new() }
    }

    /// Whether the files differ from those that were loaded last.
    pub fn changed(&self) -> bool {
        files::read(&self.paths) != self.seen
    }

    /// Reads the files. A document that became invalid stays what it was.
    pub fn load(&mut self) -> Report {
        self.seen = files::read(&self.paths);
        self.corpus.load(&self.seen)
    }

    /// What is valid.
    pub fn objects(&self) -> &Objects {
        self.corpus.objects()
    }
}
