//! The rows of the table: what is measured, and how.
//!
//! Where a row compares, both servers are up all the time and take turns, in stretches so short
//! that what else happens on the machine meets both alike: A-B-A-B. What is judged is the median of
//! the ratios of neighbours.

use std::{path::PathBuf, time::Duration};

use hdrhistogram::Histogram;

use crate::{
    Outcome,
    secure::Crowd,
    side::{Side, Window},
    table::{Bound, Figure, Report, Row},
};

/// Bytes of a message.
pub(crate) const SIZE: usize = 128;

/// How the run is to be.
pub(crate) struct Plan {
    pub(crate) gateway: PathBuf,
    /// Turns that each server has per row.
    pub(crate) turns: usize,
    /// Only these rows; none means all.
    pub(crate) only: Vec<String>,
}

/// Names of the rows, for the command line.
pub(crate) const NAMES: [&str; 18] = [
    "setup", "one", "ahead", "latency", "echo", "memory", "secure", "large", "storm", "stream",
    "groups", "apply", "events", "listened", "tokens", "hook", "attack", "floods",
];

/// Length of a turn: short against the time in which the machine changes its speed.
const STRETCH: Duration = Duration::from_millis(100);

impl Plan {
    fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// Turns of the rows in which one takes seconds.
    pub(crate) fn long_turns(&self) -> usize {
        self.turns.div_ceil(4)
    }

    pub(crate) fn gateway(&self) -> Outcome<Side> {
        Side::gateway(&self.gateway, &["websocket.messages=echo"])
    }

    /// Runs everything that is asked for.
    pub(crate) fn run(&self, report: &mut Report) -> Outcome<()> {
        if self.only.iter().any(|only| !["attack", "floods"].contains(&only.as_str()))
            || self.only.is_empty()
        {
            self.compare(report)?;
        }
        if self.has("attack") {
            self.attack(report)?;
        }
        if self.has("floods") {
            self.floods(report)?;
        }
        Ok(())
    }

    /// The rows of what the gateway does and costs when nobody means it ill.
    fn compare(&self, report: &mut Report) -> Outcome<()> {
        let mut raw = Side::raw_loop()?;
        let mut gateway = self.gateway()?;
        if self.has("setup") {
            self.set_up(&mut raw, &mut gateway, report)?;
        }
        let mut small = None;
        if self.has("large") {
            raw.connect(100)?;
            gateway.connect(100)?;
            small = Some(self.fan_out(&mut raw, &mut gateway, 1)?);
        }
        raw.connect(1000)?;
        gateway.connect(1000)?;
        if self.has("one") {
            let one = self.fan_out(&mut raw, &mut gateway, 1)?;
            let what = "CPU per delivery, one message at a time, 1,000 clients";
            report.add(one.row(what, 1.10, 1.05));
            report.add(one.shard_row("… shard threads alone", 1.05, 1.00));
        }
        if self.has("latency") {
            self.latency(&mut raw, &mut gateway, report)?;
        }
        if self.has("ahead") {
            let ahead = self.fan_out(&mut raw, &mut gateway, 4)?;
            report.add(ahead.row("CPU per delivery, publisher 4 messages ahead", 0.36, 0.28));
            report.add(ahead.shard_row("… shard threads alone", f64::NAN, f64::NAN));
        }
        if self.has("echo") {
            self.echo(&mut raw, &mut gateway, report)?;
        }
        drop(gateway);
        if self.has("memory") || self.has("large") {
            self.crowd(&mut raw, small, report)?;
        }
        if self.has("stream") || self.has("apply") {
            self.calls(report)?;
        }
        if self.has("groups") {
            self.groups(report)?;
        }
        if self.has("events") {
            self.events(report)?;
        }
        if self.has("listened") {
            self.listened(report)?;
        }
        if self.has("tokens") {
            self.tokens(report)?;
        }
        if self.has("hook") {
            self.hook(report)?;
        }
        if self.has("secure") {
            self.secure(report)?;
        }
        if self.has("storm") {
            self.storm(report)?;
        }
        Ok(())
    }

    fn set_up(&self, raw: &mut Side, gateway: &mut Side, report: &mut Report) -> Outcome<()> {
        const CLIENTS: usize = 4000;
        // The first connections also pay for what is made once.
        for side in [&mut *raw, &mut *gateway] {
            side.connect(100)?;
            side.disconnect()?;
        }
        let mut pairs = Pairs::default();
        for _ in 0..self.long_turns() {
            let cost = |side: &mut Side| -> Outcome<(f64, f64)> {
                let cpu = side.cost_of_connecting(CLIENTS)?;
                side.disconnect()?;
                let per = |time: Duration| time.as_secs_f64() * 1e6 / CLIENTS as f64;
                Ok((per(cpu.process), per(cpu.shards)))
            };
            pairs.add(cost(raw)?, cost(gateway)?, 1.0);
        }
        report.add(pairs.absolute("CPU per connection set-up", "µs", 40.0, 20.0));
        Ok(())
    }

    pub(crate) fn fan_out(
        &self,
        raw: &mut Side,
        gateway: &mut Side,
        ahead: usize,
    ) -> Outcome<Pairs> {
        let stretch = |side: &mut Side| -> Outcome<Window> {
            side.window(|publisher| publisher.burst(ahead, SIZE, STRETCH))
        };
        let mut pairs = Pairs::default();
        for _ in 0..self.turns {
            let (raw, gateway) = (stretch(raw)?, stretch(gateway)?);
            let idle = raw.tally.idle.min(gateway.tally.idle);
            pairs.add(raw.per_message(), gateway.per_message(), idle);
        }
        Ok(pairs)
    }

    /// The time until the last of 1,000 clients has a message, counted from when it was meant to
    /// be sent, at seven tenths of what the raw loop can do.
    fn latency(&self, raw: &mut Side, gateway: &mut Side, report: &mut Report) -> Outcome<()> {
        /// Time in which it is found out what the raw loop can do.
        const CAPACITY: Duration = Duration::from_secs(1);
        /// Length of a turn.
        const SECONDS: f64 = 3.0;
        let mut pairs = Pairs::default();
        let mut halves = Pairs::default();
        raw.prompt(true)?;
        gateway.prompt(true)?;
        // What it can do with clients that read at once, for whom sending is dearer.
        let most = raw.window(|publisher| publisher.burst(1, SIZE, CAPACITY))?.tally.messages;
        let every = CAPACITY.mul_f64(1000.0 / most as f64 / 0.7);
        let messages = (SECONDS / every.as_secs_f64()) as u64;
        for _ in 0..self.long_turns() {
            let stretch = |side: &mut Side| -> Outcome<Window> {
                side.window(|publisher| {
                    publisher.paced(messages, every, SIZE)?;
                    Ok(messages)
                })
            };
            let (raw, gateway) = (stretch(raw)?, stretch(gateway)?);
            let idle = raw.tally.idle.min(gateway.tally.idle);
            let delay = |window: &Window, quantile: f64| -> Outcome<f64> {
                let mut delays = Histogram::<u64>::new(3)?;
                for &(nanos, count) in &window.tally.delays {
                    delays.record_n(nanos, count)?;
                }
                Ok(delays.value_at_quantile(quantile) as f64 / 1000.0)
            };
            let both = |quantile| {
                Ok::<_, Box<dyn std::error::Error>>((
                    delay(&raw, quantile)?,
                    delay(&gateway, quantile)?,
                ))
            };
            let (raw_99, gateway_99) = both(0.99)?;
            let (raw_50, gateway_50) = both(0.5)?;
            pairs.add((raw_99, raw_99), (gateway_99, gateway_99), idle);
            halves.add((raw_50, raw_50), (gateway_50, gateway_50), idle);
        }
        raw.prompt(false)?;
        gateway.prompt(false)?;
        report.add(pairs.row("p99 of the last receiver at 70 % load, open loop", 1.5, 1.1));
        report.add(halves.row("… median", f64::NAN, f64::NAN));
        Ok(())
    }

    fn echo(&self, raw: &mut Side, gateway: &mut Side, report: &mut Report) -> Outcome<()> {
        let mut pairs = Pairs::default();
        for _ in 0..self.turns {
            let (raw, gateway) = (raw.echo(SIZE, STRETCH)?, gateway.echo(SIZE, STRETCH)?);
            let idle = raw.tally.idle.min(gateway.tally.idle);
            pairs.add(raw.per_message(), gateway.per_message(), idle);
        }
        let mut row =
            pairs.row("echo of 128 B, CPU per echo; judged: raw loop ÷ gateway", 0.0, 0.0);
        row.judged = Figure::of(pairs.ratios().into_iter().map(|ratio| 1.0 / ratio).collect());
        (row.must, row.goal) = (Some(Bound::Least(0.9)), Some(Bound::Least(1.0)));
        report.add(row);
        Ok(())
    }

    /// 18,000 clients: what they cost when they do nothing, and whether numbers make a delivery
    /// dearer.
    fn crowd(&self, raw: &mut Side, small: Option<Pairs>, report: &mut Report) -> Outcome<()> {
        const CROWD: usize = 18_000;
        const PING: u64 = 25;
        let mut gateway = self.gateway()?;
        let before = gateway.memory()?;
        gateway.connect(CROWD)?;
        if self.has("memory") {
            gateway.publisher.bind_and_join()?;
            let window = gateway.idle(Duration::from_secs(PING))?;
            if window.tally.pings != CROWD as u64 {
                eprintln!("note: {} pings for {CROWD} clients", window.tally.pings);
            }
            let grown = gateway.memory()?.saturating_sub(before);
            let memory = grown as f64 / CROWD as f64;
            report.add(alone(
                "user memory per idle client, 18,000 with uid and group",
                "B",
                memory,
                768.0,
                384.0,
            ));
            let cpu = window.cpu.process.as_secs_f64() * 1e6 / CROWD as f64 / PING as f64;
            report.add(alone("CPU per idle client, pinged every 25 s", "µs/s", cpu, 1.0, 0.3));
        }
        if self.has("large") {
            raw.connect(CROWD)?;
            let large = self.fan_out(raw, &mut gateway, 1)?;
            report.add(large.row(
                "CPU per delivery, one message at a time, 18,000 clients",
                f64::NAN,
                f64::NAN,
            ));
            if let Some(small) = small {
                report.add(small.row("… 100 clients", f64::NAN, f64::NAN));
                let growth = large.judged().median / small.judged().median;
                report.add(Row {
                    what: "growth of the cost per delivery from 100 to 18,000 clients, against the raw loop's".to_owned(),
                    unit: "×",
                    raw_loop: Some(Figure::of(vec![large.raw().median / small.raw().median])),
                    gateway: Figure::of(vec![large.gateway().median / small.gateway().median]),
                    judged: Figure::of(vec![growth]),
                    must: Some(Bound::Most(1.2)),
                    goal: Some(Bound::Most(1.0)),
                    generator_was_busy: false,
                });
            }
        }
        Ok(())
    }

    /// The modern API: messages to single clients over a stream, and changes.
    fn calls(&self, report: &mut Report) -> Outcome<()> {
        const CROWD: usize = 1000;
        /// Messages to each client in one turn.
        const ROUNDS: usize = 10;
        let mut gateway = self.gateway()?;
        gateway.connect(CROWD)?;
        let clients = gateway.publisher.grpc()?.clients()?;
        if self.has("stream") {
            let (mut control, mut shards) = (Vec::new(), Vec::new());
            for _ in 0..self.long_turns() {
                let window = gateway.window_of(|publisher| {
                    publisher.grpc()?.stream(&clients, ROUNDS, SIZE)?;
                    Ok((ROUNDS * CROWD) as u64)
                })?;
                let (process, shard) = window.per_message();
                control.push(process - shard);
                shards.push(shard);
            }
            let what = "CPU per message to one client over SendStream, control side";
            report.add(figures(what, control, 2.5));
            report.add(figures("… shard threads", shards, f64::NAN));
        }
        if self.has("apply") {
            let mut costs = Vec::new();
            for _ in 0..self.turns {
                let (cpu, done) =
                    gateway.cost_of(|publisher| publisher.grpc()?.apply(&clients, STRETCH))?;
                costs.push(cpu.process.as_secs_f64() * 1e6 / done.max(1) as f64);
            }
            report.add(figures("CPU per Apply (uid, two groups, an attribute)", costs, f64::NAN));
        }
        Ok(())
    }

    /// The modern API: one call that sends to a group.
    fn groups(&self, report: &mut Report) -> Outcome<()> {
        const CROWD: usize = 18_000;
        let mut gateway = self.gateway()?;
        gateway.connect(CROWD)?;
        let clients = gateway.publisher.grpc()?.clients()?;
        for size in [10, 1000, CROWD] {
            let group = format!("of-{size}");
            gateway.publisher.grpc()?.join(&clients[..size], &group)?;
            let mut costs = Vec::new();
            for _ in 0..self.long_turns() {
                let mut calls = 0;
                let window = gateway.window_of(|publisher| {
                    calls = publisher.grpc()?.send_to(&group, SIZE, STRETCH)?;
                    Ok(calls * size as u64)
                })?;
                costs.push(window.cpu.process.as_secs_f64() * 1e6 / calls.max(1) as f64);
            }
            report.add(figures(&format!("CPU per Send to a group of {size}"), costs, f64::NAN));
        }
        Ok(())
    }

    /// What an idle client takes that is connected over TLS.
    fn secure(&self, report: &mut Report) -> Outcome<()> {
        const CROWD: usize = 2000;
        let mut crowd = Crowd::new()?;
        let set = crowd.settings();
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let gateway = Side::gateway(&self.gateway, &set)?;
        let address = gateway.tls.ok_or("no TLS address")?;
        // The first connections also pay for what is made once.
        crowd.grow(address, 100)?;
        let before = gateway.memory()?;
        crowd.grow(address, CROWD)?;
        let bytes = gateway.memory()?.saturating_sub(before) as f64 / CROWD as f64;
        report.add(alone("memory per idle client over TLS", "bytes", bytes, f64::NAN, f64::NAN));
        Ok(())
    }

    /// A crowd that doesn't read, with a thousand messages queued for each, and then gone: what memory stays.
    fn storm(&self, report: &mut Report) -> Outcome<()> {
        const CROWD: usize = 18_000;
        let set = [
            "limits.queue_messages=2000",
            "websocket.send_buffer=\"4 KiB\"",
            "limits.queued_bytes=\"8 GiB\"",
        ];
        let mut gateway = Side::gateway(&self.gateway, &set)?;
        gateway.connect_with_buffer(CROWD, 4096)?;
        gateway.publisher.bind_and_join()?;
        let calm = gateway.memory()?;
        gateway.deafen()?;
        gateway.publisher.paced(1000, Duration::ZERO, 1024)?;
        let peak = gateway.memory()?;
        gateway.disconnect()?;
        for (after, wait) in [(1, 1), (10, 9)] {
            std::thread::sleep(Duration::from_secs(wait));
            let left = gateway.memory()?;
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let what = format!(
                "memory {after} s after {CROWD} clients with full queues are gone (calm {:.0}, peak {:.0})",
                mib(calm),
                mib(peak)
            );
            report.add(alone(&what, "MiB", mib(left), f64::NAN, f64::NAN));
        }
        Ok(())
    }
}

/// What the two servers took, turn by turn: the whole process and the shards.
#[derive(Default)]
pub(crate) struct Pairs {
    raw: Vec<f64>,
    gateway: Vec<f64>,
    shards: Vec<f64>,
    busy: bool,
}

impl Pairs {
    pub(crate) fn add(&mut self, (raw, _): (f64, f64), (gateway, shards): (f64, f64), idle: f64) {
        self.raw.push(raw);
        self.gateway.push(gateway);
        self.shards.push(shards);
        self.busy |= idle < 0.05;
    }

    fn raw(&self) -> Figure {
        Figure::of(self.raw.clone())
    }

    fn gateway(&self) -> Figure {
        Figure::of(self.gateway.clone())
    }

    fn ratios(&self) -> Vec<f64> {
        self.gateway.iter().zip(&self.raw).map(|(gateway, raw)| gateway / raw).collect()
    }

    fn judged(&self) -> Figure {
        Figure::of(self.ratios())
    }

    /// A row that is judged by the ratio; a bound that is no number is none.
    pub(crate) fn row(&self, what: &str, must: f64, goal: f64) -> Row {
        let bound = |bound: f64| (!bound.is_nan()).then_some(Bound::Most(bound));
        Row {
            what: what.to_owned(),
            unit: "µs",
            raw_loop: Some(self.raw()),
            gateway: self.gateway(),
            judged: self.judged(),
            must: bound(must),
            goal: bound(goal),
            generator_was_busy: self.busy,
        }
    }

    /// The same for the threads that hold the sockets.
    fn shard_row(&self, what: &str, must: f64, goal: f64) -> Row {
        let ratios = self.shards.iter().zip(&self.raw).map(|(shards, raw)| shards / raw);
        Row {
            gateway: Figure::of(self.shards.clone()),
            judged: Figure::of(ratios.collect()),
            ..self.row(what, must, goal)
        }
    }

    /// A row that is judged by the gateway's own figure.
    pub(crate) fn absolute(&self, what: &str, unit: &'static str, must: f64, goal: f64) -> Row {
        Row { unit, judged: self.gateway(), ..self.row(what, must, goal) }
    }
}

/// A row of the gateway's own, in microseconds.
pub(crate) fn figures(what: &str, values: Vec<f64>, must: f64) -> Row {
    let pairs = Pairs { gateway: values, ..Pairs::default() };
    Row { raw_loop: None, ..pairs.absolute(what, "µs", must, f64::NAN) }
}

/// A row without a baseline.
pub(crate) fn alone(what: &str, unit: &'static str, value: f64, must: f64, goal: f64) -> Row {
    let pairs = Pairs { gateway: vec![value], ..Pairs::default() };
    Row { raw_loop: None, ..pairs.absolute(what, unit, must, goal) }
}
