//! The rows of the modern API: what a call costs the gateway, the whole process and its shards.
//!
//! They have no baseline: the raw loop knows no targets and no answers.

use std::time::{Duration, Instant};

use gateway_websocket::grpc::proto::{
    GetAllOnlineClientRequest, get_all_online_client_client::GetAllOnlineClientClient, v1,
};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use v1::{
    ApplyRequest, AttributeChange, JoinRequest, SendRequest, SendStreamRequest, Target,
    apply_request::UidChange, membership_client::MembershipClient, messages_client::MessagesClient,
};

use crate::{Outcome, publisher::Grpc, stamp};

/// Calls under way at once, as a busy back end has them.
const PARALLEL: usize = 16;

impl Grpc {
    /// The ids of all clients.
    pub(crate) fn clients(&self) -> Outcome<Vec<String>> {
        let mut client = GetAllOnlineClientClient::new(self.channel.clone())
            .max_decoding_message_size(64 << 20);
        let listed = client.get_all_online_client(GetAllOnlineClientRequest {});
        Ok(self.runtime.block_on(listed)?.into_inner().client)
    }

    /// Sends each of the clients so many messages over one stream, one by one in turn.
    pub(crate) fn stream(&self, clients: &[String], rounds: usize, size: usize) -> Outcome<()> {
        let sequence = (1..).zip(clients.iter().cycle()).take(rounds * clients.len());
        let items: Vec<_> = sequence
            .map(|(sequence, client)| {
                let target = Target { clients: vec![client.clone()], ..Target::default() };
                SendStreamRequest { sequence, sends: vec![send(target, size)] }
            })
            .collect();
        let last = items.len() as u64;
        let mut client = MessagesClient::new(self.channel.clone());
        self.runtime.block_on(async move {
            let mut answers = client.send_stream(tokio_stream::iter(items)).await?.into_inner();
            let mut done = 0;
            while let Some(answer) = answers.next().await {
                let answer = answer?;
                if let Some(failure) = answer.failures.first() {
                    return Err(failure.message.clone().into());
                }
                done = answer.sequence;
            }
            if done == last { Ok(()) } else { Err(format!("{done} of {last}").into()) }
        })
    }

    /// Puts the clients into the group.
    pub(crate) fn join(&self, clients: &[String], group: &str) -> Outcome<()> {
        let mut membership = MembershipClient::new(self.channel.clone());
        for some in clients.chunks(5_000) {
            let groups = vec![group.to_owned()];
            let join = JoinRequest { groups, clients: some.to_vec(), ..JoinRequest::default() };
            let joined = self.runtime.block_on(membership.join(join))?.into_inner();
            if let Some(failure) = joined.failures.first() {
                return Err(failure.message.clone().into());
            }
        }
        Ok(())
    }

    /// Sends to the group until the time is over, one call after the other; answers how many.
    pub(crate) fn send_to(&self, group: &str, size: usize, time: Duration) -> Outcome<u64> {
        let target = Target { groups: vec![group.to_owned()], ..Target::default() };
        let request = send(target, size);
        let mut client = MessagesClient::new(self.channel.clone());
        let until = Instant::now() + time;
        self.runtime.block_on(async move {
            let mut sent = 0;
            while Instant::now() < until {
                client.send(request.clone()).await?;
                sent += 1;
            }
            Ok(sent)
        })
    }

    /// Changes the clients until the time is over: another uid, another group, an attribute.
    /// Answers how many changes that were.
    pub(crate) fn apply(&self, clients: &[String], time: Duration) -> Outcome<u64> {
        let until = Instant::now() + time;
        self.runtime.block_on(async {
            let mut callers = JoinSet::new();
            for caller in 0..PARALLEL {
                let mut membership = MembershipClient::new(self.channel.clone());
                let own: Vec<_> =
                    clients.iter().skip(caller).step_by(PARALLEL).cloned().collect();
                callers.spawn(async move {
                    let mut done = 0;
                    for (number, client) in own.into_iter().cycle().enumerate() {
                        if Instant::now() >= until {
                            break;
                        }
                        membership.apply(change(client, number)).await?;
                        done += 1;
                    }
                    Ok::<u64, tonic::Status>(done)
                });
            }
            let mut done = 0;
            while let Some(caller) = callers.join_next().await {
                done += caller??;
            }
            Ok(done)
        })
    }
}

fn send(target: Target, size: usize) -> SendRequest {
    let message = v1::Message {
        kind: v1::Kind::Text.into(),
        data: stamp::message(0, 0, size).into_bytes().into(),
    };
    SendRequest { target: Some(target), message: Some(message), ..SendRequest::default() }
}

fn change(client: String, number: usize) -> ApplyRequest {
    let group = |number: usize| vec![format!("group-{:02}", number % 100)];
    let attribute = ("round".to_owned(), number.to_string());
    ApplyRequest {
        client,
        uid_change: Some(UidChange::Bind(format!("user-{number:015}"))),
        leave: group(number),
        join: group(number + 1),
        attributes: Some(AttributeChange {
            set: [attribute].into_iter().collect(),
            ..AttributeChange::default()
        }),
        ..ApplyRequest::default()
    }
}
