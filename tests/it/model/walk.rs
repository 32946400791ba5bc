//! One step after the other: each is done to the gateway and to the model, and the answers are
//! compared.
//!
//! Clients read late: what they are sent waits in the model and on their sockets until there is
//! enough of it, or until they go. What comes must then be exactly what waits, in its order. Some
//! don't read for long and get stuck (see `queue`): for them messages are replaced, expire and meet
//! full queues. The shards' clock stands still but in the steps that move it.

mod classic;
mod close;
mod directory;
mod draw;
mod membership;
mod send;
mod stream;

use std::collections::{BTreeMap, VecDeque};

use gateway_websocket::{
    grpc::proto::v1::{CloseRequest, SendRequest, SendStreamRequest},
    shard::Clock,
};
use tokio::{io::AsyncWriteExt as _, net::TcpSocket};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tonic::{Code, Response, Status};

pub use self::{send::numbers, stream::Stream};
use super::{
    Log, STEPS, nothing_is_left,
    queue::{Policy, Said, settings},
    start, until_offline,
    world::{Numbers, World},
};
use crate::{client::Client, gateway::Gateway, random::Random};

/// Clients that are connected at most.
const CROWD: usize = 48;

/// Clients that are always connected: one for each shard.
const FEW: usize = 3;

/// Messages that a client leaves unread, and the size of one that it reads at once.
const UNREAD: usize = 48;
const LARGE: usize = 1024;

/// What a client's kernel holds for it: little, so that it can be stuck.
const RECEIVE_BUFFER: u32 = 32 * 1024;

/// The code with which a client may say goodbye.
const GOODBYE: u16 = 4321;

/// A frame of 100 masked bytes of which only three follow the head.
const PART_OF_A_MESSAGE: [u8; 9] = [0x81, 0x80 | 0x64, 0, 0, 0, 0, b'a', b'b', b'c'];

#[derive(Debug)]
enum Step {
    Connect,
    SayPing(String),
    Go(String, Way),
    ManyGo(usize),
    /// The client stops reading and is sent more than the kernel takes.
    GetStuck(String),
    /// A stuck client is sent so much that few such messages fill its queue.
    PileUp(String),
    /// A stuck client reads all there is.
    GoOn(String),
    /// The shards' clock goes on, by milliseconds.
    Pass(u64),
    AskEverything,
    Classic(classic::Call),
    Send(Box<SendRequest>),
    /// Items of a stream, one waiting for the answer to the other or not.
    Stream(Vec<SendStreamRequest>, bool),
    EndStream {
        wrongly: bool,
    },
    Close(Box<CloseRequest>, bool),
    Change(Box<membership::Change>),
    Ask(Box<directory::Question>),
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// With a close frame, with or without a code; what is left is read.
    Goodbye(Option<u16>),
    /// Without a word, with or without half a message, with or without reading what is left.
    Drop { halfway: bool, read: bool },
    /// Closed by a call, with or without reading what is left.
    Call { read: bool },
}

struct Walk {
    gateway: Gateway,
    clock: Clock,
    world: World,
    clients: BTreeMap<String, Client>,
    random: Random,
    /// Ids of clients that have gone; their slots are used again.
    past: Vec<String>,
    /// Calls that can be repeated, and how they were answered; oldest first.
    keys: VecDeque<(SendRequest, Numbers)>,
    /// How many keys there were.
    keys_made: u64,
    stream: Option<Stream>,
    log: Log,
}

/// Walks `steps` random steps, closes everybody, and looks at what is left.
pub async fn walk(seed: u64, steps: u64) {
    let policies = [Policy::Disconnect, Policy::DropNewest, Policy::DropOldest];
    let policy = policies[usize::try_from(seed % 3).unwrap()];
    let clock = Clock::paused();
    let mut walk = Walk {
        gateway: start(clock.clone(), &settings(policy)).await,
        clock,
        world: World::new(policy),
        clients: BTreeMap::new(),
        random: Random::new(seed),
        past: Vec::new(),
        keys: VecDeque::new(),
        keys_made: 0,
        stream: None,
        log: Log::new(format!("MODEL_SEED={seed} MODEL_STEPS={steps} ({policy:?})")),
    };
    for number in 0..steps {
        let step = walk.choose(number);
        walk.log.note(&step);
        walk.take(step).await;
        walk.see_off_the_slow().await;
        for client in walk.world.who_should_read(UNREAD, LARGE) {
            walk.read(&client).await;
        }
    }
    walk.ask_everything().await;
    walk.many_go(walk.clients.len()).await;
    assert!(walk.world.clients().is_empty() && walk.world.groups().is_empty());
    walk.ask_everything().await;
    walk.end_stream(false).await;
    nothing_is_left(&walk.gateway, &walk.world.tally).await;
    assert!(steps < STEPS || walk.world.tally.has_all(policy), "it was a walk past something");
}

impl Walk {
    fn choose(&mut self, number: u64) -> Step {
        if self.clients.len() < FEW {
            return Step::Connect;
        }
        let stuck = self.world.who_is_stuck();
        match self.random.below(1000) {
            0..45 if self.clients.len() < CROWD => Step::Connect,
            45..60 => match self.world.who_keeps_up() {
                keep_up if keep_up.len() > FEW => {
                    Step::GetStuck(self.random.one_of(keep_up.iter()).clone())
                }
                _ => Step::Connect,
            },
            60..72 if !stuck.is_empty() => Step::GoOn(self.random.one_of(stuck.iter()).clone()),
            72..78 if !stuck.is_empty() => Step::PileUp(self.random.one_of(stuck.iter()).clone()),
            78..98 => Step::Pass(self.time()),
            100..128 => Step::Go(self.connected(), self.way()),
            128 => Step::ManyGo(self.random.below(self.clients.len())),
            129 => Step::AskEverything,
            130..145 => match self.world.who_keeps_up() {
                none if none.is_empty() => Step::Connect,
                some => Step::SayPing(self.random.one_of(some.iter()).clone()),
            },
            145..420 => Step::Classic(self.classic_call(number)),
            420..640 => Step::Send(Box::new(self.send_request(number))),
            640..710 => {
                let (items, together) = self.items(number);
                Step::Stream(items, together)
            }
            710..715 => Step::EndStream { wrongly: self.random.once_in(2) },
            715..727 => {
                let request = self.close_request(number);
                let read = request.last_message.is_some() || !self.random.once_in(3);
                Step::Close(Box::new(request), read)
            }
            727..900 => Step::Change(Box::new(self.any_change(number))),
            _ => Step::Ask(Box::new(self.question())),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Connect => self.connect().await,
            Step::SayPing(client) => {
                self.clients.get_mut(&client).unwrap().say("ping").await;
                self.world.tally.heard += 1;
                self.world.expect(&client, "pong");
                self.read(&client).await;
            }
            Step::Go(client, way) => self.go(&client, way).await,
            Step::ManyGo(count) => self.many_go(count).await,
            Step::GetStuck(client) => self.get_stuck(&client).await,
            Step::PileUp(client) => self.pile_up(&client).await,
            Step::GoOn(client) => self.read(&client).await,
            Step::Pass(millis) => self.pass(millis).await,
            Step::AskEverything => self.ask_everything().await,
            Step::Classic(call) => self.call(call).await,
            Step::Send(request) => self.send(*request).await,
            Step::Stream(items, together) => self.send_items(items, together).await,
            Step::EndStream { wrongly } => self.end_stream(wrongly).await,
            Step::Close(request, read) => self.close(*request, read).await,
            Step::Change(change) => self.change(*change).await,
            Step::Ask(question) => self.ask(*question).await,
        }
    }

    async fn connect(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        let stream = socket.connect(self.gateway.websocket()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let client = Client::over(stream).await;
        self.world.connect(client.id());
        self.clients.insert(client.id().into(), client);
    }

    /// The client reads what it should have been sent.
    async fn read(&mut self, client: &str) {
        let unread = self.world.read(client);
        read(self.clients.get_mut(client).unwrap(), unread).await;
    }

    async fn many_go(&mut self, count: usize) {
        for _ in 0..count {
            let (client, way) = (self.connected(), self.way());
            self.go(&client, way).await;
        }
    }

    async fn go(&mut self, id: &str, way: Way) {
        let mut client = self.clients.remove(id).unwrap();
        let unread = self.world.disconnect(id);
        let tally = &mut self.world.tally;
        match way {
            Way::Goodbye(code) => {
                tally.peer += 1;
                let frame = code.map(|code| CloseFrame {
                    code: CloseCode::from(code),
                    reason: "goodbye".into(),
                });
                client.send(Message::Close(frame)).await;
                read(&mut client, unread).await;
                assert_eq!(client.next_close().await.0, code.unwrap_or(1000));
                // It was retired before its close frame was answered.
                assert!(!self.gateway.client_is_online(id).await.isonline);
                client.ended().await;
            }
            Way::Drop { halfway, read: reads } => {
                tally.lost += 1;
                if reads {
                    read(&mut client, unread).await;
                }
                if halfway {
                    client.raw().write_all(&PART_OF_A_MESSAGE).await.unwrap();
                }
                drop(client);
                until_offline(&self.gateway, id).await;
            }
            Way::Call { read: reads } => {
                tally.api += 1;
                assert!(self.gateway.clonse_client(id).await.result);
                assert!(!self.gateway.client_is_online(id).await.isonline);
                if reads {
                    finish(client, unread, (1000, "")).await;
                }
            }
        }
        self.past.push(id.into());
    }

    /// Clients that the last step found to be too slow read what was on its way, and why no more is.
    async fn see_off_the_slow(&mut self) {
        for (id, unread) in std::mem::take(&mut self.world.closed) {
            let client = self.clients.remove(&id).unwrap();
            finish(client, unread, (1013, "does not read as fast as messages arrive")).await;
            assert!(!self.gateway.client_is_online(&id).await.isonline);
            self.past.push(id);
        }
    }
}

async fn read(client: &mut Client, unread: Vec<Said>) {
    for expected in unread {
        let said = match client.next_message().await {
            Message::Text(text) => Said::text(&text),
            Message::Binary(data) => Said { binary: true, data: data.into() },
            other => panic!("{} read {other:?}, not {}", client.id(), short(&expected)),
        };
        let id = client.id();
        assert!(said == expected, "{id} read {}, not {}", short(&said), short(&expected));
    }
}

/// The client reads the rest, and how it was closed.
async fn finish(mut client: Client, unread: Vec<Said>, (code, reason): (u16, &str)) {
    read(&mut client, unread).await;
    let close = client.next_close().await;
    if reason.is_empty() {
        assert_eq!(close.0, code, "{}", client.id());
    } else {
        assert_eq!(close, (code, reason.to_owned()), "{}", client.id());
    }
    client.ended().await;
}

fn short(said: &Said) -> String {
    let text: String = String::from_utf8_lossy(&said.data).chars().take(80).collect();
    format!("{text:?} (binary: {})", said.binary)
}

/// What a call was answered, or with which code it was refused.
fn outcome<T>(answer: Result<Response<T>, Status>) -> Result<T, Code> {
    answer.map(Response::into_inner).map_err(|status| {
        assert_ne!(status.code(), Code::Unknown, "{status:?}");
        status.code()
    })
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort_unstable();
    list
}
