//! From what a request says to what the hub understands, with everything that is wrong on the way.
//!
//! A [`Reading`] goes on after a fault, so that a caller learns of all of them at once. What it
//! answers stands for nothing until [`Reading::done`] has found no fault.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost_types::{Duration as ProtoDuration, Timestamp};

use super::{
    fault::Faults,
    proto::{self, send_request},
};
use crate::{
    attributes::{Attributes, Retouch},
    close::code,
    config::Config,
    ids::{ClientId, Name},
    message::{Filter, Kind, Payload, Selection, Target, Terms, WhenBehind},
    timestamp,
};

/// Most bytes of a close frame's reason (RFC 6455 §5.5: 125, less the code).
const MOST_REASON: usize = 123;

/// Bytes of a map's key that a path repeats.
const MOST_OF_KEY: usize = 64;

/// Seconds of the longest `google.protobuf.Duration`, 10,000 years.
const LONGEST: u64 = 315_576_000_000;

/// One request as it is read.
pub(super) struct Reading<'a> {
    config: &'a Config,
    faults: Faults,
    /// Stands before the path of what is read now.
    prefix: String,
}

/// Clients by id and by user, in the order of the request.
#[derive(Debug, Default)]
pub(super) struct Whom {
    pub(super) clients: Vec<ClientId>,
    pub(super) uids: Vec<Name>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, faults: Faults::default(), prefix: String::new() }
    }

    /// The configuration by which it is read.
    pub(super) fn config(&self) -> &'a Config {
        self.config
    }

    /// What was read, if nothing is wrong with any of it.
    pub(super) fn done<T>(self, value: Option<T>) -> Result<T, Faults> {
        value.filter(|_| self.faults.is_empty()).ok_or(self.faults)
    }

    /// Notes what is wrong with a field.
    pub(super) fn fault(&mut self, field: impl Into<String>, why: impl std::fmt::Display) {
        let field = field.into();
        let path = if self.prefix.is_empty() { field } else { self.prefix.clone() + &field };
        self.faults.add(path, why);
    }

    /// Reads a part of the request, whose own path stands before those within.
    pub(super) fn within(&mut self, prefix: impl std::fmt::Display, read: impl FnOnce(&mut Self)) {
        self.prefix = prefix.to_string();
        read(self);
        self.prefix.clear();
    }

    /// One name.
    pub(super) fn name(&mut self, field: &str, text: &str) -> Option<Name> {
        let name = Name::new(text, self.config.limits.names);
        name.map_err(|why| self.fault(field, why)).ok()
    }

    /// A list of names.
    pub(super) fn names(&mut self, field: &str, texts: &[String]) -> Vec<Name> {
        let limit = self.config.limits.names;
        self.each(field, texts, |text| Name::new(text, limit))
    }

    /// One client id.
    pub(super) fn client(&mut self, field: &str, text: &str) -> Option<ClientId> {
        text.parse().map_err(|why| self.fault(field, why)).ok()
    }

    /// A list of client ids.
    pub(super) fn clients(&mut self, field: &str, texts: &[String]) -> Vec<ClientId> {
        self.each(field, texts, str::parse)
    }

    fn each<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        texts: &[String],
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut all = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match read(text) {
                Ok(one) => all.push(one),
                Err(why) => self.fault(format!("{field}[{index}]"), why),
            }
        }
        all
    }

    /// Whether a list is not longer than a limit allows, which has the name `key`.
    pub(super) fn fits(&mut self, field: &str, len: usize, (key, limit): (&str, usize)) -> bool {
        if len > limit {
            self.fault(field, format_args!("{len} entries, {key} allows {limit}"));
        }
        len <= limit
    }

    /// Names, no more than a limit allows, which has the name `key`.
    pub(super) fn up_to(
        &mut self,
        field: &str,
        texts: &[String],
        (key, limit): (&str, usize),
    ) -> Vec<Name> {
        if self.fits(field, texts.len(), (key, limit)) {
            self.names(field, texts)
        } else {
            Vec::new()
        }
    }

    /// Groups that a call is about: at least one.
    pub(super) fn groups(
        &mut self,
        field: &str,
        texts: &[String],
        limit: (&str, usize),
    ) -> Vec<Name> {
        if texts.is_empty() {
            self.fault(field, "no group named");
        }
        self.up_to(field, texts, limit)
    }

    /// Clients that are to be changed: at least one, or one user.
    pub(super) fn whom(&mut self, clients: &[String], uids: &[String]) -> Whom {
        let (named, limit) = (clients.len() + uids.len(), self.config.api.max_targets);
        if named == 0 {
            self.fault("clients", "no client named, neither by id nor by uid");
        }
        if named > limit {
            let field = if clients.len() > uids.len() { "clients" } else { "uids" };
            self.fault(field, too_many_targets(named, limit));
            return Whom::default();
        }
        Whom { clients: self.clients("clients", clients), uids: self.names("uids", uids) }
    }

    /// Whom a send or a close addresses.
    pub(super) fn target(&mut self, target: Option<proto::Target>) -> Option<Target> {
        let Some(target) = target else {
            self.fault("target", "missing");
            return None;
        };
        let named = target.clients.len() + target.uids.len() + target.groups.len();
        let except = target.except_clients.len() + target.except_uids.len();
        let limit = self.config.api.max_targets;
        if named + except > limit {
            self.fault("target", too_many_targets(named + except, limit));
            return None;
        }
        match (target.all, named) {
            (false, 0) => self.fault("target", "nobody named: set all, clients, uids or groups"),
            (true, 1..) => {
                self.fault("target.all", "not allowed together with clients, uids or groups");
            }
            _ => {}
        }
        let mut clients = self.clients("target.clients", &target.clients);
        clients.sort_unstable();
        clients.dedup();
        let mut users = self.names("target.uids", &target.uids);
        users.dedup();
        let mut groups = self.names("target.groups", &target.groups);
        groups.sort_unstable();
        groups.dedup();
        let filter = Filter::new(
            self.clients("target.except_clients", &target.except_clients),
            self.names("target.except_uids", &target.except_uids),
            self.attributes("target.attributes", target.attributes),
        );
        // The plain kinds of target are the cheap ones for the shards.
        Some(match (clients.as_slice(), users.as_slice(), groups.as_slice()) {
            _ if target.all && filter.is_empty() => Target::All,
            _ if target.all => Target::Selection(Arc::new(Selection::everybody(filter))),
            ([client], [], []) if filter.is_empty() => Target::Client(*client),
            ([], [uid], []) if filter.is_empty() => Target::User(uid.clone()),
            ([], [], [group]) if filter.is_empty() => Target::Group(group.clone()),
            _ => Target::Selection(Arc::new(Selection::of(clients, users, groups, filter))),
        })
    }

    /// Attributes, by which to filter or to be set: no more than one client may have.
    pub(super) fn attributes(
        &mut self,
        field: &str,
        pairs: BTreeMap<String, String>,
    ) -> Attributes {
        let (names, most) = (self.config.limits.names, self.config.limits.attributes);
        if !self.fits(field, pairs.len(), ("limits.attributes", most)) {
            return Attributes::default();
        }
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let limit = self.config.limits.attribute_bytes.bytes();
        if bytes > limit {
            let why = format_args!("{bytes} bytes, limits.attribute_bytes allows {limit}");
            self.fault(field, why);
        }
        let mut attributes = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            match Name::new(&name, names) {
                Ok(name) => attributes.push((name, value.into_boxed_str())),
                Err(why) => {
                    let shown = &name[..name.floor_char_boundary(MOST_OF_KEY)];
                    self.fault(format!("{field}[{shown:?}]"), why);
                }
            }
        }
        attributes.into_iter().collect()
    }

    /// How attributes change.
    pub(super) fn retouch(&mut self, field: &str, change: proto::AttributeChange) -> Retouch {
        let limit = ("limits.attributes", self.config.limits.attributes);
        let remove = self.up_to(&format!("{field}.remove"), &change.remove, limit);
        let set = self.attributes(&format!("{field}.set"), change.set);
        Retouch { replace: change.replace, remove, set }
    }

    /// What is sent.
    pub(super) fn message(
        &mut self,
        field: &str,
        message: Option<proto::Message>,
    ) -> Option<Payload> {
        let Some(message) = message else {
            self.fault(field, "missing");
            return None;
        };
        let kind = match proto::Kind::try_from(message.kind) {
            Ok(proto::Kind::Unspecified) => self.config.websocket.message_format,
            Ok(proto::Kind::Text) => Kind::Text,
            Ok(proto::Kind::Binary) => Kind::Binary,
            Err(_) => {
                self.fault(format!("{field}.kind"), "unknown kind of message");
                return None;
            }
        };
        if kind == Kind::Text && simdutf8::basic::from_utf8(&message.data).is_err() {
            self.fault(format!("{field}.data"), "text is not valid UTF-8");
        }
        Some(Payload::new(kind, message.data))
    }

    /// Messages to one client, each in a message of its own.
    pub(super) fn messages(&mut self, messages: Vec<proto::ApplyMessage>) -> Vec<Payload> {
        let limit = ("api.max_sends", self.config.api.max_sends);
        if !self.fits("messages", messages.len(), limit) {
            return Vec::new();
        }
        let each = messages.into_iter().enumerate();
        each.filter_map(|(index, it)| {
            self.message(&format!("messages[{index}].message"), it.message)
        })
        .collect()
    }

    /// One message and to whom, but for the idempotency key.
    pub(super) fn send(&mut self, request: proto::SendRequest) -> Option<(Target, Payload)> {
        let target = self.target(request.target);
        let payload = self.message("message", request.message);
        let terms = Terms {
            ttl: request.ttl.and_then(|ttl| self.ttl(ttl)),
            when_behind: self.when_behind(request.when_behind),
        };
        let payload = payload.map(|payload| Payload { terms, ..payload });
        target.zip(payload)
    }

    /// The same where there is no key that makes it safe to repeat.
    pub(super) fn streamed(&mut self, request: proto::SendRequest) -> Option<(Target, Payload)> {
        if !request.idempotency_key.is_empty() {
            self.fault("idempotency_key", "not allowed in a stream");
        }
        self.send(request)
    }

    fn ttl(&mut self, ttl: ProtoDuration) -> Option<Duration> {
        let seconds = u64::try_from(ttl.seconds).ok().filter(|seconds| *seconds <= LONGEST);
        let nanos = u32::try_from(ttl.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let ttl = seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos));
        let ttl = ttl.filter(|ttl| *ttl >= Duration::from_millis(1));
        if ttl.is_none() {
            self.fault("ttl", "must be from 1 ms to 10,000 years");
        }
        ttl
    }

    fn when_behind(&mut self, when: Option<send_request::WhenBehind>) -> WhenBehind {
        match when {
            Some(send_request::WhenBehind::DropIfBehind(true)) => WhenBehind::Drop,
            Some(send_request::WhenBehind::ConflateKey(key)) => {
                self.name("conflate_key", &key).map_or(WhenBehind::Queue, WhenBehind::Conflate)
            }
            Some(send_request::WhenBehind::DropIfBehind(false)) | None => WhenBehind::Queue,
        }
    }

    /// The code that a close frame says.
    pub(super) fn close_code(&mut self, number: u32) -> u16 {
        match u16::try_from(number) {
            Ok(0) => code::NORMAL,
            Ok(number @ (1000 | 1001 | 1008 | 1011 | 1012 | 1013 | 3000..=4999)) => number,
            _ => {
                let allowed = "0, 1000, 1001, 1008, 1011, 1012, 1013 or one from 3000 to 4999";
                self.fault("code", format_args!("{number} not allowed: use {allowed}"));
                code::NORMAL
            }
        }
    }

    /// The reason that a close frame gives.
    pub(super) fn close_reason(&mut self, reason: String) -> String {
        let bytes = reason.len();
        if bytes > MOST_REASON {
            self.fault("reason", format_args!("{bytes} bytes, at most {MOST_REASON} allowed"));
        }
        reason
    }

    /// A time of the years 1 to 9999.
    pub(super) fn time(&mut self, field: &str, at: Timestamp) -> Option<SystemTime> {
        let time = timestamp::read(at);
        if time.is_none() {
            self.fault(field, "outside the years 1 to 9999");
        }
        time
    }
}

fn too_many_targets(named: usize, limit: usize) -> String {
    format!("{named} targets, api.max_targets allows {limit}")
}
