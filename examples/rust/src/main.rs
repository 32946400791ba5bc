//! Lists the clients, puts one into a group, sends to the group, and closes it.

use std::{env, error::Error, process::ExitCode, time::Duration};

use tonic::transport::Endpoint;
use v1::{
    CloseRequest, JoinRequest, Kind, Message, SendRequest, StreamClientsRequest, Target,
    connections_client::ConnectionsClient, directory_client::DirectoryClient,
    membership_client::MembershipClient, messages_client::MessagesClient,
};

/// What build.rs made.
mod v1 {
    tonic::include_proto!("gateway.v1");
}

const GROUP: &str = "lobby";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match drive().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn drive() -> Result<(), Box<dyn Error>> {
    let address = env::var("GATEWAY").unwrap_or_else(|_| "127.0.0.1:20819".to_owned());
    let gateway = Endpoint::try_from(format!("http://{address}"))?.timeout(Duration::from_secs(5));
    // One connection for all services; cloning a channel costs nothing.
    let channel = gateway.connect().await.map_err(|_| format!("no gateway at {address}"))?;

    // A list of any length comes in parts.
    let mut directory = DirectoryClient::new(channel.clone());
    let mut parts = directory.stream_clients(StreamClientsRequest::default()).await?.into_inner();
    let mut clients = Vec::new();
    while let Some(part) = parts.message().await? {
        clients.extend(part.clients.into_iter().map(|client| client.id));
    }
    clients.iter().for_each(|id| println!("client {id}"));
    let id = clients.into_iter().next().ok_or("nobody is connected")?;

    let groups = vec![GROUP.to_owned()];
    let join = JoinRequest { groups, clients: vec![id.clone()], ..JoinRequest::default() };
    let joined = MembershipClient::new(channel.clone()).join(join).await?.into_inner();
    // The call succeeds even if an item fails, for example because the client has just left.
    if let Some(failure) = joined.failures.first() {
        return Err(format!("{}: {}", failure.field, failure.message).into());
    }
    println!("joined {GROUP}: {}", joined.joined);

    let send = SendRequest {
        target: Some(Target { groups: vec![GROUP.to_owned()], ..Target::default() }),
        message: Some(Message { kind: Kind::Text.into(), data: b"hello, lobby".to_vec() }),
        // Later than that it is of no use to anybody.
        ttl: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        // Names the event: after a lost answer the call may be repeated and arrives once.
        idempotency_key: format!("greeting of {id}"),
        ..SendRequest::default()
    };
    let sent = MessagesClient::new(channel.clone()).send(send).await?.into_inner();
    let delivery = sent.delivery.unwrap_or_default();
    println!("sent: {} of {}", delivery.queued, delivery.matched);

    let close = CloseRequest {
        target: Some(Target { clients: vec![id], ..Target::default() }),
        code: 1000,
        reason: "that was all".to_owned(),
        ..CloseRequest::default()
    };
    let closed = ConnectionsClient::new(channel).close(close).await?.into_inner();
    println!("closed: {}", closed.closed);
    Ok(())
}
