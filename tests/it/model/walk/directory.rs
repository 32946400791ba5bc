//! `gateway.v1.Directory`: who is there, one by one, counted, and in lists.

use std::collections::BTreeSet;

use gateway_websocket::grpc::proto::v1::{
    CheckOnlineRequest, Client, ClientFilter, CountRequest, DescribeClientsRequest, GroupEntry,
    ListClientsRequest, ListGroupsRequest, ListUidsRequest, StreamClientsRequest,
    StreamGroupsRequest, StreamUidsRequest, directory_client::DirectoryClient,
};
use tonic::{Code, Streaming, transport::Channel};

use super::{
    Walk,
    draw::{are_valid, is_id},
    outcome, sorted,
};
use crate::model::world::{Attributes, is_name};

#[derive(Debug)]
pub enum Question {
    Describe(Vec<String>),
    Online(CheckOnlineRequest),
    Count(CountRequest),
    Clients(List<ClientFilter>),
    /// Prefix and group.
    Uids(List<(String, String)>),
    /// Prefix.
    Groups(List<String>),
}

/// Which list, and how.
#[derive(Debug)]
pub struct List<F> {
    filter: F,
    /// By pages of this size, or as a stream.
    pages: Option<i32>,
}

/// A page: its entries and the next one's token.
type Page<T> = (Vec<T>, String);

impl Walk {
    pub(super) fn question(&mut self) -> Question {
        match self.random.below(10) {
            0..2 => {
                let mut clients = self.ids(5);
                clients.push(self.id());
                Question::Describe(clients)
            }
            2..4 => {
                let mut clients = self.ids(4);
                clients.push(self.id());
                Question::Online(CheckOnlineRequest { clients, uids: self.names('u', 4) })
            }
            4..6 => Question::Count(CountRequest {
                groups: self.names('g', 5),
                uids: self.names('u', 5),
            }),
            6..8 => {
                let group = if self.random.once_in(3) { self.name('g') } else { String::new() };
                let attributes = match self.random.below(3) {
                    0 => self.attributes(2).into_iter().collect(),
                    _ => Attributes::new().into_iter().collect(),
                };
                let filter = ClientFilter {
                    uid_prefix: self.prefix('u'),
                    group,
                    connected_since: None,
                    attributes,
                };
                Question::Clients(self.list(filter))
            }
            8 => {
                let group = if self.random.once_in(2) { self.name('g') } else { String::new() };
                let prefix = self.prefix('u');
                Question::Uids(self.list((prefix, group)))
            }
            _ => {
                let prefix = self.prefix('g');
                Question::Groups(self.list(prefix))
            }
        }
    }

    fn prefix(&mut self, what: char) -> String {
        match self.random.below(4) {
            0 => what.to_string(),
            1 => format!("{what}{}", self.random.below(3)),
            _ => String::new(),
        }
    }

    fn list<F>(&mut self, filter: F) -> List<F> {
        let sizes = [None, Some(0), Some(1), Some(3), Some(10), Some(1_000_000)];
        List { filter, pages: sizes[self.random.below(sizes.len())] }
    }

    fn directory(&self) -> DirectoryClient<Channel> {
        DirectoryClient::new(self.gateway.channel())
    }

    pub(super) async fn ask(&mut self, question: Question) {
        match question {
            Question::Describe(clients) => self.describe(clients).await,
            Question::Online(request) => self.check_online(request).await,
            Question::Count(request) => self.count(request).await,
            Question::Clients(list) => self.list_clients(list).await,
            Question::Uids(list) => self.list_uids(list).await,
            Question::Groups(list) => self.list_groups(list).await,
        }
    }

    async fn describe(&mut self, clients: Vec<String>) {
        let request = DescribeClientsRequest { clients: clients.clone() };
        let answer = outcome(self.directory().describe_clients(request).await);
        if !clients.iter().all(|id| is_id(id)) {
            assert_eq!(answer.map(drop), Err(Code::InvalidArgument));
            return;
        }
        let answer = answer.unwrap();
        let (there, gone): (Vec<_>, Vec<_>) =
            clients.into_iter().enumerate().partition(|(_, id)| self.world.is_online(id));
        let failed: Vec<_> =
            answer.failures.into_iter().map(|failure| (failure.field, failure.code)).collect();
        let code = Code::NotFound.into();
        let gone: Vec<_> = gone.iter().map(|(at, _)| (format!("clients[{at}]"), code)).collect();
        assert_eq!(failed, gone);
        assert_eq!(answer.clients.len(), there.len());
        for (described, (_, id)) in answer.clients.into_iter().zip(there) {
            assert_eq!(described.id, id);
            self.compare(described);
        }
    }

    fn compare(&mut self, described: Client) {
        let id = described.id;
        let facts = self.world.facts(&id).unwrap().clone();
        assert_eq!(described.uid, facts.uid.unwrap_or_default(), "uid of {id}");
        let groups: Vec<_> = facts.groups.into_iter().collect();
        assert_eq!(sorted(described.groups), groups, "groups of {id}");
        let attributes: Attributes = described.attributes.into_iter().collect();
        assert_eq!(attributes, facts.attributes, "attributes of {id}");
        assert_eq!(described.expires_at, facts.expires_at, "expiry of {id}");
        let waiting = self.world.waiting(&id);
        let (messages, bytes) = (described.queued_messages, described.queued_bytes);
        assert_eq!(messages, i64::try_from(waiting).unwrap(), "messages waiting for {id}");
        assert_eq!(bytes > 0, waiting > 0, "{bytes} bytes waiting for {id}");
        let socket = self.clients.get_mut(&id).unwrap().raw();
        assert_eq!(described.address, socket.local_addr().unwrap().to_string());
        assert_eq!((described.path.as_str(), described.tls), ("/", false));
        assert_eq!((described.subprotocol.as_str(), described.compression_window_bits), ("", 0));
        assert!((0..3).contains(&described.shard), "shard {}", described.shard);
        assert!(described.bytes_in > 0 && described.bytes_out > 0);
    }

    async fn check_online(&mut self, request: CheckOnlineRequest) {
        let answer = outcome(self.directory().check_online(request.clone()).await);
        let CheckOnlineRequest { clients, uids } = request;
        let world = &self.world;
        let is_valid = clients.iter().all(|id| is_id(id)) && uids.iter().all(|uid| is_name(uid));
        let clients: Vec<_> = clients.iter().map(|id| world.is_online(id)).collect();
        let uids: Vec<_> = uids.iter().map(|uid| !world.clients_of(uid).is_empty()).collect();
        let expected = if is_valid { Ok((clients, uids)) } else { Err(Code::InvalidArgument) };
        assert_eq!(answer.map(|it| (it.clients, it.uids)), expected);
    }

    async fn count(&mut self, request: CountRequest) {
        let answer = outcome(self.directory().count(request.clone()).await);
        let CountRequest { groups, uids } = request;
        if !groups.iter().chain(&uids).all(|name| is_name(name)) {
            assert_eq!(answer.map(drop), Err(Code::InvalidArgument));
            return;
        }
        let (answer, world) = (answer.unwrap(), &self.world);
        let counts = [answer.clients, answer.uids, answer.groups];
        let expected = [world.clients().len(), world.users().len(), world.groups().len()];
        assert_eq!(counts, expected.map(|count| i64::try_from(count).unwrap()));
        let size = |list: Vec<String>| i64::try_from(list.len()).unwrap();
        let members: Vec<_> = groups.iter().map(|group| size(world.members(group))).collect();
        assert_eq!(answer.group_members, members, "members of {groups:.80?}");
        let clients: Vec<_> = uids.iter().map(|uid| size(world.clients_of(uid))).collect();
        assert_eq!(answer.uid_clients, clients, "clients of {uids:.80?}");
    }

    async fn list_clients(&mut self, List { filter, pages }: List<ClientFilter>) {
        let calls = self.directory();
        let entries = match pages {
            None => {
                let request = StreamClientsRequest { filter: Some(filter.clone()) };
                let answer = calls.clone().stream_clients(request).await;
                whole(outcome(answer), |part| part.clients).await
            }
            Some(page_size) => {
                pages_of(page_size, |page_token| {
                    let mut calls = calls.clone();
                    let filter = Some(filter.clone());
                    let request = ListClientsRequest { filter, page_size, page_token };
                    async move {
                        let page = outcome(calls.list_clients(request).await)?;
                        Ok((page.clients, page.next_page_token))
                    }
                })
                .await
            }
        };
        let ClientFilter { uid_prefix, group, attributes, .. } = filter;
        let is_valid = (group.is_empty() || is_name(&group))
            && are_valid(&attributes.clone().into_iter().collect());
        if !is_valid {
            assert_eq!(entries.map(drop), Err(Code::InvalidArgument));
            return;
        }
        let world = &self.world;
        let clients = world.clients().into_iter().filter(|id| {
            let facts = world.facts(id).unwrap();
            let uid = facts.uid.as_deref();
            (uid_prefix.is_empty() || uid.is_some_and(|uid| uid.starts_with(&uid_prefix)))
                && (group.is_empty() || facts.groups.contains(&group))
                && attributes.iter().all(|(name, value)| facts.has(name, value))
        });
        let expected: Vec<_> = clients.map(|id| (id.clone(), world.uid_of(&id))).collect();
        let mut entries: Vec<_> =
            entries.unwrap().into_iter().map(|entry| (entry.id, entry.uid)).collect();
        entries.sort_unstable();
        assert_eq!(entries, expected);
    }

    async fn list_uids(&mut self, List { filter, pages }: List<(String, String)>) {
        let calls = self.directory();
        let (prefix, group) = filter;
        let uids = match pages {
            None => {
                let request = StreamUidsRequest { prefix: prefix.clone(), group: group.clone() };
                whole(outcome(calls.clone().stream_uids(request).await), |part| part.uids).await
            }
            Some(page_size) => {
                pages_of(page_size, |page_token| {
                    let mut calls = calls.clone();
                    let (prefix, group) = (prefix.clone(), group.clone());
                    let request = ListUidsRequest { prefix, group, page_size, page_token };
                    async move {
                        let page = outcome(calls.list_uids(request).await)?;
                        Ok((page.uids, page.next_page_token))
                    }
                })
                .await
            }
        };
        if !(group.is_empty() || is_name(&group)) {
            assert_eq!(uids.map(drop), Err(Code::InvalidArgument));
            return;
        }
        let world = &self.world;
        let clients = if group.is_empty() { world.clients() } else { world.members(&group) };
        let expected: BTreeSet<_> = clients.iter().map(|id| world.uid_of(id)).collect();
        let expected = expected.into_iter().filter(|uid| !uid.is_empty());
        let expected: Vec<_> = expected.filter(|uid| uid.starts_with(&prefix)).collect();
        assert_eq!(uids.map(sorted), Ok(expected));
    }

    async fn list_groups(&mut self, List { filter: prefix, pages }: List<String>) {
        let calls = self.directory();
        let groups = match pages {
            None => {
                let request = StreamGroupsRequest { prefix: prefix.clone() };
                whole(outcome(calls.clone().stream_groups(request).await), |part| part.groups).await
            }
            Some(page_size) => {
                pages_of(page_size, |page_token| {
                    let mut calls = calls.clone();
                    let prefix = prefix.clone();
                    let request = ListGroupsRequest { prefix, page_size, page_token };
                    async move {
                        let page = outcome(calls.list_groups(request).await)?;
                        Ok((page.groups, page.next_page_token))
                    }
                })
                .await
            }
        };
        let mut groups: Vec<_> = groups
            .unwrap()
            .into_iter()
            .map(|GroupEntry { name, members }| (name, members))
            .collect();
        groups.sort_unstable();
        let world = &self.world;
        let expected = world.groups().into_iter().filter(|group| group.starts_with(&prefix));
        let expected = expected.map(|group| {
            let members = i64::try_from(world.members(&group).len()).unwrap();
            (group, members)
        });
        assert_eq!(groups, expected.collect::<Vec<_>>());
    }
}

/// All entries of a streamed list.
async fn whole<P, T>(
    parts: Result<Streaming<P>, Code>,
    entries: impl Fn(P) -> Vec<T>,
) -> Result<Vec<T>, Code> {
    let (mut parts, mut all) = (parts?, Vec::new());
    while let Some(part) = parts.message().await.map_err(|status| status.code())? {
        all.extend(entries(part));
    }
    Ok(all)
}

/// All entries of a list, page by page.
async fn pages_of<T, F: Future<Output = Result<Page<T>, Code>>>(
    size: i32,
    page: impl Fn(String) -> F,
) -> Result<Vec<T>, Code> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let (entries, next) = page(token).await?;
        let most = usize::try_from(size).unwrap();
        assert!(most == 0 || entries.len() <= most, "{} are more than {size}", entries.len());
        all.extend(entries);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}
