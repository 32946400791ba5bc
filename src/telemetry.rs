//! What the program tells its operators, line by line: where it goes, how it looks, how much it is.
//!
//! ```text
//!  event ─► level ─► form (human, journal, JSON) ─► queue ─► thread "log" ─► stderr or file
//! ```
//!
//! People on a terminal get coloured lines, the journal plain ones with their priority, everybody
//! else one JSON object per line. All of it can be changed while the program runs; libraries are held
//! to warnings, whatever the level. A log that nobody reads stops nobody: see [`queue`].

mod output;
mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::{Layer, Layered, SubscriberExt as _},
    registry, reload,
};

use self::{output::Output, queue::Queue};
use crate::config::{Level, Log, LogFormat};

/// Where the filter is applied.
type Base = Registry;
/// Where the lines are made.
type Filtered = Layered<reload::Layer<Targets, Base>, Base>;
/// What makes lines.
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// Changes how much is said, how, and where. Cloning shares it.
#[derive(Clone, Default)]
pub struct Handle(Option<Arc<Changeable>>);

/// What can be changed.
struct Changeable {
    level: reload::Handle<Targets, Base>,
    form: reload::Handle<Lines, Filtered>,
    current: Mutex<Current>,
}

/// What is in force.
struct Current {
    log: Log,
    place: output::Place,
    queue: Arc<Queue>,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people, with the time.
    Human { colours: bool },
    /// For the journal, which knows the time, and takes a priority (`sd-daemon(3)`).
    Journal,
    /// For programs.
    Json,
}

/// Who reads the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Terminal { colours: bool },
    Journal,
    Other,
}

/// The crate whose own words the level is about.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Time that a log has to take the last lines of a process that ends.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Begins to log as `log` says, panics too. To be called once in a process, by its composition.
pub fn init(log: &Log) -> io::Result<Handle> {
    let (handle, subscriber) = build(log)?;
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    let ours = handle.clone();
    panic::set_hook(Box::new(move |panic| {
        say_panic(panic);
        // Nobody comes after the main thread who could wait for its last words.
        if thread::current().name() == Some("main") {
            ours.flush();
        }
    }));
    Ok(handle)
}

fn build(log: &Log) -> io::Result<(Handle, impl tracing::Subscriber + Send + Sync + use<>)> {
    let (filter, level) = reload::Layer::new(targets(log.level));
    let output = Output::open(&log.file)?;
    let (place, look) = (output.place(), Form::of(log));
    let queue = Queue::new(output, look, log.queue_bytes.bytes(), None)?;
    let (lines, form) = reload::Layer::new(look.layer(Sink::Queue(Arc::clone(&queue))));
    let current = Mutex::new(Current { log: log.clone(), place, queue });
    let handle = Handle(Some(Arc::new(Changeable { level, form, current })));
    Ok((handle, registry().with(filter).with(lines)))
}

impl Handle {
    /// A handle that changes nothing, for a process that logs in its own way, such as a test.
    pub fn none() -> Self {
        Self(None)
    }

    /// Logs as `log` says from now on; the file is opened anew. What was logged before goes where
    /// it was meant to go. If the change fails, nothing changes.
    pub fn change(&self, log: &Log) -> io::Result<()> {
        let Some(changeable) = &self.0 else { return Ok(()) };
        let mut current = changeable.current.lock().unwrap_or_else(PoisonError::into_inner);
        let output = Output::open(&log.file)?;
        let (place, look) = (output.place(), Form::of(log));
        let limit = log.queue_bytes.bytes();
        // What was not rotated away keeps its writer, and so the order of its lines.
        let queue = if place == current.place && place != output::Place::File(None) {
            current.queue.set(look, limit);
            Arc::clone(&current.queue)
        } else {
            Queue::new(output, look, limit, Some(Arc::clone(&current.queue)))?
        };
        let lines = look.layer(Sink::Queue(Arc::clone(&queue)));
        let changed = changeable.form.reload(lines);
        let changed = changed.and_then(|()| changeable.level.reload(targets(log.level)));
        changed.map_err(io::Error::other)?;
        let before = std::mem::replace(&mut current.queue, queue);
        if !Arc::ptr_eq(&before, &current.queue) {
            before.close();
        }
        current.log = log.clone();
        current.place = place;
        Ok(())
    }

    /// Opens the file anew and changes nothing else, for who has rotated it away.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(changeable) = &self.0 else { return Ok(()) };
        let current = changeable.current.lock().unwrap_or_else(PoisonError::into_inner);
        let log = current.log.clone();
        drop(current);
        self.change(&log)
    }

    /// Waits until all that was logged is written, a second at most: the process ends.
    pub fn flush(&self) {
        let Some(changeable) = &self.0 else { return };
        let current = changeable.current.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = Arc::clone(&current.queue);
        drop(current);
        queue.flush(LAST_LINES);
    }
}

/// A panic as a line of the log, with the way to it if `RUST_BACKTRACE` asks for it.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    let current = thread::current();
    tracing::error!(
        thread = current.name(),
        at = panic.location().map(tracing::field::display),
        backtrace = backtrace.map(tracing::field::display),
        "panic: {}",
        panic.payload_as_str().unwrap_or("no message")
    );
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

impl Form {
    /// What `log` asks for, where it leads.
    fn of(log: &Log) -> Self {
        if !log.file.as_os_str().is_empty() {
            return Self::at(log.format, End::Other);
        }
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        // https://no-color.org
        let plain = set("NO_COLOR").is_some() || set("TERM").is_some_and(|it| it == "dumb");
        let stream = env::var("JOURNAL_STREAM").ok();
        let end = if output::is_journal(stream.as_deref()) {
            End::Journal
        } else if io::stderr().is_terminal() {
            End::Terminal { colours: !plain }
        } else {
            End::Other
        };
        Self::at(log.format, end)
    }

    fn at(format: LogFormat, end: End) -> Self {
        match (format, end) {
            (LogFormat::Json, _) | (LogFormat::Auto, End::Other) => Self::Json,
            (_, End::Journal) => Self::Journal,
            (_, End::Terminal { colours }) => Self::Human { colours },
            (LogFormat::Human, End::Other) => Self::Human { colours: false },
        }
    }

    /// What makes lines of this form out of events.
    fn layer<S>(self, sink: Sink) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: tracing::Subscriber + for<'a> registry::LookupSpan<'a>,
    {
        let lines = fmt::layer().with_writer(Writer { sink, priorities: self == Self::Journal });
        match self {
            Self::Human { colours } => lines.with_ansi(colours).boxed(),
            Self::Journal => lines.with_ansi(false).without_time().boxed(),
            Self::Json => lines.json().flatten_event(true).boxed(),
        }
    }

    /// The line that an event looks like, one that is at least a warning.
    fn line(self, say: impl FnOnce()) -> Vec<u8> {
        let text = Arc::new(Mutex::new(Vec::new()));
        let layer = self.layer(Sink::Memory(Arc::clone(&text)));
        // Without the filter, events of lower levels would cost more from here on.
        let subscriber = registry().with(LevelFilter::WARN).with(layer);
        tracing::subscriber::with_default(subscriber, say);
        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *text)
    }
}

/// Takes lines.
#[derive(Clone)]
enum Sink {
    Queue(Arc<Queue>),
    Memory(Arc<Mutex<Vec<u8>>>),
}

/// Hands lines on as they are, or for the journal with their priority in front.
struct Writer {
    sink: Sink,
    priorities: bool,
}

/// One event's line.
struct Line<'a> {
    sink: &'a Sink,
    priority: Option<&'static str>,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { sink: &self.sink, priority: None }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        let priority = match *metadata.level() {
            tracing::Level::ERROR => "<3>",
            tracing::Level::WARN => "<4>",
            tracing::Level::INFO => "<6>",
            tracing::Level::DEBUG | tracing::Level::TRACE => "<7>",
        };
        Line { sink: &self.sink, priority: self.priorities.then_some(priority) }
    }
}

impl io::Write for Line<'_> {
    /// The whole event comes at once.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let prefixed;
        let line = if let Some(priority) = self.priority {
            // The journal takes each line for itself.
            let lines = text.split_inclusive(|byte| *byte == b'\n');
            prefixed =
                lines.flat_map(|line| [priority.as_bytes(), line]).collect::<Vec<_>>().concat();
            prefixed.as_slice()
        } else {
            text
        };
        match self.sink {
            Sink::Queue(queue) => queue.push(line),
            Sink::Memory(memory) => {
                memory.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
            }
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;

    use crate::config::value::Size;

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
        let log = |level, format| Log { level, format, file: path.clone(), ..Log::default() };
        let (handle, subscriber) = build(&log(Level::Info, LogFormat::Json)).unwrap();
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
            handle.flush();
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
    fn the_order_of_lines_outlasts_every_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = Log { file: path.clone(), queue_bytes: Size::mib(64), ..Log::default() };
        let (handle, subscriber) = build(&log).unwrap();
        with_default(subscriber, || {
            for number in 0..2000 {
                tracing::info!(number, "line");
                match number % 20 {
                    5 => handle.reopen().unwrap(),
                    10 => std::fs::rename(&path, path.with_extension(number.to_string())).unwrap(),
                    _ => {}
                }
            }
            handle.flush();
        });
        let rotated = (0..2000).map(|number| path.with_extension(number.to_string()));
        let files = rotated.chain([path.clone()]).filter(|file| file.exists());
        let text: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let numbers = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["number"].as_u64().unwrap()
        });
        assert!(numbers.eq(0..2000), "{text}");
    }

    #[test]
    fn the_form_depends_on_who_reads() {
        let (bright, plain) = (End::Terminal { colours: true }, End::Terminal { colours: false });
        let human = |colours| Form::Human { colours };
        for (format, end, form) in [
            (LogFormat::Auto, bright, human(true)),
            (LogFormat::Auto, plain, human(false)),
            (LogFormat::Auto, End::Journal, Form::Journal),
            (LogFormat::Auto, End::Other, Form::Json),
            (LogFormat::Human, bright, human(true)),
            (LogFormat::Human, End::Journal, Form::Journal),
            (LogFormat::Human, End::Other, human(false)),
            (LogFormat::Json, bright, Form::Json),
            (LogFormat::Json, End::Journal, Form::Json),
            (LogFormat::Json, End::Other, Form::Json),
        ] {
            assert_eq!(Form::at(format, end), form, "{format:?} {end:?}");
        }
    }

    #[test]
    fn a_panic_is_a_line_like_others() {
        let ours = thread::current().id();
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if thread::current().id() == ours { say_panic(panic) } else { others(panic) }
        }));
        let line = Form::Json.line(|| {
            assert!(panic::catch_unwind(|| panic!("oh \"no\"")).is_err());
        });
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            (&line["message"], &line["level"]),
            (&"panic: oh \"no\"".into(), &"ERROR".into())
        );
        assert!(line["at"].as_str().unwrap().contains("telemetry.rs:"), "{line}");
    }

    #[test]
    fn a_line_for_the_journal_begins_with_its_priority() {
        let line = Form::Journal.line(|| tracing::error!(key = "a\nb", "one\ntwo"));
        let line = String::from_utf8(line).unwrap();
        assert!(line.lines().all(|line| line.starts_with("<3>")), "{line}");
        assert!(line.starts_with("<3>ERROR ") && line.contains("one"), "{line}");
        let warning = Form::Journal.line(|| tracing::warn!("careful"));
        assert!(warning.starts_with(b"<4>"), "{warning:?}");
    }
}
