//! What people read: answers of the running gateway as text. Pure functions.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::announcement::Announcement;
use crate::config::{MOST_TOLD, value::Size};
use crate::lifecycle::{ChangedKey, Drained, Reloaded};
use crate::status::{CertificateStatus, DrainStatus, Listeners, Phase, Status, counted, grouped};

/// Lines of a name and a value, the values one under the other.
#[derive(Default)]
struct Table(Vec<(&'static str, String)>);

impl Table {
    fn row(&mut self, name: &'static str, value: impl Display) {
        self.0.push((name, value.to_string()));
    }

    /// A row that is left out if there is nothing to say.
    fn some(&mut self, name: &'static str, value: String) {
        if !value.is_empty() {
            self.0.push((name, value));
        }
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = self.0.iter().map(|(name, value)| format!("{name:width$}  {value}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A certificate that has fewer days left needs attention: by then it should have been renewed.
const EXPIRING: i64 = 14;

/// The supervisor shows itself every second, but for the time that a reload takes.
const STUCK: u64 = 10;

/// The answer of `status`: what is wrong stands at the top, if anything is.
pub(super) fn status(status: &Status) -> String {
    let mut table = Table::default();
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Ready => "in service",
        Phase::Draining => "draining: no new clients",
        Phase::Stopping => "stopping",
    };
    table.row("state", phase);
    table.some("drain", status.drain.as_ref().map(DrainStatus::text).unwrap_or_default());
    if status.supervisor_idle_seconds >= STUCK {
        let idle = age(status.supervisor_idle_seconds);
        table.row(
            "STUCK",
            format!("the supervisor has done nothing for {idle}: no stop, no reload"),
        );
    }
    for fault in &status.config.faults {
        let ago = age(status.taken_at.saturating_sub(status.config.tried_at));
        table.row("FAULT", format!("reload refused {ago} ago: {fault}"));
    }
    if let Some(trouble) = &status.config.unwatched {
        table.row("UNWATCHED", format!("{trouble} (SIGHUP and `reload` read the files)"));
    }
    table.some("PENDING", pending(&status.config.pending));
    for certificate in status.certificates.iter().filter(|it| it.days_left < EXPIRING) {
        table.row("EXPIRING", expiry(certificate));
    }
    table.row("process", format!("pid {}, version {}", status.pid, status.version));
    table.row("running for", age(status.uptime_seconds));
    listeners(&mut table, &status.listeners);
    for certificate in status.certificates.iter().filter(|it| it.days_left >= EXPIRING) {
        table.row("certificate", expiry(certificate));
    }
    table.row("clients", grouped(status.clients));
    table.row("users", grouped(status.users));
    table.row("groups", grouped(status.groups));
    table.row("shards", status.shards);
    table.row("memory", amount(status.memory_bytes));
    table.row("cpu time", format!("{:.1} s", status.cpu_seconds));

    let messages = &status.messages;
    let received = format!("{} ({})", grouped(messages.received), amount(messages.bytes_received));
    table.row("received", received);
    let sent = format!("{} ({})", grouped(messages.sent), amount(messages.bytes_sent));
    table.row("sent", sent);
    let waiting = format!(
        "{} to clients, {} from clients",
        amount(messages.queued_bytes),
        amount(messages.partial_bytes)
    );
    table.row("waiting", waiting);
    if messages.waiting_clients > 0 {
        let waiting = counted(messages.waiting_clients, "client");
        table.row("paused", format!("{waiting} not read: no room for events (events.when_full)"));
    }
    table.some("dropped", by_cause(&messages.dropped));
    table.row("opened", grouped(status.opened));
    table.some("closed", by_cause(&status.closed));
    table.some("turned away", by_cause(&status.refused));

    let file = status.config.file.as_deref();
    let file = file.map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    let config = &status.config;
    let ago = age(status.taken_at.saturating_sub(config.loaded_at));
    let loads = format!("generation {}, loaded {ago} ago", config.generation);
    table.row("configuration", format!("{file}, {loads}"));
    table.text()
}

/// What `start` says when the gateway is ready.
pub(super) fn started(announcement: &Announcement, log_file: &Path) -> String {
    let mut table = Table::default();
    table.row("started", format!("pid {}", announcement.pid));
    listeners(&mut table, &announcement.listeners);
    if log_file.as_os_str().is_empty() {
        table.row("log", "nowhere (set log.file to keep it)");
    } else {
        table.row("log", log_file.display());
    }
    table.text()
}

/// How a drain ended.
pub(super) fn drained(drained: Drained) -> String {
    let clients = counted(drained.closed, "client");
    match drained.cut_off {
        0 => format!("closed {clients}"),
        cut => format!("closed {clients}, {} of them without an answer", grouped(cut)),
    }
}

/// What an accepted reload changed, and whom it reaches; a refused one has [`faults`].
pub(super) fn reloaded(reloaded: &Reloaded) -> String {
    let changed = match reloaded {
        Reloaded::Accepted { changed, .. } => changed,
        Reloaded::Refused { faults: lines } => return faults("reload refused:", lines),
    };
    if changed.is_empty() {
        return "reloaded, nothing changed".to_owned();
    }
    let head = format!("reloaded, {} changed", counted(changed.len() as u64, "key"));
    std::iter::once(head).chain(changes(changed)).collect::<Vec<_>>().join("\n")
}

/// What a reload would change, and whom it would reach; what it would be refused for has [`faults`].
pub(super) fn planned(planned: &Reloaded) -> String {
    let changed = match planned {
        Reloaded::Accepted { changed, .. } => changed,
        Reloaded::Refused { faults: lines } => return faults("a reload would be refused:", lines),
    };
    if changed.is_empty() {
        return "a reload would change nothing".to_owned();
    }
    let head = format!("a reload would change {}", counted(changed.len() as u64, "key"));
    std::iter::once(head).chain(changes(changed)).collect::<Vec<_>>().join("\n")
}

fn changes(changed: &[ChangedKey]) -> impl Iterator<Item = String> {
    changed.iter().map(|key| format!("  {}: {} -> {} ({})", key.key, key.old, key.new, key.effect))
}

/// Faults, one line each, under a line that counts them.
pub(super) fn faults(before: &str, lines: &[String]) -> String {
    let count = match lines.len() {
        few if few <= MOST_TOLD => counted(few as u64, "fault"),
        _ => format!("more than {}", counted(MOST_TOLD as u64, "fault")),
    };
    let mut text = format!("{before} {count}");
    for line in lines {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

fn listeners(table: &mut Table, listeners: &Listeners) {
    let joined = |list: &[std::net::SocketAddr]| {
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    table.some("websocket", joined(&listeners.websocket));
    table.some("tls", joined(&listeners.tls));
    table.some("grpc", joined(&listeners.grpc));
    table.some("admin", joined(&listeners.admin));
    match &listeners.control {
        Some(path) => table.row("control", path.display()),
        None => table.row("control", "none: no directory for the socket could be used"),
    }
}

fn expiry(certificate: &CertificateStatus) -> String {
    let CertificateStatus { key, subject, until, days_left, .. } = certificate;
    match days_left {
        ..0 => format!("{key}: {subject} expired on {until}"),
        &days => {
            let left = counted(days.unsigned_abs(), "day");
            format!("{key}: {subject} until {until}, {left} left")
        }
    }
}

fn pending(keys: &[String]) -> String {
    match keys {
        [] => String::new(),
        keys => format!("{} (a restart puts them in force)", keys.join(", ")),
    }
}

/// `slow 3, silent 1`: the most frequent first.
fn by_cause(counts: &BTreeMap<String, u64>) -> String {
    let mut causes: Vec<_> = counts.iter().collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let name = |cause: &str| match cause {
        // A cause of its own among others for which clients were turned away.
        "refused" => "bad request".to_owned(),
        other => other.to_owned(),
    };
    let texts = causes.iter().map(|(cause, count)| format!("{} {}", name(cause), grouped(**count)));
    texts.collect::<Vec<_>>().join(", ")
}

/// `3d 4h`: the two largest units.
fn age(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `12.3 MiB`: rounded, for a glance; the exact number is in the JSON.
fn amount(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        let whole = bytes >> shift;
        if whole > 0 {
            // Tenths by integers: the part below the unit, which is under 2^40.
            let tenths = ((bytes - (whole << shift)) * 10) >> shift;
            return format!("{whole}.{tenths} {unit}");
        }
    }
    Size(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ConfigStatus, Messages};

    fn picture() -> Status {
        Status {
            version: "2.0.0".into(),
            pid: 4711,
            taken_at: 1_900_000_100,
            phase: Phase::Ready,
            uptime_seconds: 273_905,
            listeners: Listeners {
                websocket: vec!["0.0.0.0:20818".parse().unwrap(), "[::]:20818".parse().unwrap()],
                tls: Vec::new(),
                grpc: vec!["127.0.0.1:20819".parse().unwrap()],
                admin: Vec::new(),
                control: Some("/run/gateway-websocket/control.sock".into()),
            },
            cpu_seconds: 12.34,
            memory_bytes: 12_900_000,
            shards: 2,
            clients: 18_000,
            users: 950,
            groups: 7,
            messages: Messages {
                received: 5,
                sent: 1_234_567,
                bytes_received: 600,
                bytes_sent: 3 << 30,
                dropped: BTreeMap::from([("slow".into(), 3), ("budget".into(), 20)]),
                ..Messages::default()
            },
            opened: 20_000,
            closed: BTreeMap::from([("peer".into(), 2_000)]),
            refused: BTreeMap::new(),
            certificates: vec![CertificateStatus {
                key: "tls.certificate".into(),
                subject: "CN=example.com".into(),
                until: "2031-03-01".into(),
                not_after: 1_930_089_600,
                days_left: 60,
            }],
            config: ConfigStatus {
                generation: 2,
                loaded_at: 1_900_000_000,
                tried_at: 1_900_000_090,
                ..ConfigStatus::default()
            },
            drain: None,
            supervisor_idle_seconds: 0,
        }
    }

    #[test]
    fn a_status_is_a_table_that_can_be_read_at_night() {
        let expected = "\
state          in service
process        pid 4711, version 2.0.0
running for    3d 4h
websocket      0.0.0.0:20818, [::]:20818
grpc           127.0.0.1:20819
control        /run/gateway-websocket/control.sock
certificate    tls.certificate: CN=example.com until 2031-03-01, 60 days left
clients        18,000
users          950
groups         7
shards         2
memory         12.3 MiB
cpu time       12.3 s
received       5 (600 B)
sent           1,234,567 (3.0 GiB)
waiting        0 B to clients, 0 B from clients
dropped        budget 20, slow 3
opened         20,000
closed         peer 2,000
configuration  no file, generation 2, loaded 1m 40s ago";
        assert_eq!(status(&picture()), expected);
    }

    #[test]
    fn a_status_tells_of_clients_that_are_not_read() {
        let mut picture = picture();
        picture.messages.waiting_clients = 12;
        let told = "paused         12 clients not read: no room for events (events.when_full)\n";
        assert!(status(&picture).contains(told), "{}", status(&picture));
    }

    #[test]
    fn what_needs_attention_stands_at_the_top() {
        let mut picture = picture();
        picture.phase = Phase::Draining;
        picture.config.faults = vec!["x.toml: shards = 0".into()];
        picture.config.unwatched = Some("/etc: too many watches".into());
        picture.config.pending = vec!["shards".into(), "grpc.listen".into()];
        picture.certificates[0].days_left = 3;
        let drain = DrainStatus { closed: 812, left: 2_188, connections: 2_190, seconds_left: 9 };
        picture.drain = Some(drain);
        picture.supervisor_idle_seconds = 75;
        let text = status(&picture);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "state          draining: no new clients");
        let drain = "drain          812 of 3,000 clients closed, at most 9 s left";
        assert_eq!(lines[1], drain);
        let stuck = "STUCK          the supervisor has done nothing for 1m 15s: no stop, no reload";
        assert_eq!(lines[2], stuck);
        let lines = &lines[2..];
        assert_eq!(lines[1], "FAULT          reload refused 10s ago: x.toml: shards = 0");
        let unwatched =
            "UNWATCHED      /etc: too many watches (SIGHUP and `reload` read the files)";
        assert_eq!(lines[2], unwatched);
        assert_eq!(lines[3], "PENDING        shards, grpc.listen (a restart puts them in force)");
        let expiring =
            "EXPIRING       tls.certificate: CN=example.com until 2031-03-01, 3 days left";
        assert_eq!(lines[4], expiring);
        picture.certificates[0].days_left = 1;
        assert!(status(&picture).contains("until 2031-03-01, 1 day left"));
        picture.refused = BTreeMap::from([("refused".into(), 3), ("full".into(), 2)]);
        assert!(status(&picture).contains("\nturned away    bad request 3, full 2\n"));
        picture.certificates[0].days_left = -1;
        assert!(status(&picture).contains("CN=example.com expired on 2031-03-01"));
    }

    #[test]
    fn a_start_says_where_it_listens_and_what_becomes_of_the_log() {
        let mut announcement = Announcement { pid: 9, listeners: Listeners::default() };
        announcement.listeners.websocket = vec!["127.0.0.1:5".parse().unwrap()];
        assert_eq!(
            started(&announcement, Path::new("")),
            "started    pid 9\nwebsocket  127.0.0.1:5\n\
             control    none: no directory for the socket could be used\n\
             log        nowhere (set log.file to keep it)"
        );
        assert!(started(&announcement, Path::new("/l")).ends_with("log        /l"));
    }

    #[test]
    fn drains_count_who_was_closed_and_who_was_cut_off() {
        assert_eq!(drained(Drained { closed: 0, cut_off: 0 }), "closed 0 clients");
        assert_eq!(drained(Drained { closed: 1, cut_off: 0 }), "closed 1 client");
        let cut = drained(Drained { closed: 1_200, cut_off: 3 });
        assert_eq!(cut, "closed 1,200 clients, 3 of them without an answer");
    }

    #[test]
    fn reloads_list_what_changed_or_what_is_wrong() {
        let changed = vec![ChangedKey {
            key: "limits.names".into(),
            old: "256".into(),
            new: "64".into(),
            effect: "live".into(),
        }];
        assert_eq!(
            reloaded(&Reloaded::Accepted { changed, generation: 2 }),
            "reloaded, 1 key changed\n  limits.names: 256 -> 64 (live)"
        );
        let nothing = Reloaded::Accepted { changed: Vec::new(), generation: 2 };
        assert_eq!(planned(&nothing), "a reload would change nothing");
        assert_eq!(reloaded(&nothing), "reloaded, nothing changed");
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(faults("there are", &lines), "there are 2 faults\n  a\n  b");
    }

    #[test]
    fn numbers_are_short_enough_for_a_glance() {
        assert_eq!(age(59), "59s");
        assert_eq!(age(61), "1m 1s");
        assert_eq!(age(7_260), "2h 1m");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(amount(0), "0 B");
        assert_eq!(amount(1_023), "1023 B");
        assert_eq!(amount(1_536), "1.5 KiB");
        assert!(amount(u64::MAX).ends_with(" TiB"));
    }
}
