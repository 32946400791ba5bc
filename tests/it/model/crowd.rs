//! Several callers at once.
//!
//! Each caller has clients of its own, and only it binds, moves and closes them; so what it says is
//! heard by its own clients as its own model says, exactly. Of the clients of others it knows those
//! that stay: they hear all it says to everybody and to them. Whatever else they hear of it (the
//! names of groups and users are common to all) must come in its order, and once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gateway_websocket::{
    grpc::proto::v1::{
        ApplyMessage, ApplyRequest, Kind, Message as Body, SendRequest, SendStreamRequest, Target,
        apply_request::UidChange, membership_client::MembershipClient,
        messages_client::MessagesClient,
    },
    shard::Clock,
};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Log, nothing_is_left,
    queue::{Said, Terms},
    start, until_offline,
    walk::{Stream, numbers},
    world::{Tally, World},
};
use crate::{client::Client, gateway::Gateway, random::Random};

/// Callers, and for each the clients that stay and those that come and go.
const CALLERS: usize = 4;
const STAYING: usize = 6;
const PASSING: usize = 4;

/// The most clients that there can be.
const EVERYBODY: u64 = (CALLERS * (STAYING + PASSING)) as u64;

/// What a client read between its welcome and its close frame.
type Reading = JoinHandle<Vec<String>>;

struct Caller {
    name: String,
    gateway: Arc<Gateway>,
    random: Random,
    log: Log,
    /// Its own clients, and what they hear of it.
    world: World,
    reading: BTreeMap<String, Reading>,
    /// Its own clients that stay.
    staying: BTreeSet<String>,
    /// What clients of others that stay hear of it at least.
    others: BTreeMap<String, Vec<String>>,
    /// What its clients that have gone heard.
    gone: Vec<(String, Vec<String>)>,
    said: u64,
    stream: Stream,
    /// The number of the stream's last item.
    item: u64,
}

/// Lets the callers call `steps` times each, and looks at what was heard and what is left.
pub async fn crowd(seed: u64, steps: u64) {
    let gateway = Arc::new(start(Clock::default(), &[]).await);
    let mut random = Random::new(seed);
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let run = format!("MODEL_SEED={seed}, caller {number}");
        let random = Random::new(random.next());
        callers.push(Caller::new(number, Arc::clone(&gateway), random, Log::new(run)).await);
    }
    for number in 0..CALLERS {
        let others = callers.iter().filter(|other| other.name != callers[number].name);
        let others = others.flat_map(|other| other.staying.iter().cloned());
        callers[number].others = others.map(|client| (client, Vec::new())).collect();
    }
    let calling: Vec<_> =
        callers.into_iter().map(|caller| tokio::spawn(caller.call(steps))).collect();
    let mut callers = Vec::new();
    for caller in calling {
        callers.push(caller.await.expect("each caller gets the answers it expects"));
    }
    counts_are_the_sums(&gateway, &callers).await;
    everyone_heard(&mut callers).await;
    let mut tally = Tally::default();
    for caller in &callers {
        tally.opened += caller.world.tally.opened;
        tally.api += caller.world.tally.api;
        tally.lost += caller.world.tally.lost;
    }
    nothing_is_left(&gateway, &tally).await;
}

async fn counts_are_the_sums(gateway: &Gateway, callers: &[Caller]) {
    let all = |of: &dyn Fn(&World) -> Vec<String>| -> Vec<String> {
        let mut all: Vec<_> = callers.iter().flat_map(|caller| of(&caller.world)).collect();
        all.sort_unstable();
        all
    };
    let distinct = |mut all: Vec<String>| {
        all.dedup();
        all
    };
    let sorted = |mut list: Vec<String>| {
        list.sort_unstable();
        list
    };
    let clients = all(&World::clients);
    assert!(clients.len() >= CALLERS * STAYING);
    assert_eq!(sorted(gateway.get_all_online_client().await.client), clients);
    let users = distinct(all(&World::users));
    assert_eq!(sorted(gateway.get_all_online_uid().await.uid), users);
    let groups = distinct(all(&World::groups));
    assert_eq!(gateway.count_group().await.count, i32::try_from(groups.len()).unwrap());
    for uid in users {
        let clients = gateway.get_uid_by_client(&uid).await.clientid;
        assert_eq!(sorted(clients), all(&|world| world.clients_of(&uid)), "clients of {uid}");
    }
    for group in groups {
        let members = gateway.get_group_online_client(&group).await.clientid;
        assert_eq!(sorted(members), all(&|world| world.members(&group)), "members of {group}");
    }
}

/// Closes everybody and compares what they heard with what was said.
async fn everyone_heard(callers: &mut [Caller]) {
    let mut heard = Vec::new();
    for caller in &mut *callers {
        for client in caller.world.clients() {
            caller.close(&client).await;
        }
        heard.append(&mut caller.gone);
    }
    assert!(heard.len() >= CALLERS * STAYING);
    for (client, heard) in &heard {
        for caller in &*callers {
            let of_it = heard.iter().filter(|text| text.starts_with(&caller.name));
            let numbers: Vec<u64> = of_it.clone().map(|text| number_of(text)).collect();
            let once_in_order = numbers.is_sorted_by(|a, b| a < b);
            assert!(once_in_order, "{client} heard {}: {numbers:?}", caller.name);
            // All of it was said, and what had to be heard was; the caller looked at its own.
            assert!(numbers.last().is_none_or(|&last| last < caller.said));
            if let Some(said) = caller.others.get(client) {
                let to_some = |text: &str| text.ends_with("group") || text.ends_with("user");
                let rest: Vec<_> = of_it.filter(|text| !to_some(text)).collect();
                let said: Vec<_> = said.iter().collect();
                assert_eq!(rest, said, "{client} heard {}", caller.name);
            }
        }
    }
}

/// The number of a message that its caller gave it.
fn number_of(text: &str) -> u64 {
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

impl Caller {
    async fn new(number: usize, gateway: Arc<Gateway>, random: Random, log: Log) -> Self {
        let mut caller = Self {
            name: format!("caller{number}"),
            stream: Stream::open(&gateway).await,
            item: 0,
            gateway,
            random,
            log,
            world: World::default(),
            reading: BTreeMap::new(),
            staying: BTreeSet::new(),
            others: BTreeMap::new(),
            gone: Vec::new(),
            said: 0,
        };
        for _ in 0..STAYING {
            caller.connect().await;
        }
        caller.staying = caller.world.clients().into_iter().collect();
        caller
    }

    async fn call(mut self, steps: u64) -> Self {
        for _ in 0..steps {
            let choice = self.random.below(150);
            let client = self.random.one_of(self.world.in_order().iter()).clone();
            let name = self.random.below(5).to_string();
            self.log.note(&(choice, &client, &name));
            self.step(choice, &client, &name).await;
        }
        self
    }

    async fn step(&mut self, choice: usize, client: &str, name: &str) {
        let gateway = Arc::clone(&self.gateway);
        match choice {
            0..5 if self.reading.len() < STAYING + PASSING => self.connect().await,
            0..10 if !self.staying.contains(client) => {
                if self.random.once_in(2) {
                    self.close(client).await;
                } else {
                    self.lose(client).await;
                }
            }
            0..20 => {
                let text = self.text("all");
                assert!(gateway.broadcast_message(&text).await.result);
                self.world.send_to_all(&text);
                self.others.values_mut().for_each(|said| said.push(text.clone()));
            }
            20..30 => {
                let text = self.text("client");
                let other = self.random.one_of(self.others.keys()).clone();
                assert!(gateway.send_message_to_client(&other, &text).await.result);
                self.others.get_mut(&other).unwrap().push(text);
            }
            30..40 => {
                let text = self.text("client");
                assert!(gateway.send_message_to_client(client, &text).await.result);
                assert!(self.world.send_to_client(client, &text));
            }
            40..52 => {
                let text = self.text("group");
                let answer = gateway.send_message_to_group(name, &text).await;
                let own = self.world.send_to_group(name, &text);
                let arrive = u64::try_from(answer.arrive).unwrap();
                assert!((own..=EVERYBODY).contains(&arrive), "{own} of mine, {arrive} in all");
            }
            52..64 => {
                let text = self.text("user");
                let sent = gateway.send_message_to_uid(name, &text).await.result;
                let own = self.world.send_to_user(name, &text);
                assert!(sent || !own);
            }
            64..74 => {
                assert!(gateway.client_bind_uid(client, name).await.result);
                assert!(self.world.bind(client, name));
                assert_eq!(gateway.get_client_by_uid(client).await.uid, name);
            }
            74..78 => {
                assert!(gateway.un_bind_uid(client).await.result);
                assert!(self.world.unbind(client));
            }
            78..90 => {
                assert!(gateway.join_group(client, name).await.result);
                assert!(self.world.join(client, name));
            }
            100..115 => self.send_once(client, name).await,
            115..130 => self.stream(client, name).await,
            130..150 => self.apply(client, name).await,
            _ => {
                // Others may be in the group, so only of a member the answer is known.
                let member = self.world.members(name).contains(&client.to_owned());
                let left = gateway.leave_group(client, name).await.result;
                self.world.leave(client, name);
                assert!(left || !member);
            }
        }
    }

    /// The same call twice at once, and once more.
    async fn send_once(&mut self, client: &str, name: &str) {
        let text = self.text("group");
        let target = Target {
            clients: vec![client.to_owned()],
            groups: vec![name.to_owned()],
            uids: vec![name.to_owned()],
            ..Target::default()
        };
        let own = self.say(&target, &text);
        let request = SendRequest { idempotency_key: text.clone(), ..request(target, text) };
        let send = || {
            let mut calls = MessagesClient::new(self.gateway.channel());
            let request = request.clone();
            async move { numbers(calls.send(request).await.unwrap().into_inner().delivery) }
        };
        let (one, other) = tokio::join!(send(), send());
        assert_eq!(one, other);
        assert_eq!(one, send().await);
        assert!((own..=EVERYBODY).contains(&one.queued), "{own} of mine, {one:?} in all");
    }

    /// Items of a stream, of which the last is waited for.
    async fn stream(&mut self, client: &str, name: &str) {
        for _ in 0..=self.random.below(3) {
            let all = Target { all: true, ..Target::default() };
            let one = Target { clients: vec![client.to_owned()], ..Target::default() };
            let group = Target { groups: vec![name.to_owned()], ..Target::default() };
            let texts = [self.text("all"), self.text("client"), self.text("group")];
            self.others.values_mut().for_each(|said| said.push(texts[0].clone()));
            let sends = [all, one, group].into_iter().zip(texts);
            let sends = sends.map(|(target, text)| {
                self.say(&target, &text);
                request(target, text)
            });
            let sends = sends.collect();
            self.item += 1;
            self.stream.send(SendStreamRequest { sequence: self.item, sends });
        }
        // Nothing else is said before, since its order would not be known.
        let (total, failures) = self.stream.acknowledged(self.item).await;
        assert!(failures.is_empty() && total.matched >= self.item, "{failures:?} {total:?}");
    }

    async fn apply(&mut self, client: &str, name: &str) {
        let text = self.text("client");
        let message = Body { kind: Kind::Text.into(), data: text.clone().into() };
        let request = ApplyRequest {
            client: client.to_owned(),
            uid_change: Some(UidChange::Bind(name.to_owned())),
            join: vec![name.to_owned()],
            messages: vec![ApplyMessage { message: Some(message) }],
            ..ApplyRequest::default()
        };
        let had = self.world.uid_of(client);
        let was_in = self.world.members(name).contains(&client.to_owned());
        assert!(self.world.bind(client, name) && self.world.join(client, name));
        assert!(self.world.send_to_client(client, &text));
        let mut calls = MembershipClient::new(self.gateway.channel());
        let answer = calls.apply(request).await.unwrap().into_inner();
        assert_eq!((answer.uid_changed, answer.joined), (had != name, i64::from(!was_in)));
        assert_eq!(numbers(answer.delivery).queued, 1);
    }

    /// What its own clients hear of it; answers how many of them.
    fn say(&mut self, target: &Target, text: &str) -> u64 {
        let own = self.world.whom(target);
        self.world.send(&own, &Said::text(text), &Terms::default()).queued
    }

    async fn connect(&mut self) {
        let client = self.gateway.connect().await;
        self.world.connect(client.id());
        self.reading.insert(client.id().into(), tokio::spawn(read(client)));
    }

    /// Closes the client, which must have heard all that this caller said to it.
    async fn close(&mut self, client: &str) {
        assert!(self.gateway.clonse_client(client).await.result);
        assert!(!self.gateway.client_is_online(client).await.isonline);
        self.world.tally.api += 1;
        let said = self.world.disconnect(client);
        let said = said.into_iter().map(|said| String::from_utf8(said.data).unwrap());
        let heard = self.reading.remove(client).unwrap().await.unwrap();
        let own = heard.iter().filter(|text| text.starts_with(&self.name));
        assert_eq!(own.cloned().collect::<Vec<_>>(), said.collect::<Vec<_>>(), "{client}");
        self.gone.push((client.into(), heard));
    }

    /// The client's connection breaks.
    async fn lose(&mut self, client: &str) {
        self.reading.remove(client).unwrap().abort();
        until_offline(&self.gateway, client).await;
        self.world.tally.lost += 1;
        self.world.disconnect(client);
    }

    fn text(&mut self, to: &str) -> String {
        self.said += 1;
        format!("{} {} to {to}", self.name, self.said - 1)
    }
}

fn request(target: Target, text: String) -> SendRequest {
    let message = Some(Body { kind: Kind::Text.into(), data: text.into() });
    SendRequest { target: Some(target), message, ..SendRequest::default() }
}

async fn read(mut client: Client) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        match client.next_message().await {
            Message::Text(text) => heard.push(text.to_string()),
            Message::Close(Some(frame)) => {
                assert_eq!(u16::from(frame.code), 1000);
                client.ended().await;
                return heard;
            }
            other => panic!("a text or a close frame was expected, not {other:?}"),
        }
    }
}
