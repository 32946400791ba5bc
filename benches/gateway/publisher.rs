//! The publishers: an ordinary gRPC client for the gateway, and the raw loop's equivalent.
//!
//! Both publish in two ways: in a *burst*, always so many messages ahead of the server's answers,
//! and *paced*, at moments that are fixed beforehand, whether or not the server keeps up.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use gateway_websocket::{
    grpc::proto::{
        BroadcastMessageRequest, broadcast_message_client::BroadcastMessageClient,
        client_bind_uid_client::ClientBindUidClient, *,
    },
    message::Kind,
    wire,
};
use tokio::{runtime::Runtime, task::JoinSet};
use tonic::transport::Channel;

use crate::{Outcome, raw, stamp};

/// Calls under way at once where only the result matters.
const PARALLEL: usize = 64;

/// Who tells a server what to send to all its clients.
pub(crate) enum Publisher {
    Raw(TcpStream),
    Gateway(Grpc),
}

/// A gRPC client with a thread of its own.
pub(crate) struct Grpc {
    pub(crate) runtime: Runtime,
    pub(crate) channel: Channel,
}

impl Publisher {
    pub(crate) fn of_raw_loop(address: &str) -> Outcome<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(raw::PUBLISHER)?;
        Ok(Self::Raw(stream))
    }

    pub(crate) fn of_gateway(address: &str) -> Outcome<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = Channel::from_shared(format!("http://{address}"))?;
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self::Gateway(Grpc { runtime, channel }))
    }

    /// Publishes until the time is over, always `ahead` messages before the answers; answers how
    /// many messages that were.
    pub(crate) fn burst(&mut self, ahead: usize, size: usize, time: Duration) -> Outcome<u64> {
        let until = Instant::now() + time;
        match self {
            Self::Raw(stream) => {
                let order = wire::encode(Kind::Text, stamp::message(0, 0, size).as_bytes());
                for _ in 0..ahead {
                    stream.write_all(&order)?;
                }
                let (mut sent, mut answered) = (ahead, 0);
                let mut answers = [0; 64];
                while answered < sent {
                    let count = stream.read(&mut answers)?;
                    answered += count;
                    if Instant::now() < until && count > 0 {
                        stream.write_all(&order.repeat(count))?;
                        sent += count;
                    }
                }
                Ok(sent as u64)
            }
            Self::Gateway(grpc) => grpc.burst(ahead, size, until),
        }
    }

    /// Publishes `messages`, `every` so often, each marked with the moment it was meant for.
    pub(crate) fn paced(&mut self, messages: u64, every: Duration, size: usize) -> Outcome<()> {
        let mut calls = JoinSet::new();
        let start = stamp::now() + 1_000_000;
        let every = u64::try_from(every.as_nanos())?;
        for number in 0..messages {
            let intended = start + number * every;
            thread::sleep(Duration::from_nanos(intended.saturating_sub(stamp::now())));
            let message = stamp::message(number, intended, size);
            match self {
                Self::Raw(stream) => {
                    stream.write_all(&wire::encode(Kind::Text, message.as_bytes()))?;
                }
                Self::Gateway(grpc) => {
                    let mut client = BroadcastMessageClient::new(grpc.channel.clone());
                    let call = async move {
                        client.broadcast_message(BroadcastMessageRequest { message }).await
                    };
                    calls.spawn_on(call, grpc.runtime.handle());
                }
            }
        }
        match self {
            Self::Raw(stream) => stream.read_exact(&mut vec![0; usize::try_from(messages)?])?,
            Self::Gateway(grpc) => grpc.runtime.block_on(all(calls))?,
        }
        Ok(())
    }

    /// The gateway's own, which can do more than the raw loop's.
    pub(crate) fn grpc(&mut self) -> Outcome<&mut Grpc> {
        match self {
            Self::Gateway(grpc) => Ok(grpc),
            Self::Raw(_) => Err("the raw loop knows no gRPC".into()),
        }
    }

    /// Gives each client of the gateway a uid of 20 bytes, and puts each hundred into a group.
    /// The raw loop knows no such thing.
    pub(crate) fn bind_and_join(&mut self) -> Outcome<()> {
        let Self::Gateway(Grpc { runtime, channel }) = self else {
            return Ok(());
        };
        runtime.block_on(async {
            let all_clients = GetAllOnlineClientRequest {};
            let listed =
                get_all_online_client_client::GetAllOnlineClientClient::new(channel.clone())
                    .max_decoding_message_size(64 << 20)
                    .get_all_online_client(all_clients)
                    .await?;
            let mut calls = JoinSet::new();
            for (index, clientid) in listed.into_inner().client.into_iter().enumerate() {
                if calls.len() >= PARALLEL {
                    calls.join_next().await.ok_or("no call")???;
                }
                let channel = channel.clone();
                calls.spawn(async move {
                    let uid = format!("user-{index:015}");
                    let bind = ClientBindUidRequest { clientid: clientid.clone(), uid };
                    ClientBindUidClient::new(channel.clone()).client_bind_uid(bind).await?;
                    let group = format!("group-{:06}", index / 100);
                    let join = JoinGroupRequest { clientid, group };
                    join_group_client::JoinGroupClient::new(channel).join_group(join).await
                });
            }
            all(calls).await
        })
    }
}

impl Grpc {
    fn burst(&self, ahead: usize, size: usize, until: Instant) -> Outcome<u64> {
        let message = stamp::message(0, 0, size);
        self.runtime.block_on(async {
            let mut callers = JoinSet::new();
            for _ in 0..ahead {
                let mut client = BroadcastMessageClient::new(self.channel.clone());
                let message = message.clone();
                callers.spawn(async move {
                    let mut sent = 0;
                    while Instant::now() < until {
                        let request = BroadcastMessageRequest { message: message.clone() };
                        client.broadcast_message(request).await?;
                        sent += 1;
                    }
                    Ok::<u64, tonic::Status>(sent)
                });
            }
            let mut sent = 0;
            while let Some(caller) = callers.join_next().await {
                sent += caller??;
            }
            Ok(sent)
        })
    }
}

/// Waits for all calls; the first that failed is the outcome.
async fn all<T: 'static>(mut calls: JoinSet<Result<T, tonic::Status>>) -> Outcome<()> {
    while let Some(call) = calls.join_next().await {
        call??;
    }
    Ok(())
}
