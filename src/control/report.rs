//! The picture of the process that `status` shows: sums over the shards, and what the kernel says.

use std::{collections::BTreeMap, time::SystemTime};

use tokio::time::Instant;

use super::Context;
use crate::{
    close::Cause,
    config::Material,
    hub::Hub,
    lifecycle::Handle,
    metrics::{self, Drop, HandshakeStats, ShardStats, Single},
    status::{CertificateStatus, DrainStatus, Messages, Status},
    tls,
};

/// Takes the picture. No shard waits for it, so the numbers are not of one instant.
pub(super) fn status(context: &Context) -> Status {
    let Context { hub, lifecycle, live, listeners, started, peers: _ } = context;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        taken_at: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        phase: lifecycle.phase(),
        uptime_seconds: started.elapsed().as_secs(),
        listeners: listeners.borrow().clone(),
        cpu_seconds: metrics::cpu_seconds(),
        memory_bytes: metrics::memory_bytes(),
        shards: hub.shard_stats().count(),
        clients: hub.count_clients(),
        users: hub.count_users(),
        groups: hub.count_groups(),
        messages: messages(hub),
        opened: sum(hub, |shard| &shard.opened),
        closed: closed(hub.shard_stats()),
        refused: refused(hub.handshakes()),
        certificates: certificates(&live.snapshot().material),
        config: lifecycle.config(),
        drain: drain(hub, lifecycle),
        supervisor_idle_seconds: lifecycle.last_at_work().elapsed().as_secs(),
    }
}

fn drain(hub: &Hub, lifecycle: &Handle) -> Option<DrainStatus> {
    let bounds = lifecycle.drain_bounds()?;
    let closed = sum(hub, |shard| &shard.closed[Cause::Stop.index()]);
    let left = bounds.until.saturating_duration_since(Instant::now());
    Some(DrainStatus {
        closed: closed.saturating_sub(bounds.closed_before),
        left: hub.count_clients(),
        connections: hub.count_sockets(),
        seconds_left: left.as_secs() + u64::from(left.subsec_nanos() > 0),
    })
}

fn certificates(material: &Material) -> Vec<CertificateStatus> {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let shown = |(key, it): (&str, &tls::Certificate)| CertificateStatus {
        key: key.to_owned(),
        subject: it.subject.clone(),
        until: it.until.clone(),
        not_after: it.not_after,
        days_left: it.days_left(now),
    };
    material.certificates().map(shown).collect()
}

fn messages(hub: &Hub) -> Messages {
    Messages {
        received: sum(hub, |shard| &shard.messages_in),
        queued: sum(hub, |shard| &shard.messages_queued),
        sent: sum(hub, |shard| &shard.messages_out),
        dropped: dropped(hub.shard_stats()),
        bytes_received: sum(hub, |shard| &shard.bytes_in),
        bytes_sent: sum(hub, |shard| &shard.bytes_out),
        queued_bytes: sum(hub, |shard| &shard.queued_bytes),
        partial_bytes: sum(hub, |shard| &shard.partial_bytes),
        waiting_clients: sum(hub, |shard| &shard.waiting_clients),
    }
}

fn sum(hub: &Hub, counter: impl Fn(&ShardStats) -> &Single) -> u64 {
    hub.shard_stats().map(|shard| counter(shard).get()).sum()
}

fn closed<'s>(shards: impl Iterator<Item = &'s ShardStats>) -> BTreeMap<String, u64> {
    let names = Cause::ALL.map(Cause::name);
    by_name(names, shards.map(|shard| &shard.closed))
}

fn dropped<'s>(shards: impl Iterator<Item = &'s ShardStats>) -> BTreeMap<String, u64> {
    let names = Drop::ALL.map(Drop::name);
    by_name(names, shards.map(|shard| &shard.dropped))
}

/// Sums tables of counters by their names; what never happened is left out.
fn by_name<'t, const N: usize>(
    names: [&str; N],
    tables: impl Iterator<Item = &'t [Single; N]>,
) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for table in tables {
        for (name, counter) in names.iter().zip(table) {
            match counter.get() {
                0 => {}
                n => *sums.entry((*name).to_owned()).or_default() += n,
            }
        }
    }
    sums
}

fn refused(stats: &HandshakeStats) -> BTreeMap<String, u64> {
    let happened =
        stats.failures().into_iter().map(|(name, counter)| (name.to_owned(), counter.get()));
    happened.filter(|(_, n)| *n > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_summed_by_name_and_zeros_left_out() {
        let shards = [ShardStats::default(), ShardStats::default()];
        shards[0].closed[Cause::Api.index()].add(2);
        shards[1].closed[Cause::Api.index()].add(3);
        shards[1].closed[Cause::Slow.index()].add(1);
        shards[0].drop_messages(Drop::Oldest, 7);
        let expected = [("api".to_owned(), 5), ("slow".to_owned(), 1)];
        assert_eq!(closed(shards.iter()), BTreeMap::from(expected));
        assert_eq!(dropped(shards.iter()), BTreeMap::from([("oldest".to_owned(), 7)]));
    }

    #[test]
    fn refusals_are_named() {
        let stats = HandshakeStats::default();
        stats.accepted.increment();
        stats.full.increment();
        assert_eq!(refused(&stats), BTreeMap::from([("full".to_owned(), 1)]));
    }
}
