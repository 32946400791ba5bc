//! The classic API's 21 services as tonic wants them: one trait, one server, one path each.

use std::sync::Arc;

use tonic::{Request, Response, Status, service::Routes};

use super::{GZIP, classic::Classic, limit::Limited, proto};
use crate::{access::Caller, config::Live, hub::Hub};

macro_rules! services {
    (
        $($module:ident $trait:ident $server:ident $call:ident $request:ident $response:ident
        $($audited:ident)?;)+
    ) => {
        $(
            #[tonic::async_trait]
            impl proto::$module::$trait for Classic {
                async fn $call(
                    &self,
                    request: Request<proto::$request>,
                ) -> Result<Response<proto::$response>, Status> {
                    let answer = services!(@call self, $call, request $(, $audited)?);
                    answer.await.map(Response::new)
                }
            }
        )+

        /// The full names of the services.
        pub(super) const NAMES: &[&str] = &[$(proto::$module::SERVICE_NAME),+];

        /// Adds the services to `routes`.
        pub(super) fn add(mut routes: Routes, hub: Hub, live: &Live) -> Routes {
            let classic = Arc::new(Classic::new(hub, live.clone()));
            $(
                routes = routes.add_service(Limited::new(
                    proto::$module::$server::from_arc(Arc::clone(&classic))
                        .accept_compressed(GZIP)
                        .send_compressed(GZIP),
                    live.clone(),
                    proto::$module::$server::max_decoding_message_size,
                ));
            )+
            routes
        }
    };
    (@call $classic:ident, $call:ident, $request:ident) => {
        Classic::$call($classic, $request.into_inner())
    };
    // What can't be undone is done in somebody's name.
    (@call $classic:ident, $call:ident, $request:ident, audited) => {{
        let (_, extensions, request) = $request.into_parts();
        Classic::$call($classic, request, extensions.get::<Caller>().cloned())
    }};
}

services! {
    broadcast_message_server BroadcastMessage BroadcastMessageServer broadcast_message BroadcastMessageRequest BroadcastMessageResponse;
    send_message_to_client_server SendMessageToClient SendMessageToClientServer send_message_to_client SendMessageToClientRequest SendMessageToClientResponse;
    clonse_client_server ClonseClient ClonseClientServer clonse_client ClonseClientRequest ClonseClientResponse audited;
    get_all_online_client_server GetAllOnlineClient GetAllOnlineClientServer get_all_online_client GetAllOnlineClientRequest GetAllOnlineClientResponse;
    client_is_online_server ClientIsOnline ClientIsOnlineServer client_is_online ClientIsOnlineRequest ClientIsOnlineResponse;
    count_online_client_server CountOnlineClient CountOnlineClientServer count_online_client CountOnlineClientRequest CountOnlineClientResponse;
    un_group_server UnGroup UnGroupServer un_group UnGroupRequest UnGroupResponse audited;
    send_message_to_group_server SendMessageToGroup SendMessageToGroupServer send_message_to_group SendMessageToGroupRequest SendMessageToGroupResponse;
    count_online_group_server CountOnlineGroup CountOnlineGroupServer count_online_group CountOnlineGroupRequest CountOnlineGroupResponse;
    count_group_server CountGroup CountGroupServer count_group CountGroupRequest CountGroupResponse;
    get_group_online_client_server GetGroupOnlineClient GetGroupOnlineClientServer get_group_online_client GetGroupOnlineClientRequest GetGroupOnlineClientResponse;
    leave_group_server LeaveGroup LeaveGroupServer leave_group LeaveGroupRequest LeaveGroupResponse;
    join_group_server JoinGroup JoinGroupServer join_group JoinGroupRequest JoinGroupResponse;
    get_uid_by_client_server GetUidByClient GetUidByClientServer get_uid_by_client GetUidByClientRequest GetUidByClientResponse;
    count_online_uid_server CountOnlineUid CountOnlineUidServer count_online_uid CountOnlineUidRequest CountOnlineUidResponse;
    get_all_online_uid_server GetAllOnlineUid GetAllOnlineUidServer get_all_online_uid GetAllOnlineUidRequest GetAllOnlineUidResponse;
    send_message_to_uid_server SendMessageToUid SendMessageToUidServer send_message_to_uid SendMessageToUidRequest SendMessageToUidResponse;
    uid_is_online_server UidIsOnline UidIsOnlineServer uid_is_online UidIsOnlineRequest UidIsOnlineResponse;
    un_bind_uid_server UnBindUid UnBindUidServer un_bind_uid UnBindUidRequest UnBindUidResponse;
    client_bind_uid_server ClientBindUid ClientBindUidServer client_bind_uid ClientBindUidRequest ClientBindUidResponse;
    get_client_by_uid_server GetClientByUid GetClientByUidServer get_client_by_uid GetClientByUidRequest GetClientByUidResponse;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_21_calls_is_a_service_of_its_own() {
        assert_eq!(NAMES.len(), 21);
        for name in NAMES {
            // In the descriptor set a service stands as its length and its short name.
            let short = name.strip_prefix("proto.").unwrap();
            let mut entry = vec![u8::try_from(short.len()).unwrap()];
            entry.extend_from_slice(short.as_bytes());
            assert!(proto::CLASSIC.windows(entry.len()).any(|part| part == entry), "{name}");
        }
    }
}
