//! Lines on their way to the log: whoever logs puts one here and goes on, one thread writes.
//!
//! ```text
//!  events ─► form ─► push ─► lines, gaps, lines ─► the thread "log" ─► output
//!                      └ no room: the line is dropped, and a gap counts it where it would stand
//! ```
//!
//! A log that takes nothing (a pipe that nobody reads, a disk that hangs) stops its thread and
//! nobody else. What is dropped meanwhile is counted exactly, and told when the log goes on.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{Form, output::Output};
use crate::metrics::drop_log_lines;

/// What a line costs beside its bytes, so that many short ones are bounded, too.
const OVERHEAD: usize = 64;

/// Time that a file has to take its last lines before the next one gets any.
const HANDOVER: Duration = Duration::from_secs(1);

/// The way to one output. Its thread ends when the queue is closed and empty.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to write, or the end has come.
    stirred: Condvar,
    /// Everything is written.
    rested: Condvar,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    /// What the lines among them cost.
    bytes: usize,
    limit: usize,
    /// Lines are dropped until half of the room is free, so that gaps are few and long.
    dropping: bool,
    /// What the lines look like: a gap is told in the same way.
    form: Form,
    /// The thread waits for entries.
    idle: bool,
    closed: bool,
}

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// So many lines were dropped here.
    Gap(u64),
}

/// Lines that could not be written, and why.
struct Lost {
    lines: u64,
    why: String,
}

impl Queue {
    /// A queue with its thread, which begins when `before` is written out or takes too long.
    pub(super) fn new(
        output: Output,
        form: Form,
        limit: usize,
        before: Option<Arc<Self>>,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::of(form, limit));
        let ours = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            if let Some(before) = before {
                before.flush(HANDOVER);
            }
            ours.write_out(output);
        })?;
        Ok(queue)
    }

    fn of(form: Form, limit: usize) -> Self {
        let state = State {
            entries: VecDeque::new(),
            bytes: 0,
            limit,
            dropping: false,
            form,
            idle: false,
            closed: false,
        };
        Self { state: Mutex::new(state), stirred: Condvar::new(), rested: Condvar::new() }
    }

    /// Takes a line, or counts it among those that are dropped. Never waits for the log.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.has_room(line.len()) {
            state.bytes += cost(line.len());
            state.entries.push_back(Entry::Line(line.into()));
        } else {
            drop_log_lines(1);
            match state.entries.back_mut() {
                Some(Entry::Gap(lines)) => *lines += 1,
                _ => state.entries.push_back(Entry::Gap(1)),
            }
        }
        if std::mem::take(&mut state.idle) {
            self.stirred.notify_one();
        }
    }

    /// Another form and another bound from now on.
    pub(super) fn set(&self, form: Form, limit: usize) {
        let mut state = self.state();
        state.form = form;
        state.limit = limit;
    }

    /// Nothing more comes: the thread writes what is left, and ends.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.stirred.notify_one();
    }

    /// Waits until all is written, at most for so long; answers whether it is.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let state = self.state();
        let busy = |state: &mut State| !(state.entries.is_empty() && state.idle);
        let waited = self.rested.wait_timeout_while(state, patience, busy);
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// The thread.
    fn write_out(&self, mut output: Output) {
        let mut lost = Lost { lines: 0, why: String::new() };
        while let Some((entry, form)) = self.next() {
            if lost.lines > 0 && lost.tell(&mut output, form).is_err() {
                lost.count(&entry);
                continue;
            }
            let written = match &entry {
                Entry::Line(line) => output.write(line),
                Entry::Gap(lines) => {
                    let why = format!("because {} stood still", output.waited_for());
                    output.write(&gap(form, *lines, &why))
                }
            };
            if let Err(error) = written {
                lost.why = format!("because the log could not be written: {error}");
                lost.count(&entry);
            }
        }
        if lost.lines > 0 {
            let form = self.state().form;
            // It was the last chance.
            let _ = lost.tell(&mut output, form);
        }
    }

    /// Waits for what comes next; none at the end.
    fn next(&self) -> Option<(Entry, Form)> {
        let mut state = self.state();
        loop {
            if let Some(entry) = state.entries.pop_front() {
                if let Entry::Line(line) = &entry {
                    state.bytes = state.bytes.saturating_sub(cost(line.len()));
                }
                return Some((entry, state.form));
            }
            state.idle = true;
            self.rested.notify_all();
            if state.closed {
                return None;
            }
            state = self.stirred.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of what is inside is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&mut self, line: usize) -> bool {
        let bound = if self.dropping { self.limit / 2 } else { self.limit };
        // Of what is larger than the bound, one line at a time finds room.
        self.dropping = self.bytes > 0 && self.bytes.saturating_add(cost(line)) > bound;
        !self.dropping
    }
}

impl Lost {
    fn count(&mut self, entry: &Entry) {
        match entry {
            Entry::Line(_) => {
                drop_log_lines(1);
                self.lines += 1;
            }
            // They are in the metric since they were dropped.
            Entry::Gap(lines) => self.lines += lines,
        }
    }

    /// Says how many they are; then there are none any more.
    fn tell(&mut self, output: &mut Output, form: Form) -> io::Result<()> {
        output.write(&gap(form, self.lines, &self.why))?;
        self.lines = 0;
        Ok(())
    }
}

fn cost(line: usize) -> usize {
    line.saturating_add(OVERHEAD)
}

/// The line that tells of lines that are missing. Whatever the level is, it is worth a warning.
fn gap(form: Form, lines: u64, why: &str) -> Vec<u8> {
    let were = if lines == 1 { "log line was" } else { "log lines were" };
    form.line(|| tracing::warn!(dropped = lines, "{lines} {were} dropped {why}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    impl Queue {
        /// What is in it, in order: the number on a line, or how many are missing.
        fn drain(&self) -> Vec<Result<u64, u64>> {
            let mut state = self.state();
            state.bytes = 0;
            let entries = state.entries.drain(..).map(|entry| match entry {
                Entry::Line(line) => Ok(u64::from(line[0])),
                Entry::Gap(lines) => Err(lines),
            });
            entries.collect()
        }
    }

    proptest! {
        /// Whatever comes and goes: the order is kept, nothing is without a trace, and lines take
        /// no more than the bound and one line.
        #[test]
        fn what_is_not_written_is_counted_where_it_would_stand(
            limit in 0..2000usize,
            steps in prop::collection::vec((any::<bool>(), 1..300usize), 0..200),
        ) {
            let queue = Queue::of(Form::Json, limit);
            let mut number = 0u8;
            let mut told = Vec::new();
            for (push, length) in steps {
                if push {
                    queue.push(&vec![number; length]);
                    number = number.wrapping_add(1);
                } else if !queue.state().entries.is_empty() {
                    let entry = queue.next().unwrap().0;
                    told.push(match entry {
                        Entry::Line(line) => Ok(u64::from(line[0])),
                        Entry::Gap(lines) => Err(lines),
                    });
                }
                let state = queue.state();
                prop_assert!(state.bytes <= limit.max(cost(300)));
            }
            told.extend(queue.drain());
            let mut expected = 0;
            for entry in told {
                match entry {
                    Ok(number) => {
                        prop_assert_eq!(number, expected);
                        expected += 1;
                    }
                    Err(lines) => expected += lines,
                }
            }
            prop_assert_eq!(expected, u64::from(number));
        }
    }

    #[test]
    fn gaps_are_few_and_long() {
        let queue = Queue::of(Form::Json, 10 * cost(1));
        for _ in 0..100 {
            queue.push(b"x");
        }
        // One goes out, one comes in: still no room.
        for _ in 0..4 {
            queue.next().unwrap();
            queue.push(b"x");
        }
        assert_eq!(queue.state().entries.len(), 7, "six lines and a gap");
        queue.next().unwrap();
        queue.next().unwrap();
        queue.push(b"x");
        let last = queue.drain();
        assert_eq!(&last[last.len() - 2..], [Err(94), Ok(u64::from(b'x'))]);
    }

    #[test]
    fn a_log_that_can_not_be_written_says_so_once_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut full, mut free) =
            (Output::open(Path::new("/dev/full")).unwrap(), Output::open(&path).unwrap());
        let error = full.write(b"x").unwrap_err();
        let mut lost = Lost { lines: 0, why: format!("because of: {error}") };
        lost.count(&Entry::Line((*b"x").into()));
        lost.count(&Entry::Gap(6));
        assert!(lost.tell(&mut full, Form::Json).is_err());
        lost.tell(&mut free, Form::Json).unwrap();
        assert_eq!(lost.lines, 0);
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["dropped"], &line["level"]), (&7.into(), &"WARN".into()));
        assert!(line["message"].as_str().unwrap().starts_with("7 log lines were dropped because"));
    }
}
