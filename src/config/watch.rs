//! Watches the files of the configuration, and tells when they were changed and have rested.
//!
//! ```text
//!  inotify ──► notify's thread: is it one of our files, a link on the way there, a directory of
//!                 │             these? what does it say of the file? everything else is forgotten
//!                 ▼
//!             Settling ──── due ────► rested(): the directories are followed, then the files that
//!                 ▲                      │       were changed, once all are written out and quiet
//!                 └── every LOOK: did anything become another without a sign? ◄┘
//! ```
//!
//! Directories are watched, not files: an editor's rename and a swapped symbolic link leave a watch
//! of the file itself with what nobody reads any more. There is no queue: what was seen is in
//! [`Settling`], a few words per file. Network file systems, bind mounts and shared mappings give no
//! sign: so a look compares size, times and contents of what is at rest with what it was. A watcher that can't watch says so, goes on trying, and
//! leaves the rest to SIGHUP and `reload`.

mod route;
mod settling;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use notify::{
    ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use route::{Identity, Route, Stamp};
use settling::{Settling, Sign};

/// How often it is checked that the directories are still the ones that are watched, and the files
/// what they were: a mount over one, a renamed one further up, a network file system give no sign.
const LOOK: Duration = Duration::from_secs(2);

/// Looks between two attempts to begin watching after it failed.
const LOOKS_TO_RETRY: u32 = 15;

/// Steps of one change are followed together.
const STEP: Duration = Duration::from_millis(10);

/// A file that somebody has written to for so long is mentioned in the log.
const PATIENCE: Duration = Duration::from_mins(1);

/// Attempts to watch a way that changes meanwhile; the next look or sign goes on from there.
const ATTEMPTS: usize = 4;

/// Watches a changing set of files, for as long as it lives.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    files: Vec<PathBuf>,
    routes: Vec<Route>,
    /// What the files looked like when they were changed last, as far as is known.
    stamps: Vec<Option<Stamp>>,
    /// What was in them when they had rested last; none of what can't be read.
    contents: Vec<Option<u64>>,
    /// A change was found by looking, so what follows of it gives no sign, either.
    signless: bool,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    /// What can't be watched, and why; the directory, or an empty path for all of it.
    trouble: BTreeMap<PathBuf, String>,
    next_look: Instant,
    looks_to_retry: u32,
    /// Files of which it was said that somebody keeps them open.
    mentioned: BTreeSet<PathBuf>,
}

/// What notify's thread and the watch share.
#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    stir: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    settling: Settling,
    /// For each entry on the way to a file, and each directory of such entries: the files.
    entries: HashMap<PathBuf, Vec<PathBuf>>,
    directories: HashMap<PathBuf, Vec<PathBuf>>,
    /// There are signs that were not followed yet.
    unfollowed: bool,
    /// Why nothing will be seen any more.
    broken: Option<String>,
}

impl Watch {
    /// Watches these files, which were read at `read_at`: what changed since then counts as seen.
    /// A file that doesn't exist is watched for.
    pub fn new(files: &[PathBuf], read_at: SystemTime) -> Self {
        let mut watch = Self {
            shared: Arc::default(),
            files: Vec::new(),
            routes: Vec::new(),
            stamps: Vec::new(),
            contents: Vec::new(),
            signless: false,
            watcher: None,
            watched: BTreeMap::new(),
            trouble: BTreeMap::new(),
            next_look: Instant::now() + LOOK,
            looks_to_retry: 0,
            mentioned: BTreeSet::new(),
        };
        watch.set(files, read_at);
        watch
    }

    /// Watches these files from now on, and no others; none is nothing at all. Call it after each
    /// reload.
    pub fn set(&mut self, files: &[PathBuf], read_at: SystemTime) {
        let absolute = files.iter().filter_map(|file| std::path::absolute(file).ok());
        let mut files: Vec<PathBuf> = absolute.collect();
        files.sort_unstable();
        files.dedup();
        if files == self.files {
            return;
        }
        let before = std::mem::replace(&mut self.files, files);
        self.shared.seen().settling.keep(&self.files);
        if self.files.is_empty() {
            // With it goes its thread.
            self.watcher = None;
            self.watched.clear();
            self.trouble.clear();
        } else if before.is_empty() {
            self.begin();
        }
        self.follow();
        self.contents = route::contents_of(&self.files);
        // Between the reading of a file and the watching of it nobody has looked.
        let late = self.files.iter().filter(|file| !before.contains(file));
        let late = late.filter(|file| changed_since(file, read_at));
        let mut seen = self.shared.seen();
        for file in late {
            seen.settling.note(file, Sign::Unsure, Instant::now().into_std());
        }
    }

    /// Waits until files were changed, every writer has closed them and nothing more happens to
    /// any of them; answers those that were changed. Nothing is lost if it is not waited for.
    pub async fn rested(&mut self) -> Vec<PathBuf> {
        loop {
            let due = self.shared.seen().settling.due().map(Instant::from_std);
            tokio::select! {
                biased;
                () = self.shared.stir.notified() => {
                    self.follow();
                    sleep(STEP).await;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some(changed) = self.take() {
                        return changed;
                    }
                }
                () = sleep_until(self.next_look) => self.look(),
            }
        }
    }

    /// Whether the files were changed since [`rested`](Self::rested) answered: what was read of
    /// them meanwhile may be half of it and has to be forgotten. They are waited for again.
    pub fn disturbed(&mut self) -> bool {
        let now: Vec<_> = self.files.iter().map(|file| Stamp::of(file)).collect();
        let changed = self.files.iter().zip(self.stamps.iter().zip(&now));
        let changed = changed.filter(|(_, (before, now))| before != now);
        let mut seen = self.shared.seen();
        let mut any = false;
        let sign = if self.signless { Sign::Unsure } else { Sign::Touched };
        for (file, _) in changed {
            seen.settling.note(file, sign, Instant::now().into_std());
            any = true;
        }
        drop(seen);
        self.stamps = now;
        any
    }

    /// What can't be watched, and why; none if all is well.
    pub fn trouble(&self) -> Option<String> {
        let (directory, reason) = self.trouble.first_key_value()?;
        let of_one = !directory.as_os_str().is_empty();
        Some(if of_one { format!("{}: {reason}", directory.display()) } else { reason.clone() })
    }

    /// The files that have rested, unless they are not what they were at their last sign: then a
    /// sign is on its way, and they have to rest again.
    fn take(&mut self) -> Option<Vec<PathBuf>> {
        if self.disturbed() {
            return None;
        }
        let taken = self.shared.seen().settling.take(Instant::now().into_std());
        if taken.is_some() {
            self.mentioned.clear();
            self.signless = false;
            // Before anybody reads them: who reads later reads no older ones.
            self.contents = route::contents_of(&self.files);
        }
        taken
    }

    /// Starts notify's thread, or says why not.
    fn begin(&mut self) {
        let shared = Arc::clone(&self.shared);
        let watcher = notify::recommended_watcher(move |event| shared.hear(event));
        self.watched.clear();
        self.looks_to_retry = LOOKS_TO_RETRY;
        match watcher {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.all_is_well_with(Path::new(""));
            }
            Err(error) => {
                self.watcher = None;
                self.complain(Path::new(""), &error);
            }
        }
    }

    fn complain(&mut self, directory: &Path, error: &notify::Error) {
        let reason = match &error.kind {
            ErrorKind::MaxFilesWatch => {
                "the limit of watches is reached (fs.inotify.max_user_watches)".to_owned()
            }
            ErrorKind::Io(error) if error.raw_os_error() == Some(EMFILE) => {
                "the limit of file descriptors or of fs.inotify.max_user_instances is reached"
                    .to_owned()
            }
            ErrorKind::Io(error) => error.to_string(),
            ErrorKind::Generic(text) => text.clone(),
            other => format!("{other:?}"),
        };
        let before = self.trouble.insert(directory.to_owned(), reason.clone());
        if before.as_ref() != Some(&reason) {
            tracing::warn!(
                directory = %directory.display(),
                reason,
                "changes of configuration files go unnoticed; SIGHUP and `reload` read them"
            );
        }
    }

    fn all_is_well_with(&mut self, directory: &Path) {
        if self.trouble.remove(directory).is_some() {
            tracing::info!(directory = %directory.display(), "configuration files are watched again");
        }
    }

    /// Something happened to the files: goes after them with watches and stamps.
    fn follow(&mut self) {
        let broken = {
            let mut seen = self.shared.seen();
            seen.unfollowed = false;
            seen.broken.take()
        };
        if let Some(reason) = broken {
            self.watcher = None;
            self.complain(Path::new(""), &notify::Error::generic(&reason));
        }
        self.routes = self.watch_ways();
        self.stamps = self.files.iter().map(|file| Stamp::of(file)).collect();
    }

    /// Looks whether anything became another without a sign.
    fn look(&mut self) {
        self.next_look = Instant::now() + LOOK;
        if self.watcher.is_none() && !self.files.is_empty() {
            self.looks_to_retry = self.looks_to_retry.saturating_sub(1);
            if self.looks_to_retry == 0 {
                self.begin();
                self.catch_up();
            }
        }
        let blind = self.watcher.is_none();
        let routes = self.watch_ways();
        let others = if blind { Vec::new() } else { self.others() };
        let mut seen = self.shared.seen();
        let at_rest = seen.settling.is_at_rest();
        // With a sign on its way it isn't without one.
        if !seen.unfollowed && !blind {
            let moved = self.files.iter().zip(self.routes.iter().zip(&routes));
            for (file, _) in moved.filter(|(_, (before, now))| before != now) {
                seen.settling.note(file, Sign::Unsure, Instant::now().into_std());
            }
            // What has begun to change since shows by itself.
            let others = if at_rest { others } else { Vec::new() };
            self.signless |= !others.is_empty();
            for file in others {
                seen.settling.note(&file, Sign::Unsure, Instant::now().into_std());
            }
        }
        let held = seen.settling.held(PATIENCE, Instant::now().into_std()).map(Path::to_owned);
        drop(seen);
        if let Some(file) = held.filter(|file| !self.mentioned.contains(file)) {
            tracing::info!(
                file = %file.display(),
                "somebody has it open and writes to it; it is read when it is closed"
            );
            self.mentioned.insert(file);
        }
        if !blind {
            self.routes = routes;
        }
    }

    /// The files that are not what they were when they had rested last, if all are at rest: of the
    /// others there are signs, and to read them would look like one.
    fn others(&self) -> Vec<PathBuf> {
        if !self.shared.seen().settling.is_at_rest() {
            return Vec::new();
        }
        let before = self.stamps.iter().zip(&self.contents);
        let changed = self.files.iter().zip(before).filter(|(file, (stamp, contents))| {
            Stamp::of(file) != **stamp || route::contents(file) != **contents
        });
        changed.map(|(file, _)| file.clone()).collect()
    }

    /// What was changed while nothing was watched, nobody saw.
    fn catch_up(&mut self) {
        let mut seen = self.shared.seen();
        for (file, before) in self.files.iter().zip(&self.stamps) {
            if self.watcher.is_some() && Stamp::of(file) != *before {
                seen.settling.note(file, Sign::Unsure, Instant::now().into_std());
            }
        }
    }

    /// Watches what lies on the way to each file, and answers the ways. What is watched already is
    /// watched again, which costs a system call: so nobody has to know what a removed and remade
    /// directory, or notify's own order of doing things, has left of the watch.
    fn watch_ways(&mut self) -> Vec<Route> {
        let mut routes = ways(&self.files);
        for _ in 0..ATTEMPTS {
            self.listen_for(&routes);
            let wanted: BTreeSet<&Path> = routes.iter().flat_map(Route::directories).collect();
            let gone: Vec<PathBuf> = self
                .watched
                .keys()
                .filter(|path| !wanted.contains(path.as_path()))
                .cloned()
                .collect();
            for directory in gone {
                self.unwatch(&directory);
            }
            self.trouble.retain(|path, _| path.as_os_str().is_empty() || wanted.contains(&**path));
            for directory in wanted {
                self.watch(directory);
            }
            // A link that was swapped before its directory was watched gave no sign.
            let again = ways(&self.files);
            let settled = again == routes;
            routes = again;
            if settled {
                break;
            }
        }
        routes
    }

    /// Tells notify's thread what to look out for.
    fn listen_for(&self, routes: &[Route]) {
        let mut entries: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
        let mut directories: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
        for (file, route) in self.files.iter().zip(routes) {
            for entry in &route.entries {
                entries.entry(entry.clone()).or_default().push(file.clone());
            }
            for directory in route.directories() {
                directories.entry(directory.to_owned()).or_default().push(file.clone());
            }
        }
        let mut seen = self.shared.seen();
        seen.entries = entries;
        seen.directories = directories;
    }

    fn watch(&mut self, directory: &Path) {
        // Gone meanwhile: then its parent's entry is on the way, at the next attempt.
        let Ok(metadata) = fs::metadata(directory) else { return };
        let identity = Identity::of(&metadata);
        if self.watched.get(directory).is_some_and(|watched| *watched != identity) {
            self.unwatch(directory);
        }
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(directory.to_owned(), identity);
                self.all_is_well_with(directory);
            }
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
            Err(error) => self.complain(directory, &error),
        }
    }

    fn unwatch(&mut self, directory: &Path) {
        self.watched.remove(directory);
        if let Some(watcher) = &mut self.watcher {
            // Most often the system has dropped it already, with the directory.
            let _ = watcher.unwatch(directory);
        }
    }
}

/// The system's number for "too many open files", which it says of watchers too.
const EMFILE: i32 = 24;

fn ways(files: &[PathBuf]) -> Vec<Route> {
    files.iter().map(|file| Route::of(file)).collect()
}

/// Whether a file there is has been written since.
fn changed_since(file: &Path, time: SystemTime) -> bool {
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified > time)
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each change of what is inside is whole, even if a thread should panic beside it.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On notify's thread: something happened in one of the directories, or signs were lost.
    fn hear(&self, event: notify::Result<notify::Event>) {
        let mut seen = self.seen();
        let stirs = match event {
            Ok(event) => seen.hear(&event),
            Err(error) => {
                seen.broken = Some(error.to_string());
                true
            }
        };
        drop(seen);
        if stirs {
            self.stir.notify_one();
        }
    }
}

impl Seen {
    /// Answers whether it is worth waking up for.
    fn hear(&mut self, event: &notify::Event) -> bool {
        let now = Instant::now().into_std();
        if event.need_rescan() {
            let files: BTreeSet<&PathBuf> = self.entries.values().flatten().collect();
            for file in files {
                self.settling.note(file, Sign::Unsure, now);
            }
            self.unfollowed = true;
            return true;
        }
        let Some(sign) = sign(event.kind) else { return false };
        let mut stirs = false;
        for path in &event.paths {
            for file in self.entries.get(path).into_iter().flatten() {
                stirs |= self.settling.note(file, sign, now);
            }
            // Of a directory itself it only matters whether it is still there.
            if sign == Sign::Replaced {
                for file in self.directories.get(path).into_iter().flatten() {
                    stirs |= self.settling.note(file, sign, now);
                }
            }
        }
        self.unfollowed |= stirs;
        stirs
    }
}

/// What an event says of the file it names.
fn sign(kind: EventKind) -> Option<Sign> {
    Some(match kind {
        EventKind::Access(AccessKind::Open(_)) => Sign::Opened,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Sign::Closed,
        EventKind::Access(_) | EventKind::Any | EventKind::Other => return None,
        // What is in a new directory was perhaps written before anybody could watch it.
        EventKind::Create(CreateKind::Folder) => Sign::Unsure,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Metadata(_)) => Sign::Touched,
        EventKind::Modify(ModifyKind::Data(_)) => Sign::Written,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Sign::Replaced,
        EventKind::Modify(_) => Sign::Unsure,
    })
}
