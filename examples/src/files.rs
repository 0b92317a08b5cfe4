//! The user's manifests: which files they are, which kinds are read from them, and the world that they describe.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lbcore::manifest::{self, Corpus, Kinds, MAX_FILE_BYTES, Objects, SourceFile};
use lbcore::plan::World;

/// The path that means the standard input.
pub const STDIN: &str = "-";

/// The controller whose GatewayClasses are ours.
pub const CONTROLLER: &str = "lbcore.io/gateway-controller";

/// A corpus that reads every kind that this repository knows.
pub fn corpus() -> Corpus {
    Corpus::new(kinds())
}

/// MetalLB's and Kubernetes' kinds, and those of the Gateway API.
fn kinds() -> Kinds {
    gateway_router::manifest::kinds(announce_bgp::manifest::kinds(manifest::kinds(Kinds::new())))
}

/// The world that `objects` describe: Services and Gateways get their addresses by the same door.
pub fn world(objects: &Objects) -> World {
    let mut world = manifest::world(objects);
    for demand in gateway_router::manifest::demands(objects, CONTROLLER) {
        world.demands.insert(demand.owner.clone(), demand);
    }
    world
}

/// The files at `paths`, in the order of `paths` and within a folder by name: files as they are, of a folder and
/// the folders in it those that end in `.yaml`, `.yml` or `.json`; [`STDIN`] is the standard input. What begins with a
/// dot is left out, as is `kustomization.yaml`, which says how to build manifests and is none itself.
///
/// Links are followed: a mounted ConfigMap consists of them. A file or folder that is reached in several ways is read
/// once, under the first of its names. What cannot be read is among the files, with the reason: a link that leads
/// nowhere, and whatever is neither file nor folder, since a pipe or a device may never end.
pub fn read(paths: &[PathBuf]) -> Vec<SourceFile> {
    Reading::default().of(paths).files
}

/// The same for who reads once: a pipe that the user names, such as a shell's `<(kubectl get …)`, is read to its end.
/// Also returns the folders of `paths` that have no manifest.
pub fn read_once(paths: &[PathBuf]) -> (Vec<SourceFile>, Vec<PathBuf>) {
    let reading = Reading { pipes: true, ..Reading::default() }.of(paths);
    (reading.files, reading.barren)
}

#[derive(Debug, Default)]
struct Reading {
    files: Vec<SourceFile>,
    /// The files and folders that were met.
    seen: BTreeSet<Identity>,
    /// How many manifests were met, and folders met again.
    met: usize,
    /// The folders that the user names and that have no manifest.
    barren: Vec<PathBuf>,
    stdin_is_read: bool,
    /// Whether pipes that the user names are read.
    pipes: bool,
}

impl Reading {
    fn of(mut self, paths: &[PathBuf]) -> Self {
        for path in paths {
            if path.as_os_str() == STDIN {
                self.stdin();
            } else {
                self.path(path, true);
            }
        }
        self
    }

    fn stdin(&mut self) {
        if !self.stdin_is_read {
            self.stdin_is_read = true;
            self.push("<stdin>".to_owned(), text(io::stdin().lock()));
        }
    }

    /// Reads the file or the folder at `path`; of what is not `named` by the user, only what may be a manifest.
    fn path(&mut self, path: &Path, named: bool) {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if !named && name.starts_with('.') {
            return;
        }
        let wanted = named || is_manifest(&name);
        match fs::metadata(path).and_then(|metadata| Ok((identity(path, &metadata)?, metadata))) {
            Ok((identity, kind)) if kind.is_dir() => {
                let before = self.met;
                if self.seen.insert(identity) {
                    self.folder(path);
                } else {
                    self.met += 1;
                }
                if named && self.met == before {
                    self.barren.push(path.to_owned());
                }
            }
            Ok((identity, kind)) if wanted => {
                self.met += 1;
                if self.seen.insert(identity) {
                    self.push(
                        path.display().to_string(),
                        open(path, &kind, named && self.pipes).and_then(text),
                    );
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_link = fs::symlink_metadata(path).is_ok();
                // Where a link would have led is unknown: to a folder, by any name. What is no link was deleted since
                // its folder was read.
                if is_link {
                    self.unreadable(path, "it is a link that leads nowhere: mend or remove it");
                } else if named {
                    self.unreadable(path, "there is no such file or folder");
                }
            }
            Err(error) => self.unreadable(path, why(&error)),
        }
    }

    fn folder(&mut self, folder: &Path) {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        match entries {
            Ok(entries) => {
                let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
                paths.sort();
                for path in paths {
                    self.path(&path, false);
                }
            }
            Err(error) => self.unreadable(folder, why(&error)),
        }
    }

    fn push(&mut self, name: String, text: io::Result<String>) {
        self.files.push(match text {
            Ok(text) => SourceFile::new(name, text),
            Err(error) => SourceFile::unreadable(name, why(&error)),
        });
    }

    fn unreadable(&mut self, path: &Path, why: impl Into<String>) {
        self.met += 1;
        self.files.push(SourceFile::unreadable(path.display().to_string(), why));
    }
}

/// What a file or folder is, by whatever name: its device and its inode.
#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
fn identity(_path: &Path, metadata: &Metadata) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    Ok((metadata.dev(), metadata.ino()))
}

/// What a file or folder is, by whatever name: its path without links.
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(not(unix))]
fn identity(path: &Path, _metadata: &Metadata) -> io::Result<Identity> {
    path.canonicalize()
}

fn is_manifest(name: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    matches!(extension, "yaml" | "yml" | "json") && !stem.eq_ignore_ascii_case("kustomization")
}

/// Opens a regular file. To open a pipe waits for its writer.
fn open(path: &Path, kind: &Metadata, pipes: bool) -> io::Result<File> {
    let readable = kind.is_file() || (pipes && is_pipe(kind));
    if !readable {
        return Err(io::Error::other("it is a pipe, a socket or a device: copy what it gives to a file"));
    }
    File::open(path)
}

#[cfg(unix)]
fn is_pipe(kind: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind.file_type())
}

#[cfg(not(unix))]
fn is_pipe(_kind: &Metadata) -> bool {
    false
}

/// Why something cannot be read, and the fix.
fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidData => "it is not text in UTF-8: convert it, or leave it out".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission is denied: make it, and the folders that lead to it, readable for this user"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn text(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed, so that the reader of the documents can tell.
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each file's path within `folder`, with its text or why there is none.
    fn short(files: &[SourceFile], folder: &Path) -> Vec<(String, Result<String, String>)> {
        let prefix = format!("{}/", folder.display());
        let why = |why: String| why.split(':').next().unwrap_or_default().to_owned();
        files
            .iter()
            .map(|file| (file.name.strip_prefix(&prefix).unwrap_or(&file.name), file.text.clone()))
            .map(|(name, text)| (name.to_owned(), text.map_err(why)))
            .collect()
    }

    fn fine(name: &str, text: &str) -> (String, Result<String, String>) {
        (name.to_owned(), Ok(text.to_owned()))
    }

    fn bad(name: &str, why: &str) -> (String, Result<String, String>) {
        (name.to_owned(), Err(why.to_owned()))
    }

    #[test]
    fn folders_are_read_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("sub")).unwrap();
        for name in ["b.yml", "a.yaml", "sub/c.json", ".hidden.yaml", "notes.txt", "kustomization.yaml"] {
            fs::write(path(name), name).unwrap();
        }
        fs::write(path("d.yaml"), [0xff, 0xfe]).unwrap();
        let files = read(&[folder.path().to_owned(), path("notes.txt"), path("none.yaml")]);
        assert_eq!(
            short(&files, folder.path()),
            [
                fine("a.yaml", "a.yaml"),
                fine("b.yml", "b.yml"),
                bad("d.yaml", "it is not text in UTF-8"),
                fine("sub/c.json", "sub/c.json"),
                fine("notes.txt", "notes.txt"),
                bad("none.yaml", "there is no such file or folder"),
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn what_is_reached_in_several_ways_is_read_once() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("sub")).unwrap();
        fs::write(path("b.yaml"), "b").unwrap();
        fs::hard_link(path("b.yaml"), path("hard.yaml")).unwrap();
        symlink("b.yaml", path("a.yaml")).unwrap();
        symlink("..", path("sub/loop")).unwrap();
        fs::write(path("sub/c.yaml"), "c").unwrap();
        let again = ["./b.yaml", "sub/../b.yaml", "sub/loop", "sub", "."].map(path);
        let files = read(&[[folder.path().to_owned()].as_slice(), &again].concat());
        assert_eq!(short(&files, folder.path()), [fine("a.yaml", "b"), fine("sub/c.yaml", "c")]);
    }

    #[test]
    fn a_folder_without_manifests_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["good/sub", "bare/sub"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("good/sub/a.yaml"), "a").unwrap();
        fs::write(path("bare/notes.txt"), "b").unwrap();
        // What was read by another name is there nevertheless.
        let named = ["good/sub/a.yaml", "good/sub", "bare", "good", "bare/notes.txt"].map(path);
        let (files, barren) = read_once(&named);
        assert_eq!(short(&files, folder.path()), [fine("good/sub/a.yaml", "a"), fine("bare/notes.txt", "b")]);
        assert_eq!(barren, [path("bare")]);
    }

    #[test]
    fn why_there_is_no_text_is_said_with_the_fix() {
        let denied = why(&io::Error::from_raw_os_error(13));
        assert!(denied.ends_with("readable for this user"), "{denied}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_unreadable() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // As a folder that was unmounted, and the lock of an editor.
        symlink("elsewhere/more", path("more")).unwrap();
        symlink("user@host.1234", path(".#b.yaml")).unwrap();
        symlink("gone.yaml", path("b.yaml")).unwrap();
        symlink("round.yaml", path("round.yaml")).unwrap();
        let why = "it is a link that leads nowhere";
        let [b, more, round] = &short(&read(&[folder.path().to_owned()]), folder.path())[..] else {
            panic!("three of the four are told");
        };
        assert_eq!((b, more), (&bad("b.yaml", why), &bad("more", why)));
        assert!(round.0 == "round.yaml" && round.1.is_err(), "{round:?}");
        assert_eq!(short(&read(&[path("b.yaml")]), folder.path()), [bad("b.yaml", why)]);
    }

    #[cfg(unix)]
    #[test]
    fn what_a_file_held_stays_while_its_link_leads_nowhere() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
        for folder in ["there", "one", "two"] {
            fs::create_dir(path(folder)).unwrap();
        }
        fs::write(path("there/a.yaml"), namespace).unwrap();
        symlink("../there/a.yaml", path("one/b.yaml")).unwrap();
        symlink("../there", path("two/aside")).unwrap();
        for given in ["one", "one/b.yaml", "two"] {
            let mut corpus = corpus();
            corpus.load(&read(&[path(given)]));
            assert_eq!(corpus.objects().count::<manifest::Namespace>(), 1, "{given}");
            fs::rename(path("there"), path("away")).unwrap();
            let report = corpus.load(&read(&[path(given)]));
            assert_eq!((report.problems.len(), report.kept.len()), (1, 1), "{given}: {report:?}");
            assert_eq!(corpus.objects().count::<manifest::Namespace>(), 1, "{given}");
            fs::rename(path("away"), path("there")).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_or_device_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("a.yaml")).unwrap();
        let why = "it is a pipe, a socket or a device";
        assert_eq!(
            short(&read(&[folder.path().to_owned(), "/dev/zero".into()]), folder.path()),
            [bad("a.yaml", why), bad("/dev/zero", why)]
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(
            short(&read(&[path]), folder.path()),
            [bad("a.yaml", "it is a pipe, a socket or a device")]
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_reads_once_reads_the_pipes_that_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("a.yaml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // In a folder it is nobody's wish.
        let (found, _) = read_once(&[folder.path().to_owned()]);
        assert_eq!(short(&found, folder.path()), [bad("a.yaml", "it is a pipe, a socket or a device")]);
        let writer = pipe.clone();
        let writing = std::thread::spawn(move || fs::write(writer, "kind: List").unwrap());
        assert_eq!(short(&read_once(&[pipe]).0, folder.path()), [fine("a.yaml", "kind: List")]);
        writing.join().unwrap();
    }
}
