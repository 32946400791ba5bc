//! Changes of many parts, watched all the time: whoever asks sees a client on one side or on the
//! other, never on both, on none, or with one foot here and one there.
//!
//! Each side is a user, some groups, and an attribute. Clients are moved by `Apply`, several at once,
//! while others ask the directory and send to both sides. What must be seen of a whole that is
//! counted name by name, though clients move meanwhile, are sums that no move changes.

use std::{
    iter::repeat_n,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gateway_websocket::{
    grpc::proto::v1::{
        ApplyMessage, ApplyRequest, AttributeChange, ClientFilter, CountRequest,
        DescribeClientsRequest, Kind, Message, SendRequest, StreamClientsRequest, Target,
        apply_request::UidChange, directory_client::DirectoryClient,
        membership_client::MembershipClient, messages_client::MessagesClient,
    },
    shard::Clock,
};

use super::{
    nothing_is_left, start,
    walk::numbers,
    world::{Attributes, Tally},
};
use crate::{client::Client, gateway::Gateway, random::Random};

/// Groups of each side.
const GROUPS: i32 = 3;

/// How often each group is counted in one call.
const AGAIN: usize = 100;

/// Those who ask while clients are moved.
const WATCHERS: u64 = 2;

const SIDES: [&str; 2] = ["left", "right"];

/// Moves as many clients `steps` times in all, with watchers.
pub async fn watch(seed: u64, steps: u64, moved: usize) {
    let gateway = Arc::new(start(Clock::default(), &[]).await);
    let mut random = Random::new(seed);
    let mut clients = Vec::new();
    for _ in 0..moved {
        let client = gateway.connect().await;
        go_to(&gateway, client.id(), SIDES[0], 0).await;
        clients.push(client);
    }
    let ids: Vec<_> = clients.iter().map(|client| client.id().to_owned()).collect();
    let over = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|nth| {
            let (gateway, over) = (Arc::clone(&gateway), Arc::clone(&over));
            let random = Random::new(random.next());
            tokio::spawn(look_on((gateway, ids.clone()), random, over, nth))
        })
        .collect();
    let movers: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let random = Random::new(random.next());
            tokio::spawn(wander(Arc::clone(&gateway), client, random, steps / moved as u64))
        })
        .collect();
    let mut clients = Vec::new();
    for mover in movers {
        clients.push(mover.await.expect("each client hears what is said to it"));
    }
    over.store(true, Ordering::Relaxed);
    for watcher in watchers {
        let looks = watcher.await.expect("a watcher sees no half");
        assert!(looks > 0, "somebody watched");
    }
    for mut client in clients {
        assert!(gateway.clonse_client(client.id()).await.result);
        assert_eq!(client.read_to_close().await, 1000);
        client.ended().await;
    }
    let opened = moved as u64;
    nothing_is_left(&gateway, &Tally { opened, api: opened, ..Tally::default() }).await;
}

/// Moves the client from side to side; it is told each time, and where it is then.
async fn wander(
    gateway: Arc<Gateway>,
    mut client: Client,
    mut random: Random,
    steps: u64,
) -> Client {
    // Where it came to first.
    assert_eq!(next(&mut client).await, "0 left");
    for step in 1..=steps {
        let side = SIDES[random.below(2)];
        go_to(&gateway, client.id(), side, step).await;
        assert_eq!(next(&mut client).await, format!("{step} {side}"));
    }
    client
}

/// The next message that is not the watchers'.
async fn next(client: &mut Client) -> String {
    loop {
        let text = client.next_text().await;
        if !text.starts_with("watcher") {
            return text;
        }
    }
}

/// One step: the other user, out of the other groups and into these, another attribute, a message.
async fn go_to(gateway: &Gateway, client: &str, side: &str, step: u64) {
    let other = if side == SIDES[0] { SIDES[1] } else { SIDES[0] };
    let request = ApplyRequest {
        client: client.to_owned(),
        uid_change: Some(UidChange::Bind(side.to_owned())),
        leave: groups_of(other),
        join: groups_of(side),
        attributes: Some(AttributeChange { set: attribute(side), ..AttributeChange::default() }),
        messages: vec![ApplyMessage { message: Some(text(format!("{step} {side}"))) }],
        ..ApplyRequest::default()
    };
    let mut calls = MembershipClient::new(gateway.channel());
    calls.apply(request).await.unwrap();
}

fn groups_of(side: &str) -> Vec<String> {
    (0..GROUPS).map(|number| format!("{side} {number}")).collect()
}

fn text(text: String) -> Message {
    Message { kind: Kind::Text.into(), data: text.into() }
}

/// Asks and sends until it is over; answers how often.
async fn look_on(
    (gateway, clients): (Arc<Gateway>, Vec<String>),
    mut random: Random,
    over: Arc<AtomicBool>,
    nth: u64,
) -> u64 {
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        looks += 1;
        let side = SIDES[random.below(2)];
        let other = if side == SIDES[0] { SIDES[1] } else { SIDES[0] };
        match random.below(8) {
            // A user and the groups of a side come and go together.
            3 => {
                let groups = gateway.count_group().await.count;
                assert!([GROUPS, 2 * GROUPS].contains(&groups), "{groups}");
            }
            4 => count(&gateway, clients.len()).await,
            5 => describe(&gateway, &clients).await,
            6 => list(&gateway, side).await,
            // Everybody is a user, and everybody is in a group, whichever.
            0 => matches(&gateway, nth, both(), clients.len()).await,
            // Who moves from the group to the user is the one or the other, at any time.
            7 => {
                // Many more names, so that there is time for it to move while they are looked up.
                let nobody = (0..AGAIN).map(|number| format!("zoe {number}"));
                let uids = nobody.chain([side.to_owned()]).collect();
                let target = Target { uids, groups: groups_of(other), ..Target::default() };
                matches(&gateway, nth, target, clients.len()).await;
            }
            // Nobody is this user without having its attribute and being in all its groups.
            1 => {
                let target = Target {
                    uids: vec![side.to_owned()],
                    groups: groups_of(side),
                    attributes: attribute(other),
                    ..Target::default()
                };
                matches(&gateway, nth, target, 0).await;
            }
            // Nobody is in its groups but is not this user.
            _ => {
                let target = Target {
                    groups: groups_of(side),
                    except_uids: vec![side.to_owned()],
                    ..Target::default()
                };
                matches(&gateway, nth, target, 0).await;
            }
        }
    }
    looks
}

/// As many are a side's user as are in each of its groups, and all are on one side.
async fn count(gateway: &Gateway, clients: usize) {
    // Again and again, so that there is time for something to come in between.
    let groups = SIDES.iter().flat_map(|side| repeat_n(groups_of(side), AGAIN).flatten()).collect();
    let uids = SIDES.map(ToOwned::to_owned).into();
    let mut calls = DirectoryClient::new(gateway.channel());
    let counts = calls.count(CountRequest { groups, uids }).await.unwrap().into_inner();
    let [left, right] = counts.uid_clients[..] else { panic!("{counts:?}") };
    assert_eq!(left + right, i64::try_from(clients).unwrap(), "{counts:?}");
    let (of_left, of_right) = counts.group_members.split_at(counts.group_members.len() / 2);
    assert!(of_left.iter().all(|&members| members == left), "{counts:?}");
    assert!(of_right.iter().all(|&members| members == right), "{counts:?}");
    let sides = i64::from(left > 0) + i64::from(right > 0);
    assert_eq!((counts.uids, counts.groups), (sides, sides * i64::from(GROUPS)), "{counts:?}");
}

/// All that is known of a client is of one side.
async fn describe(gateway: &Gateway, clients: &[String]) {
    let mut calls = DirectoryClient::new(gateway.channel());
    let request = DescribeClientsRequest { clients: clients.to_vec() };
    let described = calls.describe_clients(request).await.unwrap().into_inner().clients;
    assert_eq!(described.len(), clients.len());
    for mut client in described {
        client.groups.sort_unstable();
        assert_eq!(client.groups, groups_of(&client.uid), "{client:?}");
        assert_eq!(client.attributes.into_iter().collect::<Attributes>(), attribute(&client.uid));
    }
}

/// The members of a side's groups are its user's.
async fn list(gateway: &Gateway, side: &str) {
    for group in groups_of(side) {
        let filter = ClientFilter { group, attributes: attribute(side), ..ClientFilter::default() };
        let request = StreamClientsRequest { filter: Some(filter) };
        let mut calls = DirectoryClient::new(gateway.channel());
        let mut parts = calls.stream_clients(request).await.unwrap().into_inner();
        while let Some(part) = parts.message().await.unwrap() {
            assert!(part.clients.iter().all(|client| client.uid == side), "{part:?}");
        }
    }
}

fn both() -> Target {
    let uids = SIDES.map(ToOwned::to_owned).into();
    Target { uids, ..Target::default() }
}

fn attribute<M: FromIterator<(String, String)>>(side: &str) -> M {
    M::from_iter([("side".to_owned(), side.to_owned())])
}

/// The target means so many clients.
async fn matches(gateway: &Gateway, nth: u64, target: Target, expected: usize) {
    let message = Some(text(format!("watcher {nth}")));
    let request = SendRequest { target: Some(target.clone()), message, ..SendRequest::default() };
    let mut calls = MessagesClient::new(gateway.channel());
    let answer = calls.send(request).await.unwrap().into_inner();
    let matched = numbers(answer.delivery).matched;
    assert_eq!(matched, expected as u64, "{target:?}");
}
