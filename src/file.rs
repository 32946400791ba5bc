//! Files as an operator names them: read whole, within a bound, and never waited for.
//!
//! A path can turn into a pipe between two looks at it. So it is opened first, without waiting, and
//! what was opened is looked at.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Why a file was not read.
#[derive(Debug)]
pub enum Unread {
    /// The system doesn't let it be read.
    System(io::Error),
    /// It is a pipe, a directory, a device.
    Irregular,
    /// It is larger than allowed.
    TooLarge,
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Reads a regular file of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    let file = open(path)?;
    if file.metadata()?.is_file() { take(file, most) } else { Err(Unread::Irregular) }
}

/// Reads a regular file, or to its end what somebody writes into a pipe: for a process that only
/// begins, which holds up nobody.
pub fn read_or_wait(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    let file = open(path)?;
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(Unread::Irregular);
    }
    fcntl_setfl(&file, fcntl_getfl(&file).map_err(io::Error::from)? - OFlags::NONBLOCK)
        .map_err(io::Error::from)?;
    let bytes = take(file, most)?;
    // A pipe without a writer is at its end.
    if bytes.is_empty() && found.file_type().is_fifo() { Err(Unread::Irregular) } else { Ok(bytes) }
}

fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(at_once).open(path)
}

fn take(file: File, most: u64) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(Unread::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert!(matches!(read(&path, 3), Err(Unread::TooLarge)));
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for path in [&*pipe, directory.path(), Path::new("/dev/null")] {
            assert!(matches!(read(path, 4), Err(Unread::Irregular)), "{}", path.display());
        }
        for path in [pipe.as_path(), directory.path()] {
            assert!(matches!(read_or_wait(path, 4), Err(Unread::Irregular)), "{}", path.display());
        }
        assert_eq!(read_or_wait(Path::new("/dev/null"), 4).unwrap(), b"");
        assert!(matches!(read(&directory.path().join("none"), 4), Err(Unread::System(_))));
    }

    #[test]
    fn at_the_start_a_writer_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        // Its own reading end keeps what was written until the other reader is there.
        let kept = open(&pipe).unwrap();
        let mut writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        writer.write_all(b"slow").unwrap();
        let reading = std::thread::spawn(move || read_or_wait(&pipe, 3));
        // More than allowed ends the reading before the writer does.
        let read = reading.join().unwrap();
        drop((kept, writer));
        assert!(matches!(read, Err(Unread::TooLarge)), "{read:?}");
    }
}
