//! The way from a path to the file it means: each symbolic link on it can lead elsewhere tomorrow.
//!
//! `/etc/gw/gateway.toml` of a Kubernetes volume goes over the entries `gateway.toml` and `..data`
//! of `/etc/gw`, both symbolic links, to `gateway.toml` in a directory with the date in its name.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use crate::file;

/// As many symbolic links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Which file it is and which content it has, as far as that shows from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    identity: Identity,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that the path means; none if there isn't one to be seen.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            identity: Identity::of(&metadata),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// What is in each file, as [`contents`] has it.
pub(super) fn contents_of(files: &[PathBuf]) -> Vec<Option<u64>> {
    files.iter().map(|file| contents(file)).collect()
}

/// What is in a file, as a number that other contents don't have; none if it can't be read. A mapping
/// of the file can change it and nothing that shows from outside.
pub(super) fn contents(path: &Path) -> Option<u64> {
    let bytes = file::read(path, MOST_BYTES).ok()?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Some(hasher.finish())
}

/// No file of the configuration may be larger.
const MOST_BYTES: u64 = 1 << 20;

/// A way, with what it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// Symbolic links, and last the file itself or the first entry that is missing. Each lies in a
    /// directory whose own path has no symbolic link in it.
    pub(super) entries: Vec<PathBuf>,
    /// Which file is at its end; none if there isn't any.
    pub(super) end: Option<Identity>,
}

impl Route {
    /// The way as it is now; `path` is absolute.
    pub(super) fn of(path: &Path) -> Self {
        let mut route = Self::default();
        let mut here = PathBuf::from("/");
        let mut ahead: Vec<Step> = steps(path);
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            let entry = match step {
                Step::Root => {
                    here = PathBuf::from("/");
                    continue;
                }
                Step::Up => {
                    here.pop();
                    continue;
                }
                Step::Into(name) => here.join(name),
            };
            let Ok(metadata) = fs::symlink_metadata(&entry) else {
                route.entries.push(entry);
                return route;
            };
            if metadata.is_symlink() {
                links += 1;
                let target = fs::read_link(&entry);
                route.entries.push(entry);
                match target {
                    Ok(target) if links <= MOST_LINKS => ahead.extend(steps(&target)),
                    _ => return route,
                }
            } else if ahead.is_empty() {
                route.entries.push(entry);
                route.end = Some(Identity::of(&metadata));
            } else {
                here = entry;
            }
        }
        route
    }

    /// The directories in which its entries lie.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.entries.iter().filter_map(|entry| entry.parent())
    }
}

enum Step {
    Root,
    Up,
    Into(OsString),
}

/// The steps of a path, the last one first.
fn steps(path: &Path) -> Vec<Step> {
    let steps = path.components().rev().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The entries of the way to `path`, seen from a directory made by `make`.
    fn entries(path: &str, make: impl FnOnce(&Path)) -> (Vec<String>, bool) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        make(&root);
        let route = Route::of(&root.join(path));
        let inside = |entry: &PathBuf| entry.strip_prefix(&root).unwrap().display().to_string();
        (route.entries.iter().map(inside).collect(), route.end.is_some())
    }

    fn write(path: &Path) {
        fs::write(path, "").unwrap();
    }

    #[test]
    fn the_way_has_every_link_and_the_file() {
        let of = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(entries("f", |root| write(&root.join("f"))), (of(&["f"]), true));
        assert_eq!(entries("f", |_| {}), (of(&["f"]), false));
        assert_eq!(entries("missing/also/f", |_| {}), (of(&["missing"]), false));
        let kubernetes = entries("f", |root| {
            fs::create_dir(root.join("..2026")).unwrap();
            write(&root.join("..2026/f"));
            symlink("..2026", root.join("..data")).unwrap();
            symlink("..data/f", root.join("f")).unwrap();
        });
        assert_eq!(kubernetes, (of(&["f", "..data", "..2026/f"]), true));
        let absolute_and_up = entries("conf/f", |root| {
            fs::create_dir_all(root.join("srv/v1")).unwrap();
            write(&root.join("srv/g"));
            symlink(root.join("srv/v1"), root.join("conf")).unwrap();
            symlink("../g", root.join("srv/v1/f")).unwrap();
        });
        assert_eq!(absolute_and_up, (of(&["conf", "srv/v1/f", "srv/g"]), true));
        let dangling = entries("f", |root| symlink("g", root.join("f")).unwrap());
        assert_eq!(dangling, (of(&["f", "g"]), false));
    }

    #[test]
    fn a_circle_ends() {
        let (entries, found) = entries("f", |root| symlink("f", root.join("f")).unwrap());
        assert!(!found && entries.len() == MOST_LINKS + 1, "{entries:?}");
    }
}
