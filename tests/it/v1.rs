//! The modern API's clients, and its requests in few words.

use std::fmt::Debug;

use gateway_websocket::grpc::proto::v1::{
    ApplyMessage, AttributeChange, Delivery, Failure, Kind, Message, SendRequest, Target,
    connections_client::ConnectionsClient, membership_client::MembershipClient,
    messages_client::MessagesClient,
};
use tonic::{Code, Response, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::gateway::Gateway;

/// An id of the right form that no client has.
pub const NOBODY: &str = "00000000-0000-8000-8000-000000000000";

impl Gateway {
    /// Calls of `gateway.v1.Messages`.
    pub fn messages(&self) -> MessagesClient<Channel> {
        MessagesClient::new(self.channel())
    }

    /// Calls of `gateway.v1.Connections`.
    pub fn connections(&self) -> ConnectionsClient<Channel> {
        ConnectionsClient::new(self.channel())
    }

    /// Calls of `gateway.v1.Membership`.
    pub fn membership(&self) -> MembershipClient<Channel> {
        MembershipClient::new(self.channel())
    }

    /// Sends a message; answers what became of it.
    pub async fn send(&self, request: SendRequest) -> Delivery {
        self.try_send(request).await.unwrap()
    }

    /// Sends a message, which may be refused.
    pub async fn try_send(&self, request: SendRequest) -> Result<Delivery, Status> {
        let answer = self.messages().send(request).await?;
        Ok(answer.into_inner().delivery.expect("an answer tells what became of the message"))
    }

    /// Sends a text to one client: what comes before it came before.
    pub async fn mark(&self, client: &str) {
        self.send(send(clients([client]), "marker")).await;
    }
}

/// A list of texts.
pub fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

/// Every client.
pub fn all() -> Target {
    Target { all: true, ..Target::default() }
}

/// Clients by id.
pub fn clients<const N: usize>(ids: [&str; N]) -> Target {
    Target { clients: texts(ids), ..Target::default() }
}

/// Every client of these users.
pub fn uids<const N: usize>(names: [&str; N]) -> Target {
    Target { uids: texts(names), ..Target::default() }
}

/// Every member of these groups.
pub fn groups<const N: usize>(names: [&str; N]) -> Target {
    Target { groups: texts(names), ..Target::default() }
}

/// A text message.
pub fn text(text: &str) -> Message {
    Message { kind: Kind::Text.into(), data: text.to_owned().into() }
}

/// A text for a target.
pub fn send(target: Target, say: &str) -> SendRequest {
    SendRequest { target: Some(target), message: Some(text(say)), ..SendRequest::default() }
}

/// A text within an `Apply`.
pub fn applied(say: &str) -> ApplyMessage {
    ApplyMessage { message: Some(text(say)) }
}

/// Attributes that are set.
pub fn set<const N: usize>(pairs: [(&str, &str); N]) -> AttributeChange {
    let set = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    AttributeChange { set, ..AttributeChange::default() }
}

/// What becomes of a message that everybody takes.
pub fn queued(matched: i64) -> Delivery {
    Delivery { matched, queued: matched, ..Delivery::default() }
}

/// The paths and codes of failures.
pub fn failed(failures: &[Failure]) -> Vec<(&str, Code)> {
    failures.iter().map(|it| (it.field.as_str(), Code::from(it.code))).collect()
}

/// The call was refused as wrong in itself; answers the paths at fault, each with what is wrong.
pub fn faults<T: Debug>(answer: Result<Response<T>, Status>) -> Vec<(String, String)> {
    let status = answer.expect_err("it is refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_details_bad_request().expect("details name the fields");
    let faults = details.field_violations.into_iter().map(|it| (it.field, it.description));
    let faults: Vec<_> = faults.collect();
    assert!(status.message().starts_with(&faults[0].0), "{status}");
    faults
}

/// The one path at fault.
pub fn fault<T: Debug>(answer: Result<Response<T>, Status>) -> (String, String) {
    let mut faults = faults(answer);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}
