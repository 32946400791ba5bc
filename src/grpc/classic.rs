//! The classic API: what each of the 21 calls of 1.x does.
//!
//! `proto/classic.proto` says what callers may rely on. They were written for a program that knew
//! no errors but `false`, so here too a bad argument or an unknown client is `false`, never a
//! status; only a gateway that can't serve at all (overloaded, stopping) answers with one.

use tonic::Status;

use super::proto::{
    BroadcastMessageRequest, BroadcastMessageResponse, ClientBindUidRequest, ClientBindUidResponse,
    ClientIsOnlineRequest, ClientIsOnlineResponse, ClonseClientRequest, ClonseClientResponse,
    CountGroupRequest, CountGroupResponse, CountOnlineClientRequest, CountOnlineClientResponse,
    CountOnlineGroupRequest, CountOnlineGroupResponse, CountOnlineUidRequest,
    CountOnlineUidResponse, GetAllOnlineClientRequest, GetAllOnlineClientResponse,
    GetAllOnlineUidRequest, GetAllOnlineUidResponse, GetClientByUidRequest, GetClientByUidResponse,
    GetGroupOnlineClientRequest, GetGroupOnlineClientResponse, GetUidByClientRequest,
    GetUidByClientResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SendMessageToClientRequest, SendMessageToClientResponse,
    SendMessageToGroupRequest, SendMessageToGroupResponse, SendMessageToUidRequest,
    SendMessageToUidResponse, UidIsOnlineRequest, UidIsOnlineResponse, UnBindUidRequest,
    UnBindUidResponse, UnGroupRequest, UnGroupResponse,
};
use crate::{
    access::{AUDIT, Caller},
    close::{Cause, Close, code},
    config::{Config, Live},
    hub::{Hub, HubError},
    ids::{ClientId, Name},
    message::{Payload, Receipt, Target},
};

/// Answers the classic API's calls. Cheap to clone.
#[derive(Clone)]
pub(super) struct Classic {
    hub: Hub,
    live: Live,
}

type Answer<T> = Result<T, Status>;

#[expect(
    clippy::unused_async,
    reason = "to its caller each call is async, whether it asks a shard or not"
)]
impl Classic {
    pub(super) fn new(hub: Hub, live: Live) -> Self {
        Self { hub, live }
    }

    // Sending.

    pub(super) async fn broadcast_message(
        &self,
        request: BroadcastMessageRequest,
    ) -> Answer<BroadcastMessageResponse> {
        let result = !request.message.is_empty();
        if result {
            self.send(Target::All, request.message, &self.live.snapshot()).await?;
        }
        Ok(BroadcastMessageResponse { result })
    }

    pub(super) async fn send_message_to_client(
        &self,
        request: SendMessageToClientRequest,
    ) -> Answer<SendMessageToClientResponse> {
        let result = match client(&request.clientid) {
            Some(client) if !request.message.is_empty() => {
                let target = Target::Client(client);
                let sent = self.send(target, request.message, &self.live.snapshot()).await?;
                sent.queued == 1
            }
            _ => false,
        };
        Ok(SendMessageToClientResponse { result })
    }

    pub(super) async fn send_message_to_uid(
        &self,
        request: SendMessageToUidRequest,
    ) -> Answer<SendMessageToUidResponse> {
        let config = self.live.snapshot();
        let result = match name(&request.uid, &config) {
            Some(uid) if !request.message.is_empty() => {
                self.send(Target::User(uid), request.message, &config).await?.queued > 0
            }
            _ => false,
        };
        Ok(SendMessageToUidResponse { result })
    }

    /// Unlike the other sends, 1.x passes an empty message on to a group.
    pub(super) async fn send_message_to_group(
        &self,
        request: SendMessageToGroupRequest,
    ) -> Answer<SendMessageToGroupResponse> {
        let config = self.live.snapshot();
        let sent = match name(&request.group, &config) {
            Some(group) => self.send(Target::Group(group), request.message, &config).await?,
            None => Receipt::default(),
        };
        // A group exists while it has members, so one that matched nobody is unknown.
        Ok(SendMessageToGroupResponse { result: sent.matched > 0, arrive: count(sent.queued) })
    }

    // Clients.

    pub(super) async fn clonse_client(
        &self,
        request: ClonseClientRequest,
        caller: Option<Caller>,
    ) -> Answer<ClonseClientResponse> {
        if let Some(client) = client(&request.clientid) {
            let close = Close::new(Cause::Api, code::NORMAL, "");
            // Before it is done, since a caller who hangs up afterwards must not go unnamed.
            tracing::info!(
                target: AUDIT, caller = caller.map(display), call = "ClonseClient", %client,
                "a client is closed"
            );
            done(self.hub.close(Target::Client(client), close).await)?;
        }
        Ok(ClonseClientResponse { result: !request.clientid.is_empty() })
    }

    pub(super) async fn get_all_online_client(
        &self,
        _: GetAllOnlineClientRequest,
    ) -> Answer<GetAllOnlineClientResponse> {
        let client = texts(&known(self.hub.clients().await)?);
        Ok(GetAllOnlineClientResponse { client })
    }

    pub(super) async fn client_is_online(
        &self,
        request: ClientIsOnlineRequest,
    ) -> Answer<ClientIsOnlineResponse> {
        let isonline = match client(&request.clientid) {
            Some(client) => known(self.hub.is_online(client).await)?,
            None => false,
        };
        Ok(ClientIsOnlineResponse { isonline })
    }

    pub(super) async fn count_online_client(
        &self,
        _: CountOnlineClientRequest,
    ) -> Answer<CountOnlineClientResponse> {
        Ok(CountOnlineClientResponse { count: count(self.hub.count_clients()) })
    }

    // Groups.

    pub(super) async fn join_group(&self, request: JoinGroupRequest) -> Answer<JoinGroupResponse> {
        let group = name(&request.group, &self.live.snapshot());
        let result = match (client(&request.clientid), group) {
            (Some(client), Some(group)) => done(self.hub.join(client, group).await)?,
            _ => false,
        };
        Ok(JoinGroupResponse { result })
    }

    pub(super) async fn leave_group(
        &self,
        request: LeaveGroupRequest,
    ) -> Answer<LeaveGroupResponse> {
        let result = match client(&request.clientid) {
            Some(client) if self.hub.group_exists(&request.group) => {
                done(self.hub.leave(client, &request.group).await)?
            }
            _ => false,
        };
        Ok(LeaveGroupResponse { result })
    }

    pub(super) async fn un_group(
        &self,
        request: UnGroupRequest,
        caller: Option<Caller>,
    ) -> Answer<UnGroupResponse> {
        let Ok(group) = Name::new(&request.group, usize::MAX) else {
            return Ok(UnGroupResponse { result: false });
        };
        if self.hub.group_exists(&request.group) {
            tracing::info!(
                target: AUDIT, caller = caller.map(display), call = "UnGroup",
                group = request.group, "a group is dissolved"
            );
        }
        // The limit of names was kept when the group was made, and may be smaller now.
        let members = known(self.hub.dissolve(vec![group]).await)?;
        Ok(UnGroupResponse { result: members.into_iter().any(|members| members > 0) })
    }

    pub(super) async fn get_group_online_client(
        &self,
        request: GetGroupOnlineClientRequest,
    ) -> Answer<GetGroupOnlineClientResponse> {
        let clientid = texts(&known(self.hub.members(&request.group).await)?);
        Ok(GetGroupOnlineClientResponse { clientid })
    }

    pub(super) async fn count_online_group(
        &self,
        request: CountOnlineGroupRequest,
    ) -> Answer<CountOnlineGroupResponse> {
        Ok(CountOnlineGroupResponse { count: count(self.hub.count_members(&request.group)) })
    }

    pub(super) async fn count_group(&self, _: CountGroupRequest) -> Answer<CountGroupResponse> {
        Ok(CountGroupResponse { count: count(self.hub.count_groups()) })
    }

    // Users.

    pub(super) async fn client_bind_uid(
        &self,
        request: ClientBindUidRequest,
    ) -> Answer<ClientBindUidResponse> {
        let uid = name(&request.uid, &self.live.snapshot());
        let result = match (client(&request.clientid), uid) {
            (Some(client), Some(uid)) => done(self.hub.bind(client, uid).await)?,
            _ => false,
        };
        Ok(ClientBindUidResponse { result })
    }

    pub(super) async fn un_bind_uid(&self, request: UnBindUidRequest) -> Answer<UnBindUidResponse> {
        let result = match client(&request.clientid) {
            Some(client) => done(self.hub.unbind(client).await)?,
            None => false,
        };
        Ok(UnBindUidResponse { result })
    }

    /// The uid of a client: call and field names are swapped with the next one's.
    pub(super) async fn get_client_by_uid(
        &self,
        request: GetClientByUidRequest,
    ) -> Answer<GetClientByUidResponse> {
        let uid = match client(&request.clientid) {
            Some(client) => known(self.hub.uid_of(client).await)?,
            None => None,
        };
        let uid = uid.map(|uid| uid.to_string()).unwrap_or_default();
        Ok(GetClientByUidResponse { uid })
    }

    /// The clients of a uid.
    pub(super) async fn get_uid_by_client(
        &self,
        request: GetUidByClientRequest,
    ) -> Answer<GetUidByClientResponse> {
        let clients = known(self.hub.clients_of(&request.uid).await)?;
        Ok(GetUidByClientResponse { clientid: texts(&clients) })
    }

    pub(super) async fn get_all_online_uid(
        &self,
        _: GetAllOnlineUidRequest,
    ) -> Answer<GetAllOnlineUidResponse> {
        let uid = self.hub.users().iter().map(ToString::to_string).collect();
        Ok(GetAllOnlineUidResponse { uid })
    }

    pub(super) async fn uid_is_online(
        &self,
        request: UidIsOnlineRequest,
    ) -> Answer<UidIsOnlineResponse> {
        Ok(UidIsOnlineResponse { result: self.hub.user_is_online(&request.uid) })
    }

    pub(super) async fn count_online_uid(
        &self,
        _: CountOnlineUidRequest,
    ) -> Answer<CountOnlineUidResponse> {
        Ok(CountOnlineUidResponse { count: count(self.hub.count_users()) })
    }

    async fn send(&self, target: Target, message: String, config: &Config) -> Answer<Receipt> {
        let payload = Payload::from_text(config.websocket.message_format, message);
        known(self.hub.send(target, payload).await)
    }
}

/// The id that a text names; what is no id names nobody.
fn client(text: &str) -> Option<ClientId> {
    text.parse().ok()
}

/// The text as a name, if it is one.
fn name(text: &str, config: &Config) -> Option<Name> {
    Name::new(text, config.limits.names).ok()
}

/// A change that was made is `true`; one that could not be for its arguments' sake is `false`.
fn done<T>(result: Result<T, HubError>) -> Answer<bool> {
    known(result.map(|_| Some(()))).map(|done| done.is_some())
}

/// What the hub answered; of a client that is unknown, nothing.
fn known<T: Default>(result: Result<T, HubError>) -> Answer<T> {
    match result {
        Ok(answer) => Ok(answer),
        Err(HubError::UnknownClient(_) | HubError::Refused(_)) => Ok(T::default()),
        Err(error @ HubError::Busy { .. }) => Err(Status::resource_exhausted(error.to_string())),
        Err(error @ HubError::Stopped) => Err(Status::unavailable(error.to_string())),
    }
}

/// A count on the wire: what an int32 can't hold is the most it can.
fn count(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

fn texts(clients: &[ClientId]) -> Vec<String> {
    clients.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::change::Refusal;

    #[test]
    fn a_fault_of_the_arguments_is_false_and_one_of_the_gateway_a_status() {
        let client = ClientId::new(1, 2, 3, 4);
        assert!(done(Ok(())).unwrap());
        assert!(done(Ok(false)).unwrap(), "not having been a member is no fault");
        assert!(!done::<()>(Err(HubError::UnknownClient(client))).unwrap());
        let refusal = Refusal::TooManyGroups { groups: 2, limit: 1 };
        assert!(!done::<()>(Err(HubError::Refused(refusal))).unwrap());

        let busy = done::<()>(Err(HubError::Busy { shard: 0, what: "limits.inbox" })).unwrap_err();
        assert_eq!(busy.code(), Code::ResourceExhausted);
        assert!(busy.message().contains("limits.inbox"));
        assert_eq!(done::<()>(Err(HubError::Stopped)).unwrap_err().code(), Code::Unavailable);
    }

    #[test]
    fn counts_saturate() {
        assert_eq!(count(7u64), 7);
        assert_eq!(count(u64::from(u32::MAX)), i32::MAX);
        assert_eq!(count(usize::MAX), i32::MAX);
    }
}
