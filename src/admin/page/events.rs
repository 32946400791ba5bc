//! Consumer groups, on the page of metrics.

use std::{collections::BTreeMap, fmt};

use super::super::sheet::{BYTES, Sheet};
use crate::events::{Events, Stats};

/// What all groups are called together that the configuration doesn't name: theirs are words that
/// came over the network.
const OTHER: &str = "other";

/// Writes how it stands with each group.
pub(super) fn write(sheet: &mut Sheet<'_>, events: &Events) -> fmt::Result {
    let mut groups = BTreeMap::<String, Vec<Stats>>::new();
    for (name, stats) in events.stats() {
        let name = if stats.configured { name.to_string() } else { OTHER.to_owned() };
        groups.entry(name).or_default().push(stats);
    }
    counters(sheet, &groups)?;
    gauges(sheet, &groups)
}

type Groups = BTreeMap<String, Vec<Stats>>;
/// Finds a number.
type Of = fn(&Stats) -> u64;
/// Numbers, each with the kind of event that it counts.
type Kinds<'a> = &'a [(&'a str, Of)];

fn counters(sheet: &mut Sheet<'_>, groups: &Groups) -> fmt::Result {
    let kinds: Kinds<'_> = &[
        ("opened", |stats| stats.opened),
        ("message", |stats| stats.messages),
        ("closed", |stats| stats.closed),
    ];
    let help = "Events that a consumer group was told, by kind.";
    let mut rows = sheet.counters("events_appended", None, help)?;
    by_kind(groups, kinds, |labels, value| rows.row(labels, value))?;
    let plain: [(&str, &str, Of); 3] = [
        ("events_delivered", "Items given to subscribers.", |stats| stats.delivered),
        ("events_redelivered", "Items given to subscribers again.", |stats| stats.redelivered),
        ("events_acknowledged", "Items that were acknowledged.", |stats| stats.acknowledged),
    ];
    for (name, help, of) in plain {
        let mut rows = sheet.counters(name, None, help)?;
        for (group, stats) in groups {
            rows.row(&[("group", group)], sum(stats, of))?;
        }
    }
    let kinds: Kinds<'_> =
        &[("message", |stats| stats.missed_messages), ("change", |stats| stats.missed_changes)];
    let help = "Events that were dropped for want of room, by kind.";
    let mut rows = sheet.counters("events_missed", None, help)?;
    by_kind(groups, kinds, |labels, value| rows.row(labels, value))?;
    let help = "Messages that were dropped as their client held more than its share of the room.";
    let mut rows = sheet.counters("events_over_share", None, help)?;
    for (group, stats) in groups {
        rows.row(&[("group", group)], sum(stats, |stats| stats.over_share))?;
    }
    Ok(())
}

fn gauges(sheet: &mut Sheet<'_>, groups: &Groups) -> fmt::Result {
    let kinds: Kinds<'_> =
        &[("message", |stats| stats.held_messages), ("change", |stats| stats.held_changes)];
    let help = "Events that wait or are not acknowledged, by kind.";
    let mut rows = sheet.gauges("events_held", None, help)?;
    by_kind(groups, kinds, |labels, value| rows.row(labels, value))?;
    let mut rows = sheet.gauges("events_held", BYTES, "The memory that they take.")?;
    for (group, stats) in groups {
        rows.row(&[("group", group)], sum(stats, |stats| stats.held_bytes))?;
    }
    let plain: [(&str, &str, Of); 3] = [
        ("events_unacknowledged", "Items under way to subscribers.", |stats| stats.unacknowledged),
        ("events_subscribers", "Subscribers there are now.", |stats| stats.subscribers),
        ("events_pausing", "Groups for which clients are paused.", |stats| stats.pauses.into()),
    ];
    for (name, help, of) in plain {
        let mut rows = sheet.gauges(name, None, help)?;
        for (group, stats) in groups {
            rows.row(&[("group", group)], sum(stats, of))?;
        }
    }
    Ok(())
}

fn by_kind(
    groups: &Groups,
    kinds: Kinds<'_>,
    mut row: impl FnMut(&[(&str, &str)], u64) -> fmt::Result,
) -> fmt::Result {
    for (group, stats) in groups {
        for (kind, of) in kinds {
            row(&[("group", group), ("kind", kind)], sum(stats, of))?;
        }
    }
    Ok(())
}

fn sum(stats: &[Stats], of: impl Fn(&Stats) -> u64) -> u64 {
    stats.iter().map(of).sum()
}
