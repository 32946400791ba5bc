//! What the requests ask for, or what is wrong with them.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use prost_types::Timestamp;
use tonic::Status;

use super::super::{
    fault::Faults,
    paging::{Cursor, List, Tokens},
};
use crate::{
    attributes::Attributes,
    config::InForce,
    grpc::proto::v1::ClientFilter,
    ids::{ClientId, Name},
    shard::Search,
    timestamp,
};

/// Reads a request by the rules in force, and notes what is wrong with it.
pub(super) struct Judge<'a> {
    config: Arc<InForce>,
    tokens: &'a Tokens,
    faults: Faults,
}

impl<'a> Judge<'a> {
    pub(super) fn new(config: Arc<InForce>, tokens: &'a Tokens) -> Self {
        Self { config, tokens, faults: Faults::default() }
    }

    /// Refuses the request if anything is wrong with it.
    pub(super) fn verdict(self) -> Result<(), Status> {
        self.faults.check()
    }

    /// Clients that are to be described.
    pub(super) fn described(&mut self, field: &str, ids: &[String]) -> Vec<ClientId> {
        let (count, limit) = (ids.len(), self.config.api.max_page);
        if count > limit {
            self.faults.add(field, format!("{count} entries, api.max_page allows {limit}"));
            return Vec::new();
        }
        self.clients(field, ids)
    }

    /// Looks whether the lists, by field, are not longer than allowed all together.
    pub(super) fn targets(&mut self, lists: &[(&str, usize)]) {
        let limit = self.config.api.max_targets;
        let mut count = 0;
        for (field, len) in lists {
            count += len;
            if count > limit {
                let text = format!("{count} targets, api.max_targets allows {limit}");
                return self.faults.add(*field, text);
            }
        }
    }

    pub(super) fn clients(&mut self, field: &str, ids: &[String]) -> Vec<ClientId> {
        let mut clients = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            match id.parse() {
                Ok(client) => clients.push(client),
                Err(fault) => self.faults.add(format!("{field}[{index}]"), fault),
            }
        }
        clients
    }

    pub(super) fn names(&mut self, field: &str, texts: &[String]) -> Vec<Name> {
        let mut names = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match Name::new(text, self.config.limits.names) {
                Ok(name) => names.push(name),
                Err(fault) => self.faults.add(format!("{field}[{index}]"), fault),
            }
        }
        names
    }

    /// A name; none if there is no text.
    pub(super) fn optional_name(&mut self, field: &str, text: &str) -> Option<Name> {
        if text.is_empty() {
            return None;
        }
        match Name::new(text, self.config.limits.names) {
            Ok(name) => Some(name),
            Err(fault) => {
                self.faults.add(field, fault);
                None
            }
        }
    }

    /// The beginning of names.
    pub(super) fn prefix(&mut self, field: &str, text: String) -> String {
        self.optional_name(field, &text);
        text
    }

    pub(super) fn search(&mut self, filter: Option<ClientFilter>) -> Search {
        let filter = filter.unwrap_or_default();
        Search {
            uid_prefix: self.prefix("filter.uid_prefix", filter.uid_prefix),
            group: self.optional_name("filter.group", &filter.group),
            since: filter.connected_since.and_then(|at| self.time("filter.connected_since", at)),
            attributes: self.attributes("filter.attributes", filter.attributes),
        }
    }

    pub(super) fn page_size(&mut self, asked: i32) -> usize {
        let limit = self.config.api.max_page;
        match usize::try_from(asked) {
            Ok(0) => limit,
            Ok(asked) => asked.min(limit),
            Err(_) => {
                self.faults.add("page_size", "must not be negative");
                limit
            }
        }
    }

    /// Where the page begins.
    pub(super) fn place<C: Cursor>(&mut self, list: List, token: &str) -> C {
        self.tokens.place(list, token).unwrap_or_else(|fault| {
            self.faults.add("page_token", fault);
            C::default()
        })
    }

    fn time(&mut self, field: &str, at: Timestamp) -> Option<SystemTime> {
        let time = timestamp::read(at);
        if time.is_none() {
            self.faults.add(field, "outside the years 1 to 9999");
        }
        time
    }

    fn attributes(&mut self, field: &str, pairs: BTreeMap<String, String>) -> Attributes {
        let limits = &self.config.limits;
        let (count, limit) = (pairs.len(), limits.attributes);
        if count > limit {
            self.faults.add(field, format!("{count} entries, limits.attributes allows {limit}"));
            return Attributes::NONE;
        }
        let mut attributes = Attributes::NONE;
        for (name, value) in pairs {
            match Name::new(&name, limits.names) {
                Ok(name) => attributes.set(name, value.into()),
                Err(fault) => self.faults.add(format!("{field}[{:?}]", short(&name)), fault),
            }
        }
        let (bytes, limit) = (attributes.bytes(), limits.attribute_bytes.bytes());
        if bytes > limit {
            let text = format!("{bytes} bytes, limits.attribute_bytes allows {limit}");
            self.faults.add(field, text);
        }
        attributes
    }
}

/// Enough of a name to recognise it by.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(32)]
}

/// What tells a search from others.
pub(super) fn identity(search: &Search) -> impl std::hash::Hash {
    let attributes: Vec<_> = search.attributes.iter().collect();
    (&search.uid_prefix, &search.group, search.since, attributes)
}
