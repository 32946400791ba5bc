//! The watcher on real files. That nothing was said of a file is proved by a marker, watched by
//! itself, that was changed later and has rested before.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    process::{Child, ChildStdout, Command, Stdio},
};

use tokio::time::timeout;

use super::*;

/// Only ends a test that would hang.
const HANG: Duration = Duration::from_mins(1);

struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("conf")).unwrap();
        Self { _directory: directory, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    fn watch(&self, path: &str) -> Watch {
        let watch = Watch::new(&[self.at(path)], SystemTime::now());
        assert_eq!(watch.trouble(), None);
        watch
    }
}

async fn rests(watch: &mut Watch) -> Vec<PathBuf> {
    timeout(HANG, watch.rested()).await.expect("the files were changed and have rested")
}

/// Asserts that nothing rests of what happened before.
async fn is_restless(watch: &mut Watch) {
    let place = Place::new();
    let mut markers = place.watch("marker");
    place.write("marker", "");
    tokio::select! {
        biased;
        early = watch.rested() => panic!("{early:?} rested early"),
        marker = rests(&mut markers) => assert_eq!(marker, [place.at("marker")]),
    }
}

#[tokio::test]
async fn a_file_held_open_rests_when_it_is_closed() {
    let place = Place::new();
    place.write("conf/f", "old");
    let mut watch = place.watch("conf/f");
    let mut file = File::create(place.at("conf/f")).unwrap();
    for piece in ["a", "b", "c"] {
        file.write_all(piece.as_bytes()).unwrap();
        is_restless(&mut watch).await;
    }
    // Who reads meanwhile changes nothing about it.
    assert_eq!(fs::read_to_string(place.at("conf/f")).unwrap(), "abc");
    is_restless(&mut watch).await;
    drop(file);
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    // Nor does our own reading, ever.
    assert_eq!(fs::read_to_string(place.at("conf/f")).unwrap(), "abc");
    is_restless(&mut watch).await;
    assert!(!watch.disturbed());
}

#[tokio::test]
async fn a_file_rests_once_for_all_of_an_editors_steps() {
    let place = Place::new();
    place.write("conf/f", "old");
    let mut watch = place.watch("conf/f");
    // As vim does it.
    fs::rename(place.at("conf/f"), place.at("conf/f~")).unwrap();
    place.write("conf/f", "new");
    fs::remove_file(place.at("conf/f~")).unwrap();
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    is_restless(&mut watch).await;
    // As sed, and whoever else is careful, does it.
    place.write("conf/.f.tmp", "newer");
    fs::rename(place.at("conf/.f.tmp"), place.at("conf/f")).unwrap();
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    // The directory survives in its watch: in place, after all these renames.
    place.write("conf/f", "newest");
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    fs::remove_file(place.at("conf/f")).unwrap();
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    place.write("conf/f", "again");
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    is_restless(&mut watch).await;
}

#[tokio::test]
async fn what_happens_to_other_files_of_the_directory_is_nothing_to_wake_up_for() {
    let place = Place::new();
    place.write("conf/f", "old");
    let mut watch = place.watch("conf/f");
    let mut log = OpenOptions::new().create(true).append(true).open(place.at("conf/log")).unwrap();
    for _ in 0..10_000 {
        log.write_all(b"a line\n").unwrap();
        fs::read(place.at("conf/f")).unwrap();
    }
    drop(log);
    is_restless(&mut watch).await;
    assert!(!watch.shared.seen().unfollowed);
    place.write("conf/f", "new");
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
}

#[tokio::test]
async fn links_are_followed_wherever_they_lead() {
    let place = Place::new();
    // As Kubernetes lays a volume out and changes it.
    let publish = |version: &str, text: &str| {
        fs::create_dir(place.at("conf").join(version)).unwrap();
        place.write(&format!("conf/{version}/f"), text);
        symlink(version, place.at("conf/..data_tmp")).unwrap();
        fs::rename(place.at("conf/..data_tmp"), place.at("conf/..data")).unwrap();
    };
    publish("..1", "one");
    symlink("..data/f", place.at("conf/f")).unwrap();
    let mut watch = place.watch("conf/f");
    for (old, new) in [("..1", "..2"), ("..2", "..3")] {
        publish(new, new);
        fs::remove_dir_all(place.at("conf").join(old)).unwrap();
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
        assert_eq!(fs::read_to_string(place.at("conf/f")).unwrap(), new);
        is_restless(&mut watch).await;
    }
    // And what is written at the end of the way is seen there.
    place.write("conf/..3/f", "in place");
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    // A link replaced without an atomic step, to a file somewhere else.
    place.write("elsewhere", "x");
    fs::remove_file(place.at("conf/f")).unwrap();
    symlink("../elsewhere", place.at("conf/f")).unwrap();
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    place.write("elsewhere", "y");
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_again() {
    let place = Place::new();
    place.write("conf/f", "old");
    let mut watch = place.watch("conf/f");
    for _ in 0..2 {
        // Removed, and made again.
        fs::remove_dir_all(place.at("conf")).unwrap();
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
        fs::create_dir(place.at("conf")).unwrap();
        place.write("conf/f", "new");
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
        place.write("conf/f", "newer");
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
        // Moved away, and another in its place: what is written to the old one is nobody's.
        fs::create_dir(place.at("next")).unwrap();
        place.write("next/f", "next");
        fs::rename(place.at("conf"), place.at("gone")).unwrap();
        fs::rename(place.at("next"), place.at("conf")).unwrap();
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
        place.write("gone/f", "to nobody");
        is_restless(&mut watch).await;
        place.write("conf/f", "in place");
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
        fs::remove_dir_all(place.at("gone")).unwrap();
    }
    // Further up, without a sign in the directory itself.
    fs::create_dir_all(place.at("a/b/c")).unwrap();
    place.write("a/b/c/f", "old");
    watch.set(&[place.at("a/b/c/f")], SystemTime::now());
    fs::create_dir_all(place.at("x/b/c")).unwrap();
    place.write("x/b/c/f", "new");
    fs::rename(place.at("a"), place.at("gone")).unwrap();
    fs::rename(place.at("x"), place.at("a")).unwrap();
    assert_eq!(rests(&mut watch).await, [place.at("a/b/c/f")]);
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_waited_for() {
    let place = Place::new();
    let mut watch = place.watch("conf/deep/er/f");
    fs::create_dir_all(place.at("conf/deep/er")).unwrap();
    is_restless(&mut watch).await;
    place.write("conf/deep/er/f", "here");
    assert_eq!(rests(&mut watch).await, [place.at("conf/deep/er/f")]);
}

#[tokio::test]
async fn files_that_belong_together_rest_together_and_others_are_let_go() {
    let place = Place::new();
    let both = ["conf/certificate", "conf/key"].map(|name| place.at(name));
    for file in &both {
        fs::write(file, "old").unwrap();
    }
    let mut watch = place.watch("conf/f");
    watch.set(&both, SystemTime::now());
    let key = File::create(&both[1]).unwrap();
    place.write("conf/certificate", "new");
    is_restless(&mut watch).await;
    drop(key);
    assert_eq!(rests(&mut watch).await, both);
    // What is being written holds nobody up once it is no file of ours.
    let _key = File::create(&both[1]).unwrap();
    place.write("conf/certificate", "newer");
    is_restless(&mut watch).await;
    watch.set(&[both[0].clone()], SystemTime::now());
    assert_eq!(rests(&mut watch).await, [both[0].clone()]);
    place.write("conf/f", "long forgotten");
    is_restless(&mut watch).await;
    watch.set(&[], SystemTime::now());
    place.write("conf/certificate", "not watched");
    is_restless(&mut watch).await;
    watch.set(&both, SystemTime::now());
    is_restless(&mut watch).await;
    place.write("conf/certificate", "watched again");
    assert_eq!(rests(&mut watch).await, [both[0].clone()]);
}

#[tokio::test]
async fn what_was_written_between_reading_and_watching_is_seen() {
    let place = Place::new();
    let read_at = SystemTime::now() - Duration::from_secs(1);
    place.write("conf/f", "after it was read");
    let mut watch = Watch::new(&[place.at("conf/f")], read_at);
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
}

#[tokio::test]
async fn what_was_read_while_somebody_wrote_is_disturbed_and_rests_again() {
    let place = Place::new();
    place.write("conf/f", "old");
    let mut watch = place.watch("conf/f");
    place.write("conf/f", "new");
    rests(&mut watch).await;
    assert!(!watch.disturbed());
    let mut file = OpenOptions::new().append(true).open(place.at("conf/f")).unwrap();
    file.write_all(b" half").unwrap();
    assert!(watch.disturbed(), "without waiting for any sign");
    is_restless(&mut watch).await;
    file.write_all(b" and half").unwrap();
    drop(file);
    rests(&mut watch).await;
    assert!(!watch.disturbed());
}

#[tokio::test]
async fn lost_signs_make_everything_uncertain_and_a_broken_watcher_is_made_again() {
    let place = Place::new();
    place.write("conf/f", "old");
    let mut watch = place.watch("conf/f");
    let lost = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
    watch.shared.hear(Ok(lost));
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);

    watch.shared.hear(Err(notify::Error::generic("the end")));
    is_restless(&mut watch).await;
    assert_eq!(watch.trouble().as_deref(), Some("the end"));
    place.write("conf/f", "unseen");
    is_restless(&mut watch).await;
    watch.looks_to_retry = 1;
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
    assert_eq!(watch.trouble(), None);
    place.write("conf/f", "new");
    assert_eq!(rests(&mut watch).await, [place.at("conf/f")]);
}

/// Writes through a shared mapping, of which inotify(7) tells nothing as long as it is there; so it
/// is with what other machines write on a network file system.
struct Mapping {
    python: Child,
    answers: BufReader<ChildStdout>,
}

impl Mapping {
    fn of(path: &Path) -> Self {
        let script = "import mmap, sys\n\
                      file = open(sys.argv[1], 'r+b')\n\
                      mapped = mmap.mmap(file.fileno(), 0)\n\
                      for line in sys.stdin:\n    \
                          mapped[:] = line.rstrip().encode()\n    \
                          mapped.flush()\n    \
                          print(flush=True)";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().expect("python3 is installed");
        let answers = BufReader::new(python.stdout.take().unwrap());
        Self { python, answers }
    }

    fn write(&mut self, text: &str) {
        writeln!(self.python.stdin.as_mut().unwrap(), "{text}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "\n");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

#[tokio::test]
async fn what_changes_without_a_sign_is_seen_by_looking() {
    let place = Place::new();
    place.write("conf/f", "old");
    place.write("conf/g", "old");
    let mut watch = Watch::new(&[place.at("conf/f"), place.at("conf/g")], SystemTime::now());
    let mut mapping = Mapping::of(&place.at("conf/f"));
    for text in ["new", "two", "six"] {
        mapping.write(text);
        assert_eq!(rests(&mut watch).await, [place.at("conf/f")], "{text}");
        is_restless(&mut watch).await;
    }
    assert_eq!(watch.trouble(), None);
}

#[test]
fn what_cannot_be_watched_is_said_and_tried_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let place = Place::new();
        let mut watch = place.watch("conf/f");
        let refused = notify::Error::new(ErrorKind::MaxFilesWatch);
        watch.complain(&place.at("conf"), &refused);
        let said = watch.trouble().unwrap();
        assert!(said.contains("max_user_watches") && said.contains("conf"), "{said}");
        watch.look();
        assert_eq!(watch.trouble(), None);
    });
}
