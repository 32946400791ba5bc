//! Where lines end up: standard error or a file, written to without any lock that others need.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, OFlags, Stat, fcntl_getfl, fcntl_setfl, fstat},
    io::Errno,
    stdio::stderr,
};

/// Others read the log file through its group.
const LOG_MODE: u32 = 0o640;

/// Takes lines, and may make its writer wait.
#[derive(Debug)]
pub(super) struct Output {
    /// None is standard error, whatever that is at the time: `start` takes it away.
    file: Option<File>,
    /// The last line was cut off in its midst.
    torn: bool,
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard error.
    Stderr,
    /// A file, by device and number; none if the system doesn't say.
    File(Option<(u64, u64)>),
}

impl Output {
    /// Opens `path` for appending; empty is standard error.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = if path.as_os_str().is_empty() { None } else { Some(open(path)?) };
        Ok(Self { file, torn: false })
    }

    /// Where lines go.
    pub(super) fn place(&self) -> Place {
        let Some(file) = &self.file else { return Place::Stderr };
        Place::File(fstat(file).ok().map(|stat| identity(&stat)))
    }

    /// What stands still if it takes no lines, in words.
    pub(super) fn waited_for(&self) -> &'static str {
        let found = fstat(self.descriptor()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if found == Ok(FileType::RegularFile) { "the log's disk" } else { "the log's reader" }
    }

    /// Writes a line as a whole. After a failure in its midst, the next line begins on its own.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_rest(b"\n").map_err(|(_, error)| error)?;
            self.torn = false;
        }
        self.write_rest(line).map_err(|(left, error)| {
            self.torn = left < line.len();
            error
        })
    }

    /// Answers how much is left if it fails.
    fn write_rest(&self, mut rest: &[u8]) -> Result<(), (usize, io::Error)> {
        while !rest.is_empty() {
            match rustix::io::write(self.descriptor(), rest) {
                Ok(0) => return Err((rest.len(), ErrorKind::WriteZero.into())),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Whoever shares standard error with us may have made it so.
                Err(Errno::AGAIN) => {
                    let descriptor = self.descriptor();
                    let mut wait = [PollFd::new(&descriptor, PollFlags::OUT)];
                    // Its failure shows in the next attempt.
                    let _ = poll(&mut wait, None);
                }
                Err(error) => return Err((rest.len(), error.into())),
            }
        }
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // Past the lock of `std::io::stderr`, which a writer that stands still would keep.
        self.file.as_ref().map_or_else(|| stderr(), |file| file.as_fd())
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Whether standard error leads to the journal (`systemd.exec(5)`, `JOURNAL_STREAM`).
pub(super) fn is_journal(journal_stream: Option<&str>) -> bool {
    let numbers = journal_stream.and_then(|text| text.split_once(':'));
    let numbers = numbers.and_then(|(dev, inode)| Some((dev.parse().ok()?, inode.parse().ok()?)));
    let stderr = fstat(stderr()).map(|stat| identity(&stat));
    numbers.is_some_and(|numbers| stderr == Ok(numbers))
}

/// Opened for appending, so that several writers and a truncating log rotation do no harm; and
/// without waiting: a pipe that nobody reads would hold whoever opens it until somebody does.
fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(LOG_MODE).custom_flags(at_once);
    let opened = options.open(path).and_then(|file| {
        // Lines are written whole: the writer's thread waits for a slow reader as for a slow disk.
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        Ok(file)
    });
    opened.map_err(|error| {
        let unread = error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
        let hint = if unread { ": it is a pipe that nobody reads" } else { "" };
        let text = format!("log.file {} can't be opened: {error}{hint}", path.display());
        io::Error::new(error.kind(), text)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_and_group() {
        let directory = tempfile::tempdir().unwrap();
        let file = open(&directory.path().join("log")).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !LOG_MODE, 0, "{mode:o}");
    }

    #[test]
    fn a_pipe_is_not_waited_for_until_it_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("log.file") && error.contains("nobody reads"), "{error}");
        let mut options = OpenOptions::new();
        let reader = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let _reader = reader.open(&path).unwrap();
        let writer = open(&path).unwrap();
        assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_named() {
        let error = open(Path::new("/nonexistent/log")).unwrap_err().to_string();
        assert!(error.contains("log.file /nonexistent/log can't be opened"), "{error}");
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_take_the_next_one_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut output = Output::open(&path).unwrap();
        output.write(b"{\"a\":").unwrap();
        output.torn = true;
        output.write(b"second\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":\nsecond\n");
        assert_eq!(output.waited_for(), "the log's disk");

        let mut full = Output::open(Path::new("/dev/full")).unwrap();
        assert_eq!(full.write(b"line\n").unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(!full.torn, "nothing of it was written");
    }

    #[test]
    fn the_journal_is_known_by_its_numbers() {
        let stat = fstat(stderr()).unwrap();
        assert!(is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino.wrapping_add(1)))));
        for other in [None, Some(""), Some("8"), Some("a:b"), Some("1:2:3")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
