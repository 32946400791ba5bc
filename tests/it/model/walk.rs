//! One step after the other: each is done to the gateway and to the model, and the answers are
//! compared.
//!
//! Clients read late: what they are sent waits in the model and on their sockets until there is
//! enough of it, or until they go. What comes must then be exactly what waits, in its order.

use std::collections::BTreeMap;

use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{Log, nothing_is_left, start, until_offline, world::World};
use crate::{client::Client, gateway::Gateway, random::Random};

/// Clients that are connected at most.
const CROWD: usize = 48;

/// Clients that are always connected: one for each shard.
const FEW: usize = 3;

/// Messages that a client leaves unread, and the size of one that it reads at once.
const UNREAD: usize = 64;
const LARGE: usize = 1024;

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
    Bind(String, String),
    Unbind(String),
    Join(String, String),
    Leave(String, String),
    Dissolve(String),
    ToClient(String, String),
    ToUser(String, String),
    ToGroup(String, String),
    ToAll(String),
    AskOfClient(String),
    AskOfUser(String),
    AskOfGroup(String),
    AskOfAll,
    AskEverything,
    /// The call that closes, for somebody who isn't there.
    CloseNobody(String),
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
    world: World,
    clients: BTreeMap<String, Client>,
    random: Random,
    /// Ids of clients that have gone; their slots are used again.
    past: Vec<String>,
    log: Log,
}

/// Walks `steps` random steps, closes everybody, and looks at what is left.
pub async fn walk(seed: u64, steps: u64) {
    let mut walk = Walk {
        gateway: start().await,
        world: World::default(),
        clients: BTreeMap::new(),
        random: Random::new(seed),
        past: Vec::new(),
        log: Log::new(format!("MODEL_SEED={seed} MODEL_STEPS={steps}")),
    };
    for number in 0..steps {
        let step = walk.choose(number);
        walk.log.note(&step);
        walk.take(step).await;
        for client in walk.world.who_should_read(UNREAD, LARGE) {
            walk.read(&client).await;
        }
    }
    walk.ask_everything().await;
    walk.many_go(walk.clients.len()).await;
    assert!(walk.world.clients().is_empty() && walk.world.groups().is_empty());
    walk.ask_everything().await;
    nothing_is_left(&walk.gateway, &walk.world.tally).await;
}

impl Walk {
    fn choose(&mut self, number: u64) -> Step {
        if self.clients.len() < FEW {
            return Step::Connect;
        }
        match self.random.below(1000) {
            0..45 if self.clients.len() < CROWD => Step::Connect,
            100..136 => Step::Go(self.connected(), self.way()),
            136 => Step::ManyGo(self.random.below(self.clients.len())),
            137 => Step::AskEverything,
            138..145 => Step::CloseNobody(self.nobody()),
            145..235 => Step::Bind(self.client(), self.name('u', 12)),
            235..265 => Step::Unbind(self.client()),
            265..395 => Step::Join(self.client(), self.name('g', 10)),
            395..465 => Step::Leave(self.client(), self.name('g', 10)),
            465..475 => Step::Dissolve(self.name('g', 10)),
            475..655 => Step::ToClient(self.client(), self.message(number)),
            655..745 => Step::ToUser(self.name('u', 12), self.message(number)),
            745..815 => Step::ToGroup(self.name('g', 10), self.message(number)),
            815..830 => Step::ToAll(self.message(number)),
            830..860 => Step::AskOfClient(self.client()),
            860..885 => Step::AskOfUser(self.name('u', 12)),
            885..910 => Step::AskOfGroup(self.name('g', 10)),
            910..925 => Step::AskOfAll,
            _ => Step::SayPing(self.connected()),
        }
    }

    async fn take(&mut self, step: Step) {
        let (gateway, world) = (&self.gateway, &mut self.world);
        match step {
            Step::Connect => {
                let client = gateway.connect().await;
                world.connect(client.id());
                self.clients.insert(client.id().into(), client);
            }
            Step::SayPing(client) => {
                self.clients.get_mut(&client).unwrap().say("ping").await;
                world.tally.heard += 1;
                world.expect(&client, "pong");
                self.read(&client).await;
            }
            Step::Go(client, way) => self.go(&client, way).await,
            Step::ManyGo(count) => self.many_go(count).await,
            Step::CloseNobody(client) => {
                assert_eq!(gateway.clonse_client(&client).await.result, !client.is_empty());
            }
            Step::Bind(client, uid) => {
                let bound = gateway.client_bind_uid(&client, &uid).await.result;
                assert_eq!(bound, world.bind(&client, &uid));
            }
            Step::Unbind(client) => {
                assert_eq!(gateway.un_bind_uid(&client).await.result, world.unbind(&client));
            }
            Step::Join(client, group) => {
                let joined = gateway.join_group(&client, &group).await.result;
                assert_eq!(joined, world.join(&client, &group));
            }
            Step::Leave(client, group) => {
                let left = gateway.leave_group(&client, &group).await.result;
                assert_eq!(left, world.leave(&client, &group));
            }
            Step::Dissolve(group) => {
                assert_eq!(gateway.un_group(&group).await.result, world.dissolve(&group));
            }
            Step::ToClient(client, text) => {
                let sent = gateway.send_message_to_client(&client, &text).await.result;
                assert_eq!(sent, world.send_to_client(&client, &text));
            }
            Step::ToUser(uid, text) => {
                let sent = gateway.send_message_to_uid(&uid, &text).await.result;
                assert_eq!(sent, world.send_to_user(&uid, &text));
            }
            Step::ToGroup(group, text) => {
                let answer = gateway.send_message_to_group(&group, &text).await;
                let sent = world.send_to_group(&group, &text);
                assert_eq!((answer.result, size(answer.arrive)), (sent > 0, sent));
            }
            Step::ToAll(text) => {
                let sent = gateway.broadcast_message(&text).await.result;
                assert_eq!(sent, world.send_to_all(&text));
            }
            Step::AskOfClient(client) => self.ask_of_client(&client).await,
            Step::AskOfUser(uid) => self.ask_of_user(&uid).await,
            Step::AskOfGroup(group) => self.ask_of_group(&group).await,
            Step::AskOfAll => self.ask_of_all().await,
            Step::AskEverything => self.ask_everything().await,
        }
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
                    read(&mut client, unread).await;
                    assert_eq!(client.next_close().await.0, 1000);
                    client.ended().await;
                }
            }
        }
        self.past.push(id.into());
    }

    async fn ask_of_client(&self, client: &str) {
        let (gateway, world) = (&self.gateway, &self.world);
        let online = gateway.client_is_online(client).await.isonline;
        assert_eq!(online, world.is_online(client), "{client} is online");
        let uid = gateway.get_client_by_uid(client).await.uid;
        assert_eq!(uid, world.uid_of(client), "uid of {client}");
    }

    async fn ask_of_user(&self, uid: &str) {
        let (gateway, world) = (&self.gateway, &self.world);
        let expected = world.clients_of(uid);
        let online = gateway.uid_is_online(uid).await.result;
        assert_eq!(online, !expected.is_empty(), "{uid:?} is online");
        let clients = gateway.get_uid_by_client(uid).await.clientid;
        assert_eq!(sorted(clients), expected, "clients of {uid:?}");
    }

    async fn ask_of_group(&self, group: &str) {
        let (gateway, world) = (&self.gateway, &self.world);
        let expected = world.members(group);
        let count = gateway.count_online_group(group).await.count;
        assert_eq!(size(count), expected.len(), "count of {group:?}");
        let members = gateway.get_group_online_client(group).await.clientid;
        assert_eq!(sorted(members), expected, "members of {group:?}");
    }

    async fn ask_of_all(&self) {
        let (gateway, world) = (&self.gateway, &self.world);
        let clients = world.clients();
        assert_eq!(size(gateway.count_online_client().await.count), clients.len());
        assert_eq!(sorted(gateway.get_all_online_client().await.client), clients);
        let users = world.users();
        assert_eq!(size(gateway.count_online_uid().await.count), users.len());
        assert_eq!(sorted(gateway.get_all_online_uid().await.uid), users);
        assert_eq!(size(gateway.count_group().await.count), world.groups().len());
    }

    async fn ask_everything(&mut self) {
        self.ask_of_all().await;
        for client in self.world.clients() {
            self.ask_of_client(&client).await;
            self.read(&client).await;
        }
        for number in 0..12 {
            self.ask_of_user(&name('u', number)).await;
            self.ask_of_group(&name('g', number)).await;
        }
    }

    /// The id of a client: mostly of one that is connected.
    fn client(&mut self) -> String {
        if self.random.once_in(12) { self.nobody() } else { self.connected() }
    }

    fn connected(&mut self) -> String {
        self.random.one_of(self.clients.keys()).clone()
    }

    fn nobody(&mut self) -> String {
        match self.random.below(8) {
            0 => String::new(),
            1 => "no id at all".into(),
            2 => "00000000-0000-8000-8000-000000000000".into(),
            _ if self.past.is_empty() => "nobody has gone yet".into(),
            // The last ones to go are the ones whose slots are taken next.
            _ => self.random.one_of(self.past.iter().rev().take(CROWD)).clone(),
        }
    }

    fn way(&mut self) -> Way {
        let (read, halfway) = (self.random.once_in(2), self.random.once_in(3));
        match self.random.below(3) {
            0 => Way::Goodbye(read.then_some(GOODBYE)),
            1 => Way::Drop { halfway, read },
            _ => Way::Call { read },
        }
    }

    fn name(&mut self, what: char, of: usize) -> String {
        match self.random.below(60) {
            0 => String::new(),
            1 => what.to_string().repeat(257),
            _ => name(what, self.random.below(of)),
        }
    }

    /// A message that nobody else sends, if it isn't empty.
    fn message(&mut self, number: u64) -> String {
        match self.random.below(400) {
            0..4 => String::new(),
            4 => format!("{number} {}", "large ".repeat(11_000)),
            5..20 => format!("{number} {}", "grüße ".repeat(30)),
            _ => format!("message {number}"),
        }
    }
}

/// One of the names that are in use; the last one is the longest that a name may be.
fn name(what: char, number: usize) -> String {
    if number == 9 { what.to_string().repeat(256) } else { format!("{what}{number}") }
}

async fn read(client: &mut Client, unread: Vec<String>) {
    for expected in unread {
        let text = client.next_text().await;
        assert!(text == expected, "{} read {text:.80?}, not {expected:.80?}", client.id());
    }
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort_unstable();
    list
}

fn size(count: i32) -> usize {
    usize::try_from(count).unwrap()
}
