//! The documents that the node is given, over time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lbcore::manifest::{Corpus, Objects, Report, SourceFile};

use crate::files;

/// Files, and what is valid in them.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    corpus: Corpus,
    settling: Settling,
    /// What [`look`](Self::look) found to load.
    found: Option<Vec<SourceFile>>,
}

impl Manifests {
    /// Nothing is read yet.
    pub fn new(paths: &[PathBuf]) -> Self {
        let settling = Settling::default();
        Self { paths: paths.to_vec(), corpus: files::corpus(), settling, found: None }
    }

    /// Looks at the files. Whether there is something to [`load`](Self::load): they changed, and have come to rest.
    pub fn look(&mut self) -> bool {
        self.found = self.settling.look(files::read(&self.paths));
        self.found.is_some()
    }

    /// Loads what the last look found; without that, the files as they are now. A document that became invalid stays
    /// what it was.
    pub fn load(&mut self) -> Report {
        let files = self.found.take().unwrap_or_else(|| {
            let files = files::read(&self.paths);
            self.settling.loaded(&files);
            files
        });
        self.corpus.load(&files)
    }

    /// Whether there were no files at all in the last load.
    pub fn are_missing(&self) -> bool {
        self.settling.loaded.is_empty()
    }

    /// What is valid.
    pub fn objects(&self) -> &Objects {
        self.corpus.objects()
    }
}

/// How many looks a change waits for the others, so that a document that moves from file to file is in one of them.
const PATIENCE: usize = 10;

/// Tells a file that is being written from one that is written. Who writes a file in place first makes it empty, and it
/// may be looked at then, or when half of it is there: what it lacks would be withdrawn, though nobody deleted it.
///
/// So a file counts as changed when two looks in a row saw it alike; as gone, or emptied, when three did.
#[derive(Debug, Default)]
struct Settling {
    /// What was loaded last.
    loaded: Vec<SourceFile>,
    /// What the last look saw, and the one before it.
    seen: [Vec<SourceFile>; 2],
    /// For how many looks a change has waited.
    waited: usize,
}

impl Settling {
    /// Heeds what a look saw. Returns what to load, if there is a change to load.
    ///
    /// Files that changed together are loaded together, unless one of them never comes to rest: then the others do not
    /// wait for it for more than [`PATIENCE`] looks, and it stays what it was.
    fn look(&mut self, now: Vec<SourceFile>) -> Option<Vec<SourceFile>> {
        let settled = self.settled(&now);
        self.waited = if now == self.loaded { 0 } else { self.waited + 1 };
        let is_due = settled == now || self.waited > PATIENCE;
        let load = is_due && settled != self.loaded;
        self.remember(now);
        if !load {
            return None;
        }
        self.waited = 0;
        self.loaded.clone_from(&settled);
        Some(settled)
    }

    /// Heeds what was read and loaded without waiting.
    fn loaded(&mut self, files: &[SourceFile]) {
        self.loaded = files.to_vec();
        self.remember(files.to_vec());
        self.waited = 0;
    }

    fn remember(&mut self, now: Vec<SourceFile>) {
        let [last, _] = std::mem::take(&mut self.seen);
        self.seen = [now, last];
    }

    /// Each file as it is now if it has come to rest, else as it was loaded.
    fn settled(&self, now: &[SourceFile]) -> Vec<SourceFile> {
        let [last, before] = self.seen.each_ref().map(|files| by_name(files));
        let (loaded, present) = (by_name(&self.loaded), by_name(now));
        let mut settled = Vec::new();
        for file in now {
            let name = &*file.name;
            let rests = last.get(name) == Some(&file) && (!is_blank(file) || before.get(name) == Some(&file));
            settled.extend(if rests { Some(file) } else { loaded.get(name).copied() }.cloned());
        }
        let missing = |file: &&SourceFile| {
            let name = &*file.name;
            !present.contains_key(name) && (last.contains_key(name) || before.contains_key(name))
        };
        settled.extend(self.loaded.iter().filter(missing).cloned());
        settled
    }
}

fn by_name(files: &[SourceFile]) -> BTreeMap<&str, &SourceFile> {
    files.iter().map(|file| (&*file.name, file)).collect()
}

fn is_blank(file: &SourceFile) -> bool {
    file.text.as_ref().is_ok_and(|text| text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files by `name=text`, separated by spaces; a text of `_` is a blank, one of `!` cannot be read.
    fn files(text: &str) -> Vec<SourceFile> {
        let file = |part: &str| {
            let (name, text) = part.split_once('=').unwrap();
            match text {
                "!" => SourceFile::unreadable(name, "permission denied"),
                text => SourceFile::new(name, text.replace('_', " \n")),
            }
        };
        text.split_whitespace().map(file).collect()
    }

    /// What is loaded after each of `looks`, if anything is, where `first` was loaded before.
    fn loads(first: &str, looks: &[&str]) -> Vec<Option<String>> {
        let mut settling = Settling::default();
        settling.loaded(&files(first));
        let shown = |file: SourceFile| match file.text {
            Ok(text) => format!("{}={}", file.name, text.replace(" \n", "_")),
            Err(_) => format!("{}=!", file.name),
        };
        let look = |now: &&str| {
            let load = settling.look(files(now))?;
            Some(load.into_iter().map(shown).collect::<Vec<_>>().join(" "))
        };
        looks.iter().map(look).collect()
    }

    fn at_the_end(looks: usize, load: &str) -> Vec<Option<String>> {
        let mut expected = vec![None; looks];
        expected[looks - 1] = Some(load.to_owned());
        expected
    }

    #[test]
    fn what_stays_is_not_loaded_again() {
        assert_eq!(loads("a=1 b=!", &["a=1 b=!"; 4]), vec![None; 4]);
    }

    #[test]
    fn a_change_counts_when_two_looks_agree() {
        for changed in ["a=2", "a=1 b=1", "a=!"] {
            assert_eq!(loads("a=1", &[changed; 2]), at_the_end(2, changed));
        }
        // Seen while half of it was written.
        assert_eq!(loads("a=1", &["a=2", "a=23", "a=23"]), at_the_end(3, "a=23"));
        assert_eq!(loads("a=1", &["a=2", "a=1", "a=2", "a=1"]), vec![None; 4]);
    }

    #[test]
    fn what_is_gone_or_emptied_counts_when_three_looks_agree() {
        for changed in ["b=1", "a= b=1", "a=_ b=1"] {
            assert_eq!(loads("a=1 b=1", &[changed; 3]), at_the_end(3, changed));
            assert_eq!(loads("a=1 b=1", &[changed, changed, "a=1 b=1", changed, changed]), vec![None; 5]);
            let looks = [changed, changed, "a=2 b=1", "a=2 b=1"];
            assert_eq!(loads("a=1 b=1", &looks), at_the_end(4, "a=2 b=1"));
        }
        // Gone while it was rewritten, as by way of a second file.
        assert_eq!(loads("a=1", &["", "a=", "a=2", "a=2"]), at_the_end(4, "a=2"));
    }

    #[test]
    fn what_changes_together_is_loaded_together() {
        // Renamed.
        assert_eq!(loads("a=1", &["b=1"; 3]), at_the_end(3, "b=1"));
        assert_eq!(loads("a=12 b=3", &["a=1 b=3", "a=1 b=32", "a=1 b=32"]), at_the_end(3, "a=1 b=32"));
    }

    #[test]
    fn a_file_that_never_rests_does_not_hold_up_the_others_for_ever() {
        let looks: Vec<_> = (0..=PATIENCE).map(|n| format!("a=2 new={n} r={n}")).collect();
        let looks: Vec<_> = looks.iter().map(String::as_str).collect();
        // It stays what it was, and one that is new is not there yet.
        assert_eq!(loads("a=1 r=x", &looks), at_the_end(looks.len(), "a=2 r=x"));
    }
}
