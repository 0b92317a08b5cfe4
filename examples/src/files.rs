//! The user's manifests: which files they are, which kinds are read from them, and the world that they describe.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lbcore::manifest::{self, Corpus, Kinds, MAX_FILE_BYTES, Objects, SourceFile};
use lbcore::plan::World;

/// How deep folders are searched: a link that leads back to its own folder ends somewhere.
const MAX_DEPTH: usize = 32;

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
/// the folders in it those that end in `.yaml`, `.yml` or `.json`; `-` is the standard input. What begins with a
/// dot is left out, as is `kustomization.yaml`, which says how to build manifests and is none itself.
///
/// What cannot be read is among them, with the reason.
pub fn read(paths: &[PathBuf]) -> Vec<SourceFile> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            files.push(source("<stdin>".to_owned(), text(io::stdin().lock())));
        } else if path.is_dir() {
            read_folder(path, 0, &mut files);
        } else {
            files.push(source(path.display().to_string(), File::open(path).and_then(text)));
        }
    }
    // The same file by two ways is one file.
    let mut seen = std::collections::BTreeSet::new();
    files.retain(|file| seen.insert(file.name.clone()));
    files
}

fn read_folder(folder: &Path, depth: usize, files: &mut Vec<SourceFile>) {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths = match entries {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(error) => {
            files.push(SourceFile::unreadable(folder.display().to_string(), error.to_string()));
            return;
        }
    };
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Follows links: a mounted ConfigMap consists of them.
        let Ok(kind) = fs::metadata(&path) else { continue };
        if name.starts_with('.') {
            continue;
        } else if kind.is_dir() {
            if depth < MAX_DEPTH {
                read_folder(&path, depth + 1, files);
            }
        } else if kind.is_file() && is_manifest(&name) {
            files.push(source(path.display().to_string(), File::open(&path).and_then(text)));
        }
    }
}

fn is_manifest(name: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    matches!(extension, "yaml" | "yml" | "json") && !stem.eq_ignore_ascii_case("kustomization")
}

fn text(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed, so that the reader of the documents can tell.
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn source(name: String, text: io::Result<String>) -> SourceFile {
    match text {
        Ok(text) => SourceFile::new(name, text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            SourceFile::unreadable(name, "it is not text in UTF-8: convert it, or leave it out")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            SourceFile::unreadable(name, "there is no such file or folder")
        }
        Err(error) => SourceFile::unreadable(name, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_by_name_and_links_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("sub")).unwrap();
        for name in ["b.yml", "a.yaml", "sub/c.json", ".hidden.yaml", "notes.txt", "kustomization.yaml"] {
            fs::write(path(name), name).unwrap();
        }
        fs::write(path("d.yaml"), [0xff, 0xfe]).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path(), path("sub/loop")).unwrap();
        let files = read(&[folder.path().to_owned(), path("a.yaml"), path("none.yaml")]);
        let short = |file: &SourceFile| {
            let name = file.name.rsplit('/').next().unwrap_or_default().to_owned();
            (name, file.text.clone().map_err(|why| why.split(':').next().unwrap_or_default().to_owned()))
        };
        let top: Vec<_> = files.iter().filter(|file| !file.name.contains("loop")).map(short).collect();
        let fine = |name: &str, text: &str| (name.to_owned(), Ok(text.to_owned()));
        let bad = |name: &str, why: &str| (name.to_owned(), Err(why.to_owned()));
        assert_eq!(
            top,
            [
                fine("a.yaml", "a.yaml"),
                fine("b.yml", "b.yml"),
                bad("d.yaml", "it is not text in UTF-8"),
                fine("c.json", "sub/c.json"),
                bad("none.yaml", "there is no such file or folder"),
            ]
        );
    }
}
