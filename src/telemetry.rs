//! What the program tells its operators, line by line: where it goes, how it looks, how much it is.
//!
//! People on a terminal get coloured lines, everybody else one JSON object per line. All of it can be
//! changed while the program runs; libraries are held to warnings, whatever the level.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt as _};
use tracing_subscriber::{Registry, registry, reload};

use crate::config::{Level, Log, LogFormat};

/// Where the filter is applied.
type Base = Registry;
/// Where the lines are made.
type Filtered = Layered<reload::Layer<Targets, Base>, Base>;
/// What makes lines.
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// Changes how much is said, how, and where. Cloning shares it.
#[derive(Clone, Default)]
pub struct Handle(Option<(reload::Handle<Targets, Base>, reload::Handle<Lines, Filtered>)>);

/// The crate whose own words the level is about.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Others read the log file through its group.
const LOG_MODE: u32 = 0o640;

/// Begins to log as `log` says. To be called once in a process, by its composition.
pub fn init(log: &Log) -> io::Result<Handle> {
    let (filter, level) = reload::Layer::new(targets(log.level));
    let (lines, form) = reload::Layer::new(lines(log)?);
    let subscriber = registry().with(filter).with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    Ok(Handle(Some((level, form))))
}

impl Handle {
    /// A handle that changes nothing, for a process that logs in its own way, such as a test.
    pub fn none() -> Self {
        Self(None)
    }

    /// Logs as `log` says from now on; the file is opened anew. If that fails, nothing changes.
    pub fn change(&self, log: &Log) -> io::Result<()> {
        let Some((level, form)) = &self.0 else { return Ok(()) };
        let lines = lines(log)?;
        form.reload(lines).and_then(|()| level.reload(targets(log.level))).map_err(io::Error::other)
    }
}

/// What makes the lines that `log` asks for.
fn lines(log: &Log) -> io::Result<Lines> {
    if log.file.as_os_str().is_empty() {
        let human = match log.format {
            LogFormat::Auto => io::stderr().is_terminal(),
            LogFormat::Human => true,
            LogFormat::Json => false,
        };
        return Ok(layer(human, io::stderr().is_terminal(), io::stderr));
    }
    Ok(layer(log.format == LogFormat::Human, false, Arc::new(open(&log.file)?)))
}

/// Our own lines from `level` up, those of libraries only if they are at least warnings.
fn targets(level: Level) -> Targets {
    let ours = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let theirs = ours.min(LevelFilter::WARN);
    Targets::new().with_default(theirs).with_target(OURS, ours)
}

fn layer<S, W>(human: bool, colours: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    if human { lines.with_ansi(colours).boxed() } else { lines.json().flatten_event(true).boxed() }
}

/// Opened for appending, so that several writers and a truncating log rotation do no harm; and
/// without waiting: a pipe that nobody reads would hold whoever opens it until somebody does.
fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(LOG_MODE).custom_flags(at_once);
    let opened = options.open(path).and_then(|file| {
        // Lines are written whole: a pipe whose reader is slow is waited for, like a slow disk.
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

    use tracing::subscriber::with_default;

    use super::*;

    #[test]
    fn libraries_are_held_to_warnings_whatever_the_level() {
        let all = targets(Level::Trace);
        assert!(all.would_enable(OURS, &tracing::Level::TRACE));
        assert!(all.would_enable(&format!("{OURS}::shard"), &tracing::Level::TRACE));
        assert!(all.would_enable("h2::codec", &tracing::Level::WARN));
        assert!(!all.would_enable("h2::codec", &tracing::Level::INFO));
        let few = targets(Level::Error);
        assert!(!few.would_enable(OURS, &tracing::Level::WARN));
        assert!(!few.would_enable("h2::codec", &tracing::Level::WARN));
    }

    #[test]
    fn a_file_gets_one_object_per_line_and_the_level_can_be_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = open(&path).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !LOG_MODE, 0, "{mode:o}");

        drop(file);
        let log = |level, format| Log { level, format, file: path.clone() };
        let (filter, level) = reload::Layer::new(targets(Level::Info));
        let (lines, form) = reload::Layer::new(lines(&log(Level::Info, LogFormat::Json)).unwrap());
        let handle = Handle(Some((level, form)));
        let subscriber = registry().with(filter).with(lines);
        with_default(subscriber, || {
            tracing::info!(clients = 3, "first");
            handle.change(&log(Level::Warn, LogFormat::Json)).unwrap();
            tracing::info!("silent");
            tracing::warn!("second");
            std::fs::rename(&path, directory.path().join("rotated")).unwrap();
            handle.change(&log(Level::Debug, LogFormat::Json)).unwrap();
            tracing::debug!("third");
            let nowhere =
                Log { file: "/nonexistent/log".into(), ..log(Level::Error, LogFormat::Json) };
            assert!(handle.change(&nowhere).is_err());
            tracing::debug!("fourth");
            Handle::none().change(&nowhere).unwrap();
            handle.change(&log(Level::Debug, LogFormat::Human)).unwrap();
            tracing::debug!("fifth");
        });

        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let objects = |text: &str| -> Vec<serde_json::Value> {
            text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
        };
        let rotated = objects(&read("rotated"));
        let messages: Vec<_> = rotated.iter().map(|line| line["message"].as_str()).collect();
        assert_eq!(messages, [Some("first"), Some("second")]);
        assert_eq!(rotated[0]["clients"], 3);
        let messages = objects(&read("log"));
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert_eq!(
            (&messages[0]["message"], &messages[1]["message"]),
            (&"third".into(), &"fourth".into())
        );
        let human = read("log");
        assert!(human.lines().last().unwrap().ends_with("fifth"), "{human}");
    }

    #[test]
    fn a_pipe_is_not_waited_for_until_it_is_written_to() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
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
}
