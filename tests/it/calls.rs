//! The 21 classic calls over a real gRPC connection, as one-line methods of the test's gateway.

use gateway_websocket::grpc::proto;
use tonic::Status;

use crate::gateway::Gateway;

/// A method per call that expects an answer, and one in `try_` that may get a status.
macro_rules! calls {
    ($($call:ident, $try_call:ident, $client:path, $request:ident { $($field:ident),* } -> $response:ident;)*) => {
        impl Gateway {
            $(
                pub async fn $call(&self, $($field: impl Into<String>),*) -> proto::$response {
                    self.$try_call($($field),*).await.expect(stringify!($call))
                }

                pub async fn $try_call(
                    &self,
                    $($field: impl Into<String>),*
                ) -> Result<proto::$response, Status> {
                    use $client as Client;
                    let request = proto::$request { $($field: $field.into()),* };
                    let answer = Client::new(self.channel()).$call(request).await?;
                    Ok(answer.into_inner())
                }
            )*
        }
    };
}

calls! {
    broadcast_message, try_broadcast_message, proto::broadcast_message_client::BroadcastMessageClient, BroadcastMessageRequest { message } -> BroadcastMessageResponse;
    send_message_to_client, try_send_message_to_client, proto::send_message_to_client_client::SendMessageToClientClient, SendMessageToClientRequest { clientid, message } -> SendMessageToClientResponse;
    clonse_client, try_clonse_client, proto::clonse_client_client::ClonseClientClient, ClonseClientRequest { clientid } -> ClonseClientResponse;
    get_all_online_client, try_get_all_online_client, proto::get_all_online_client_client::GetAllOnlineClientClient, GetAllOnlineClientRequest {} -> GetAllOnlineClientResponse;
    client_is_online, try_client_is_online, proto::client_is_online_client::ClientIsOnlineClient, ClientIsOnlineRequest { clientid } -> ClientIsOnlineResponse;
    count_online_client, try_count_online_client, proto::count_online_client_client::CountOnlineClientClient, CountOnlineClientRequest {} -> CountOnlineClientResponse;
    un_group, try_un_group, proto::un_group_client::UnGroupClient, UnGroupRequest { group } -> UnGroupResponse;
    send_message_to_group, try_send_message_to_group, proto::send_message_to_group_client::SendMessageToGroupClient, SendMessageToGroupRequest { group, message } -> SendMessageToGroupResponse;
    count_online_group, try_count_online_group, proto::count_online_group_client::CountOnlineGroupClient, CountOnlineGroupRequest { group } -> CountOnlineGroupResponse;
    count_group, try_count_group, proto::count_group_client::CountGroupClient, CountGroupRequest {} -> CountGroupResponse;
    get_group_online_client, try_get_group_online_client, proto::get_group_online_client_client::GetGroupOnlineClientClient, GetGroupOnlineClientRequest { group } -> GetGroupOnlineClientResponse;
    leave_group, try_leave_group, proto::leave_group_client::LeaveGroupClient, LeaveGroupRequest { clientid, group } -> LeaveGroupResponse;
    join_group, try_join_group, proto::join_group_client::JoinGroupClient, JoinGroupRequest { clientid, group } -> JoinGroupResponse;
    get_uid_by_client, try_get_uid_by_client, proto::get_uid_by_client_client::GetUidByClientClient, GetUidByClientRequest { uid } -> GetUidByClientResponse;
    count_online_uid, try_count_online_uid, proto::count_online_uid_client::CountOnlineUidClient, CountOnlineUidRequest {} -> CountOnlineUidResponse;
    get_all_online_uid, try_get_all_online_uid, proto::get_all_online_uid_client::GetAllOnlineUidClient, GetAllOnlineUidRequest {} -> GetAllOnlineUidResponse;
    send_message_to_uid, try_send_message_to_uid, proto::send_message_to_uid_client::SendMessageToUidClient, SendMessageToUidRequest { uid, message } -> SendMessageToUidResponse;
    uid_is_online, try_uid_is_online, proto::uid_is_online_client::UidIsOnlineClient, UidIsOnlineRequest { uid } -> UidIsOnlineResponse;
    un_bind_uid, try_un_bind_uid, proto::un_bind_uid_client::UnBindUidClient, UnBindUidRequest { clientid } -> UnBindUidResponse;
    client_bind_uid, try_client_bind_uid, proto::client_bind_uid_client::ClientBindUidClient, ClientBindUidRequest { clientid, uid } -> ClientBindUidResponse;
    get_client_by_uid, try_get_client_by_uid, proto::get_client_by_uid_client::GetClientByUidClient, GetClientByUidRequest { clientid } -> GetClientByUidResponse;
}
