//! `gateway.v1.Directory`: who is there.
//!
//! A request is judged as a whole before anything is asked. A list is a chain of pages, and a stream
//! sends the same pages one after the other, each when the caller has taken the one before.

mod answers;
mod cut;
mod requests;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    Streams,
    fault::status,
    paging::{Kind, Tokens},
};
use crate::{
    config::Live,
    grpc::proto::v1::{
        CheckOnlineRequest, CheckOnlineResponse, CountRequest, CountResponse,
        DescribeClientsRequest, DescribeClientsResponse, ListClientsRequest, ListClientsResponse,
        ListGroupsRequest, ListGroupsResponse, ListUidsRequest, ListUidsResponse,
        StreamClientsRequest, StreamClientsResponse, StreamGroupsRequest, StreamGroupsResponse,
        StreamUidsRequest, StreamUidsResponse, directory_server,
    },
    hub::{Hub, HubError, NamePlace, Page, Place},
    ids::Name,
    net,
};
use answers::{client, count, entry, group_entry, left_out, missing};
use cut::{Part, Room, fitting};
use requests::Judge;

/// Answers the calls of the service.
pub(super) struct Directory {
    hub: Hub,
    live: Live,
    tokens: Tokens,
    streams: Streams,
}

/// Pages that a stream of names reads at once: each reading is a walk over many names.
const READ_AT_ONCE: usize = 16;

impl Directory {
    pub(super) fn new(hub: Hub, live: Live, streams: Streams) -> Self {
        Self { hub, live, tokens: Tokens::default(), streams }
    }

    fn judge(&self) -> Judge<'_> {
        Judge::new(self.live.snapshot(), &self.tokens)
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Pages<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl directory_server::Directory for Directory {
    type StreamClientsStream = Pages<StreamClientsResponse>;
    type StreamUidsStream = Pages<StreamUidsResponse>;
    type StreamGroupsStream = Pages<StreamGroupsResponse>;

    async fn describe_clients(
        &self,
        request: Request<DescribeClientsRequest>,
    ) -> Answer<DescribeClientsResponse> {
        let mut judge = self.judge();
        let clients = judge.described("clients", &request.into_inner().clients);
        judge.verdict()?;
        let described = known(self.hub.describe(clients.clone()).await)?;
        let mut answer = DescribeClientsResponse::default();
        let mut room = Room::default();
        for (index, (id, described)) in clients.into_iter().zip(described).enumerate() {
            match described.as_ref().map(client) {
                Some(client) if room.take(&client) => answer.clients.push(client),
                Some(_) => answer.failures.push(left_out(index, id)),
                None => answer.failures.push(missing(index, id)),
            }
        }
        Ok(Response::new(answer))
    }

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Answer<ListClientsResponse> {
        let request = request.into_inner();
        let mut judge = self.judge();
        let search = judge.search(request.filter);
        let list = self.tokens.list(Kind::Clients, requests::identity(&search));
        let place = judge.place::<Place>(list, &request.page_token);
        let most = judge.page_size(request.page_size);
        judge.verdict()?;
        let search = Arc::new(search);
        let page = |most| self.hub.page_of_clients(&search, place, most);
        let Page { entries: clients, next } = known(fitting(most, page, entry).await)?;
        let next_page_token = self.tokens.token(list, next.as_ref());
        Ok(Response::new(ListClientsResponse { clients, next_page_token }))
    }

    async fn stream_clients(
        &self,
        request: Request<StreamClientsRequest>,
    ) -> Answer<Self::StreamClientsStream> {
        let mut judge = self.judge();
        let search = Arc::new(judge.search(request.into_inner().filter));
        let most = judge.page_size(0);
        judge.verdict()?;
        let hub = self.hub.clone();
        let page = move |place| {
            let (hub, search) = (hub.clone(), Arc::clone(&search));
            async move { hub.page_of_clients(&search, place, most).await }
        };
        let answer = |clients| StreamClientsResponse { clients };
        let open = (self.hub.clone(), self.streams.enter()?);
        Ok(Response::new(stream(open, most, page, entry, answer)))
    }

    async fn list_uids(&self, request: Request<ListUidsRequest>) -> Answer<ListUidsResponse> {
        let request = request.into_inner();
        let mut judge = self.judge();
        let prefix = judge.prefix("prefix", request.prefix);
        let group = judge.optional_name("group", &request.group);
        let list = self.tokens.list(Kind::Uids, (&prefix, &group));
        let place = judge.place::<NamePlace>(list, &request.page_token);
        let most = judge.page_size(request.page_size);
        judge.verdict()?;
        let page = |most| uids(&self.hub, group.as_ref(), &prefix, &place, most);
        let Page { entries: uids, next } = known(fitting(most, page, Name::to_string).await)?;
        let next_page_token = self.tokens.token(list, next.as_ref());
        Ok(Response::new(ListUidsResponse { uids, next_page_token }))
    }

    async fn stream_uids(
        &self,
        request: Request<StreamUidsRequest>,
    ) -> Answer<Self::StreamUidsStream> {
        let request = request.into_inner();
        let mut judge = self.judge();
        let prefix: Arc<str> = judge.prefix("prefix", request.prefix).into();
        let group = judge.optional_name("group", &request.group);
        let most = judge.page_size(0);
        judge.verdict()?;
        let hub = self.hub.clone();
        let page = move |place| {
            let (hub, prefix, group) = (hub.clone(), Arc::clone(&prefix), group.clone());
            async move { uids(&hub, group.as_ref(), &prefix, &place, READ_AT_ONCE * most).await }
        };
        let answer = |uids| StreamUidsResponse { uids };
        let open = (self.hub.clone(), self.streams.enter()?);
        Ok(Response::new(stream(open, most, page, Name::to_string, answer)))
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Answer<ListGroupsResponse> {
        let request = request.into_inner();
        let mut judge = self.judge();
        let prefix = judge.prefix("prefix", request.prefix);
        let list = self.tokens.list(Kind::Groups, &prefix);
        let place = judge.place::<NamePlace>(list, &request.page_token);
        let most = judge.page_size(request.page_size);
        judge.verdict()?;
        let (prefix, place) = (&prefix, &place);
        let page = |most| async move { Ok(self.hub.page_of_groups(prefix, place, most).await) };
        let Page { entries: groups, next } = known(fitting(most, page, group_entry).await)?;
        let next_page_token = self.tokens.token(list, next.as_ref());
        Ok(Response::new(ListGroupsResponse { groups, next_page_token }))
    }

    async fn stream_groups(
        &self,
        request: Request<StreamGroupsRequest>,
    ) -> Answer<Self::StreamGroupsStream> {
        let mut judge = self.judge();
        let prefix: Arc<str> = judge.prefix("prefix", request.into_inner().prefix).into();
        let most = judge.page_size(0);
        judge.verdict()?;
        let hub = self.hub.clone();
        let page = move |place| {
            let (hub, prefix) = (hub.clone(), Arc::clone(&prefix));
            async move { Ok(hub.page_of_groups(&prefix, &place, READ_AT_ONCE * most).await) }
        };
        let answer = |groups| StreamGroupsResponse { groups };
        let open = (self.hub.clone(), self.streams.enter()?);
        Ok(Response::new(stream(open, most, page, group_entry, answer)))
    }

    async fn check_online(
        &self,
        request: Request<CheckOnlineRequest>,
    ) -> Answer<CheckOnlineResponse> {
        let request = request.into_inner();
        let mut judge = self.judge();
        judge.targets(&[("clients", request.clients.len()), ("uids", request.uids.len())]);
        let clients = judge.clients("clients", &request.clients);
        let uids = judge.names("uids", &request.uids);
        judge.verdict()?;
        let clients = known(self.hub.are_online(clients).await)?;
        let uids = self.hub.users_are_online(&uids);
        Ok(Response::new(CheckOnlineResponse { clients, uids }))
    }

    async fn count(&self, request: Request<CountRequest>) -> Answer<CountResponse> {
        let request = request.into_inner();
        let mut judge = self.judge();
        judge.targets(&[("groups", request.groups.len()), ("uids", request.uids.len())]);
        let groups = judge.names("groups", &request.groups);
        let uids = judge.names("uids", &request.uids);
        judge.verdict()?;
        let counts = self.hub.counts(&groups, &uids);
        Ok(Response::new(CountResponse {
            clients: count(self.hub.count_clients()),
            uids: count(counts.users),
            groups: count(counts.groups),
            group_members: counts.members.into_iter().map(count).collect(),
            uid_clients: counts.clients.into_iter().map(count).collect(),
        }))
    }
}

/// A part of the list of uids, be it of all or of those in a group.
async fn uids(
    hub: &Hub,
    group: Option<&Name>,
    prefix: &str,
    place: &NamePlace,
    most: usize,
) -> Result<Page<Name, NamePlace>, HubError> {
    match group {
        Some(group) => hub.page_of_uids_in(group, prefix, place, most).await,
        None => Ok(hub.page_of_uids(prefix, place, most).await),
    }
}

fn known<T>(result: Result<T, HubError>) -> Result<T, Status> {
    result.map_err(|error| status(&error))
}

/// Sends a list in answers of at most `most` entries, and no larger than an answer may be. Nothing is read before what was read earlier
/// has been taken, so a caller who reads slowly makes nobody wait and nothing grow. The task ends
/// when the caller goes away.
fn stream<T, P, F, E, R>(
    (hub, open): (Hub, net::Place),
    most: usize,
    page: impl Fn(P) -> F + Send + 'static,
    entry: fn(&T) -> E,
    answer: fn(Vec<E>) -> R,
) -> Pages<R>
where
    T: Send + 'static,
    E: Part + Send + 'static,
    P: Clone + Default + Send,
    F: Future<Output = Result<Page<T, P>, HubError>> + Send,
    R: Send + 'static,
    Page<T, P>: 'static,
{
    let (answers, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let _open = open;
        let mut place = Some(P::default());
        while let Some(from) = place.clone() {
            let Ok(room) = answers.reserve().await else { return };
            match page(from).await {
                Ok(Page { entries, next }) => {
                    drop(room);
                    let mut entries: Vec<E> = entries.iter().map(entry).collect();
                    while !entries.is_empty() {
                        let fit = cut::fit(&entries).min(most);
                        let rest = entries.split_off(fit);
                        if answers.send(Ok(answer(entries))).await.is_err() {
                            return;
                        }
                        entries = rest;
                    }
                    place = next;
                }
                // A list of many pages is not broken off for a shard that is busy just now.
                Err(HubError::Busy { .. }) => tokio::select! {
                    () = hub.room() => {}
                    () = answers.closed() => return,
                },
                Err(error) => return room.send(Err(status(&error))),
            }
        }
    });
    ReceiverStream::new(taken)
}
