//! The result: one table for people, the same as JSON for programs.

use std::{fmt::Write as _, fs};

use serde::Serialize;

use crate::Outcome;

/// A figure that was measured several times.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Figure {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(values.len() / 2)),
            least: at(0),
            most: at(last),
        }
    }

    fn text(self) -> String {
        let digits = match self.most.abs() {
            100.0.. => 0,
            10.0.. => 1,
            0.5.. => 2,
            _ => 3,
        };
        if self.least.total_cmp(&self.most).is_eq() {
            return format!("{:.digits$}", self.median);
        }
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// What the raw loop took, where it does such a thing at all.
    pub(crate) raw_loop: Option<Figure>,
    pub(crate) gateway: Figure,
    /// What is held against `must` and `goal`: the ratio to the raw loop, or the gateway's figure.
    pub(crate) judged: Figure,
    pub(crate) must: Option<Bound>,
    pub(crate) goal: Option<Bound>,
    /// The generator had less than a twentieth of its time to spare: the figure may be its own.
    pub(crate) generator_was_busy: bool,
}

/// What a figure has to keep to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Bound {
    Most(f64),
    Least(f64),
}

impl Bound {
    fn is_kept_by(self, value: f64) -> bool {
        match self {
            Self::Most(most) => value <= most,
            Self::Least(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Most(most) => format!("≤ {most}"),
            Self::Least(least) => format!("≥ {least}"),
        }
    }
}

impl Row {
    fn verdict(&self) -> String {
        let is_kept = |bound: Option<Bound>| bound.map(|it| it.is_kept_by(self.judged.median));
        let verdict = match (is_kept(self.must), is_kept(self.goal)) {
            (None, None) => "–",
            (_, Some(true)) => "goal met",
            (Some(false), _) => "**missed**",
            _ => "met",
        };
        let busy = if self.generator_was_busy { "; generator saturated" } else { "" };
        format!("{verdict}{busy}")
    }

    fn line(&self) -> String {
        let bound = |bound: Option<Bound>| bound.map_or_else(|| "–".to_owned(), Bound::text);
        let raw = self.raw_loop.map_or_else(|| "–".to_owned(), Figure::text);
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.what,
            self.unit,
            raw,
            self.gateway.text(),
            self.judged.text(),
            bound(self.must),
            bound(self.goal),
            self.verdict()
        )
    }
}

/// All that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) gateway: String,
    pub(crate) machine: String,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(gateway: String) -> Self {
        Self { gateway, machine: machine(), rows: Vec::new() }
    }

    /// Adds a row and shows it at once: a run takes minutes.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{} · {}\n\n", self.gateway, self.machine);
        text.push_str(
            "| what | unit | raw loop | gateway | judged | must | goal | verdict |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.line());
        }
        text
    }

    /// Keeps the figures under `target/`, and answers where.
    pub(crate) fn keep(&self) -> Outcome<String> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");
        fs::create_dir_all(folder)?;
        fs::write(format!("{folder}/gateway.json"), serde_json::to_string_pretty(self)?)?;
        Ok("target/bench/gateway.json".to_owned())
    }
}

/// Processor, cores and kernel.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let name = name.trim_start_matches([' ', '\t', ':']).to_owned();
    // Of the machine, not of this thread, which keeps to one.
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    format!("{name}, {cores} cores, Linux {kernel}")
}
