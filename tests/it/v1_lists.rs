//! `gateway.v1.Directory`: lists, page by page and as streams, while clients come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use gateway_websocket::{
    attributes::Retouch,
    change::Change,
    grpc::proto::v1::{
        ClientEntry, ClientFilter, ListClientsRequest, ListClientsResponse, ListGroupsRequest,
        ListUidsRequest, StreamClientsRequest, StreamGroupsRequest, StreamUidsRequest,
    },
    ids::Name,
};
use tonic::{Code, Streaming};

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    v1_directory::{directory, fault},
};

/// One page of clients.
async fn page(gateway: &Gateway, request: &ListClientsRequest) -> ListClientsResponse {
    directory(gateway).list_clients(request.clone()).await.unwrap().into_inner()
}

/// All pages of clients.
async fn all(gateway: &Gateway, filter: ClientFilter, page_size: i32) -> Vec<ClientEntry> {
    let mut request =
        ListClientsRequest { filter: Some(filter), page_size, page_token: String::new() };
    let mut entries = Vec::new();
    loop {
        let answer = page(gateway, &request).await;
        assert!(page_size == 0 || answer.clients.len() <= usize::try_from(page_size).unwrap());
        entries.extend(answer.clients);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return entries;
        }
    }
}

/// Whom a filter finds, sorted.
async fn found(gateway: &Gateway, filter: ClientFilter) -> Vec<String> {
    let mut ids: Vec<_> = all(gateway, filter, 2).await.into_iter().map(|one| one.id).collect();
    ids.sort();
    ids
}

async fn all_uids(gateway: &Gateway, prefix: &str, group: &str, page_size: i32) -> Vec<String> {
    let (prefix, group) = (prefix.to_owned(), group.to_owned());
    let mut request = ListUidsRequest { prefix, group, page_size, page_token: String::new() };
    let mut uids = Vec::new();
    loop {
        let answer = directory(gateway).list_uids(request.clone()).await.unwrap().into_inner();
        assert!(page_size == 0 || answer.uids.len() <= usize::try_from(page_size).unwrap());
        uids.extend(answer.uids);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return uids;
        }
    }
}

async fn all_groups(gateway: &Gateway, prefix: &str, page_size: i32) -> Vec<(String, i64)> {
    let prefix = prefix.to_owned();
    let mut request = ListGroupsRequest { prefix, page_size, page_token: String::new() };
    let mut groups = Vec::new();
    loop {
        let answer = directory(gateway).list_groups(request.clone()).await.unwrap().into_inner();
        assert!(page_size == 0 || answer.groups.len() <= usize::try_from(page_size).unwrap());
        groups.extend(answer.groups.into_iter().map(|group| (group.name, group.members)));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return groups;
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text, 64).unwrap()
}

/// Gives a client a uid, groups and attributes.
async fn place(
    gateway: &Gateway,
    client: &Client,
    uid: &str,
    groups: &[&str],
    attributes: &[(&str, &str)],
) {
    let set = attributes.iter().map(|&(key, value)| (name(key), Box::from(value))).collect();
    let change = Change {
        uid: Some((!uid.is_empty()).then(|| name(uid))),
        join: groups.iter().map(|group| name(group)).collect(),
        attributes: Some(Retouch { set, ..Retouch::default() }),
        ..Change::default()
    };
    gateway.hub().change(client.id().parse().unwrap(), change).await.unwrap();
}

fn ids<'a>(clients: impl IntoIterator<Item = &'a Client>) -> Vec<String> {
    let mut ids: Vec<_> = clients.into_iter().map(|client| client.id().to_owned()).collect();
    ids.sort();
    ids
}

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
#[expect(clippy::many_single_char_names, reason = "six clients, told apart by what they are given")]
async fn filters_are_all_met_at_once() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<6>().await;
    let [a, b, c, d, e, f] = &clients;
    place(&gateway, a, "user-1", &["lobby"], &[("lang", "de"), ("role", "x")]).await;
    place(&gateway, b, "user-2", &["lobby", "bar"], &[("lang", "de")]).await;
    place(&gateway, c, "user-2", &[], &[("lang", "en")]).await;
    place(&gateway, d, "robot", &["lobby"], &[("lang", "de")]).await;
    place(&gateway, e, "", &["bar"], &[]).await;
    let prefix = |prefix: &str| ClientFilter { uid_prefix: prefix.into(), ..Default::default() };
    let group = |group: &str| ClientFilter { group: group.into(), ..Default::default() };
    let has = |pairs| ClientFilter { attributes: attributes(pairs), ..Default::default() };
    let cases: Vec<(ClientFilter, Vec<&Client>)> = vec![
        (ClientFilter::default(), vec![a, b, c, d, e, f]),
        (prefix("user-"), vec![a, b, c]),
        (prefix("user-2"), vec![b, c]),
        (prefix("user-22"), vec![]),
        (group("lobby"), vec![a, b, d]),
        (group("bar"), vec![b, e]),
        (group("none"), vec![]),
        (has(&[("lang", "de")]), vec![a, b, d]),
        (has(&[("lang", "de"), ("role", "x")]), vec![a]),
        (has(&[("lang", "d")]), vec![]),
        (ClientFilter { group: "lobby".into(), ..prefix("user") }, vec![a, b]),
        (ClientFilter { group: "lobby".into(), ..has(&[("lang", "de")]) }, vec![a, b, d]),
        (
            ClientFilter { group: "bar".into(), uid_prefix: "u".into(), ..has(&[("lang", "de")]) },
            vec![b],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(found(&gateway, filter.clone()).await, ids(expected), "{filter:?}");
    }
    let entries = all(&gateway, prefix("robot"), 0).await;
    assert_eq!((entries[0].id.as_str(), entries[0].uid.as_str()), (d.id(), "robot"));
}

#[tokio::test]
async fn who_connected_since_can_be_asked_for() {
    let gateway = Gateway::start().await;
    let early = gateway.connect().await;
    // Two tenths of a second, which is what the times are told to.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let late = gateway.connect().await;
    let entries = all(&gateway, ClientFilter::default(), 0).await;
    let connected = |client: &Client| {
        entries.iter().find(|entry| entry.id == client.id()).and_then(|entry| entry.connected_at)
    };
    let since = |at| ClientFilter { connected_since: at, ..ClientFilter::default() };
    let (first, second) = (connected(&early), connected(&late));
    assert!(first.is_some() && first.unwrap().seconds <= second.unwrap().seconds);
    assert_eq!(found(&gateway, since(first)).await, ids([&early, &late]));
    assert_eq!(found(&gateway, since(second)).await, ids([&late]));
    for (seconds, expected) in [(-62_135_596_800, 2), (0, 2), (253_402_300_799, 0)] {
        let at = prost_types::Timestamp { seconds, nanos: 0 };
        assert_eq!(found(&gateway, since(Some(at))).await.len(), expected, "{seconds}");
    }
}

#[tokio::test]
async fn who_stays_is_in_exactly_one_page_while_others_come_and_go() {
    let gateway = Gateway::start().await;
    let stay = gateway.connect_n::<20>().await;
    let mut others: Vec<Client> = gateway.connect_n::<10>().await.into();
    for client in stay.iter().chain(&others) {
        place(&gateway, client, client.id(), &["lobby"], &[]).await;
    }
    for page_size in [1, 2, 3, 7, 30, 1000] {
        for group in ["", "lobby"] {
            let filter = ClientFilter { group: group.into(), ..ClientFilter::default() };
            let mut request =
                ListClientsRequest { filter: Some(filter), page_size, page_token: String::new() };
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            loop {
                let answer = page(&gateway, &request).await;
                for entry in answer.clients {
                    *seen.entry(entry.id).or_default() += 1;
                }
                if answer.next_page_token.is_empty() {
                    break;
                }
                request.page_token = answer.next_page_token;
                // One goes, one comes.
                let gone = others.remove(0);
                assert!(gateway.clonse_client(gone.id()).await.result);
                let new = gateway.connect().await;
                place(&gateway, &new, new.id(), &["lobby"], &[]).await;
                others.push(new);
            }
            for client in &stay {
                assert_eq!(seen.get(client.id()), Some(&1), "{page_size} {group}");
            }
            assert!(seen.values().all(|&times| times == 1), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn uids_and_groups_are_listed_once_each() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<12>().await;
    let mut expected_groups = BTreeMap::new();
    for (number, client) in clients.iter().enumerate() {
        // Two clients a user, who are in a group of their own and in one for all.
        let (uid, group) = (format!("user-{}", number / 2), format!("own-{}", number / 2));
        place(&gateway, client, &uid, &[&group, "lobby"], &[]).await;
        *expected_groups.entry(group).or_insert(0) += 1;
    }
    let anonymous = gateway.connect().await;
    place(&gateway, &anonymous, "", &["lobby"], &[]).await;
    expected_groups.insert("lobby".to_owned(), 13);
    let expected_uids: BTreeSet<_> = (0..6).map(|number| format!("user-{number}")).collect();
    for page_size in [1, 2, 5, 6, 7, 0] {
        let uids = all_uids(&gateway, "", "", page_size).await;
        assert_eq!((uids.len(), uids.into_iter().collect()), (6, expected_uids.clone()));
        let uids = all_uids(&gateway, "user-", "lobby", page_size).await;
        assert_eq!((uids.len(), uids.into_iter().collect()), (6, expected_uids.clone()));
        let groups = all_groups(&gateway, "", page_size).await;
        assert_eq!((groups.len(), groups.into_iter().collect()), (7, expected_groups.clone()));
    }
    assert_eq!(all_uids(&gateway, "user-3", "", 1).await, ["user-3"]);
    assert_eq!(all_uids(&gateway, "", "own-3", 1).await, ["user-3"]);
    assert_eq!(all_uids(&gateway, "user-2", "own-3", 1).await, [""; 0]);
    assert_eq!(all_uids(&gateway, "", "none", 1).await, [""; 0]);
    assert_eq!(all_groups(&gateway, "own-3", 1).await, [("own-3".to_owned(), 2)]);
    assert_eq!(all_groups(&gateway, "none", 1).await, []);
}

#[tokio::test]
async fn uids_of_a_large_group_are_listed_once_each_and_also_while_it_becomes_small() {
    const MEMBERS: usize = 1100;
    let gateway = Gateway::start().await;
    let mut clients = Vec::new();
    for number in 0..MEMBERS + 20 {
        let client = gateway.connect().await;
        let groups: &[&str] = if number < MEMBERS { &["crowd"] } else { &[] };
        // Some have two clients in the group, some one in it and one outside.
        place(&gateway, &client, &format!("user-{}", number % (MEMBERS - 10)), groups, &[]).await;
        clients.push(client);
    }
    let expected: BTreeSet<_> = (0..MEMBERS - 10).map(|number| format!("user-{number}")).collect();
    for page_size in [99, 0] {
        let uids = all_uids(&gateway, "", "crowd", page_size).await;
        assert_eq!((uids.len(), uids.into_iter().collect()), (expected.len(), expected.clone()));
    }
    assert_eq!(all_uids(&gateway, "user-77", "crowd", 1).await.len(), 11);

    let ask = |page_token| ListUidsRequest {
        group: "crowd".to_owned(),
        page_size: 500,
        page_token,
        ..ListUidsRequest::default()
    };
    let first = directory(&gateway).list_uids(ask(String::new())).await.unwrap().into_inner();
    assert_eq!(first.uids.len(), 500);
    for client in &clients[..400] {
        assert!(gateway.leave_group(client.id(), "crowd").await.result);
    }
    let mut seen: BTreeSet<_> = first.uids.into_iter().collect();
    let second = directory(&gateway).list_uids(ask(first.next_page_token)).await.unwrap();
    for uid in second.into_inner().uids {
        assert!(seen.insert(uid.clone()), "{uid} is on both pages");
    }
    let stay = clients.len() - 20 - 400;
    let stayed = (400..MEMBERS).map(|number| format!("user-{}", number % (MEMBERS - 10)));
    let missing: Vec<_> = stayed.filter(|uid| !seen.contains(uid)).collect();
    assert!(missing.is_empty(), "of {stay} who stay: {missing:?}");
}

#[tokio::test]
async fn names_that_stay_are_listed_once_while_others_come_and_go() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<30>().await;
    for (number, client) in clients.iter().enumerate() {
        let (uid, group) = (format!("stays-{number}"), format!("stays-{number}"));
        place(&gateway, client, &uid, &[&group], &[]).await;
    }
    let coming = gateway.connect().await;
    let mut request = ListUidsRequest { page_size: 1, ..ListUidsRequest::default() };
    let mut groups = ListGroupsRequest { page_size: 1, ..ListGroupsRequest::default() };
    let (mut uids, mut names) = (Vec::new(), Vec::new());
    for number in 0.. {
        let answer = directory(&gateway).list_uids(request.clone()).await.unwrap().into_inner();
        uids.extend(answer.uids);
        request.page_token = answer.next_page_token;
        let answer = directory(&gateway).list_groups(groups.clone()).await.unwrap().into_inner();
        names.extend(answer.groups.into_iter().map(|group| group.name));
        groups.page_token = answer.next_page_token;
        if request.page_token.is_empty() || groups.page_token.is_empty() {
            assert!(request.page_token.is_empty() || uids.len() >= 30);
            break;
        }
        let (uid, group) = (format!("new-{number}"), format!("new-{number}"));
        place(&gateway, &coming, &uid, &[&group], &[]).await;
        assert!(gateway.leave_group(coming.id(), group).await.result);
    }
    for names in [&uids, &names] {
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
    let stays = |names: &[String]| names.iter().filter(|it| it.starts_with("stays-")).count();
    // One of them has come to its end, and the other has at most a few names to go.
    assert!(stays(&uids) == 30 || stays(&names) == 30, "{uids:?} {names:?}");
}

#[tokio::test]
async fn a_token_is_good_for_its_own_list_only() {
    let (gateway, other) = (Gateway::start().await, Gateway::start().await);
    let clients = gateway.connect_n::<3>().await;
    for client in &clients {
        place(&gateway, client, client.id(), &[client.id()], &[]).await;
    }
    let first = ListClientsRequest { page_size: 1, ..ListClientsRequest::default() };
    let token = page(&gateway, &first).await.next_page_token;
    assert!(!token.is_empty());
    let request = |token: &str| ListClientsRequest { page_token: token.into(), ..first.clone() };
    // It can be used twice, and with another page size.
    let again = page(&gateway, &request(&token)).await;
    assert_eq!(page(&gateway, &request(&token)).await, again);
    let rest = page(&gateway, &ListClientsRequest { page_size: 9, ..request(&token) }).await;
    assert_eq!((rest.clients.len(), rest.next_page_token.as_str()), (2, ""));

    let filter = ClientFilter { uid_prefix: "a".into(), ..ClientFilter::default() };
    let filtered = ListClientsRequest { filter: Some(filter), ..request(&token) };
    let cut = &token[..token.len() - 1];
    let mut refused = Vec::new();
    for (words, asked) in [
        ("other filters", filtered),
        ("not a page token", request("garbage")),
        ("not a page token", request("not base 64!")),
        ("not a page token", request(cut)),
        ("not a page token", request(&format!("{token}A"))),
    ] {
        refused.push((words, directory(&gateway).list_clients(asked).await.unwrap_err()));
    }
    let elsewhere = directory(&other).list_clients(request(&token)).await.unwrap_err();
    refused.push(("not a page token of this run", elsewhere));
    let asked = ListUidsRequest { page_token: token.clone(), ..ListUidsRequest::default() };
    refused.push(("another list", directory(&gateway).list_uids(asked).await.unwrap_err()));
    let asked = ListGroupsRequest { page_token: token, ..ListGroupsRequest::default() };
    refused.push(("another list", directory(&gateway).list_groups(asked).await.unwrap_err()));
    // Of the same call with a group more.
    let asked = ListUidsRequest { page_size: 1, ..ListUidsRequest::default() };
    let uids = directory(&gateway).list_uids(asked.clone()).await.unwrap().into_inner();
    let group = clients[0].id().to_owned();
    let asked = ListUidsRequest { group, page_token: uids.next_page_token, ..asked };
    refused.push(("other filters", directory(&gateway).list_uids(asked).await.unwrap_err()));
    for (words, status) in refused {
        assert_eq!(fault(&status), ("page_token".to_owned(), true), "{status:?}");
        assert!(status.message().contains(words), "{words}: {status:?}");
    }
}

/// Reads a stream to its end; answers its answers.
async fn read<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut answers = Vec::new();
    while let Some(answer) = soon("an answer", stream.message()).await.unwrap() {
        answers.push(answer);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_tell_all_of_thousands() {
    let gateway = Gateway::with(&["api.max_page=100"]).await;
    let mut clients = Vec::new();
    for number in 0..2500 {
        let client = gateway.connect().await;
        let uid = format!("user-{}", number / 2);
        place(&gateway, &client, &uid, &["all", &format!("group-{}", number / 5)], &[]).await;
        clients.push(client);
    }
    let everybody = ids(&clients);
    for group in ["", "all"] {
        let filter = Some(ClientFilter { group: group.into(), ..ClientFilter::default() });
        let asked = StreamClientsRequest { filter };
        let stream = directory(&gateway).stream_clients(asked).await.unwrap().into_inner();
        let answers = read(stream).await;
        assert!(answers.iter().all(|answer| (1..=100).contains(&answer.clients.len())));
        let mut ids: Vec<_> =
            answers.into_iter().flat_map(|it| it.clients).map(|one| one.id).collect();
        ids.sort();
        assert!(ids == everybody, "{} of {}", ids.len(), everybody.len());
        assert_eq!(all(&gateway, ClientFilter::default(), 0).await.len(), 2500);

        let asked = StreamUidsRequest { prefix: "user-".into(), group: group.into() };
        let stream = directory(&gateway).stream_uids(asked).await.unwrap().into_inner();
        let answers = read(stream).await;
        assert!(answers.iter().all(|answer| (1..=100).contains(&answer.uids.len())));
        let uids: Vec<_> = answers.into_iter().flat_map(|answer| answer.uids).collect();
        assert_eq!((uids.len(), uids.iter().collect::<BTreeSet<_>>().len()), (1250, 1250));
    }
    let asked = StreamGroupsRequest { prefix: "group-".into() };
    let stream = directory(&gateway).stream_groups(asked).await.unwrap().into_inner();
    let groups: Vec<_> = read(stream).await.into_iter().flat_map(|answer| answer.groups).collect();
    let names: BTreeSet<_> = groups.iter().map(|group| &group.name).collect();
    assert_eq!((groups.len(), names.len()), (500, 500));
    assert!(groups.iter().all(|group| group.members == 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_make_short_pages() {
    const GROUPS: usize = 100;
    let gateway = Gateway::with(&["limits.names=65535"]).await;
    let client = gateway.connect().await;
    let groups: Vec<_> = (0..GROUPS).map(|it| format!("{it:>65535}")).collect();
    let names = groups.iter().map(|group| Name::new(group, 65_535).unwrap()).collect();
    let id = client.id().parse().unwrap();
    gateway.hub().change(id, Change::join(names)).await.unwrap();
    // The caller's library takes 4 MiB, and these are 6.5.
    let listed: Vec<_> = all_groups(&gateway, "", 0).await.into_iter().map(|it| it.0).collect();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(sorted, groups);
    let stream = directory(&gateway).stream_groups(StreamGroupsRequest::default()).await;
    let answers = read(stream.unwrap().into_inner()).await;
    let streamed = answers.iter().flat_map(|it| &it.groups).map(|it| it.name.clone());
    assert_eq!(streamed.collect::<Vec<_>>(), listed);
    assert!(answers.len() > 3, "{}", answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_for_a_shard_that_is_busy() {
    let gateway = Gateway::with(&["api.max_page=1", "limits.inbox=1", "shards=1"]).await;
    let clients = gateway.connect_n::<50>().await;
    let everybody = ids(&clients);
    let before = gateway.hub().busy().inbox.get();
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let mut directory = directory(&gateway);
        reading.spawn(async move {
            let asked = StreamClientsRequest::default();
            read(directory.stream_clients(asked).await.unwrap().into_inner()).await
        });
    }
    while let Some(answers) = reading.join_next().await {
        let answers = answers.unwrap();
        let mut ids: Vec<_> =
            answers.into_iter().flat_map(|it| it.clients).map(|one| one.id).collect();
        ids.sort();
        assert_eq!(ids, everybody);
    }
    assert!(gateway.hub().busy().inbox.get() > before, "the shard never was busy");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_nobody_and_ends_with_the_gateway() {
    let gateway = Gateway::with(&["api.max_page=1"]).await;
    let clients = gateway.connect_n::<200>().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let asked = StreamClientsRequest::default();
        streams.push(directory(&gateway).stream_clients(asked).await.unwrap().into_inner());
    }
    // Nothing is read, and everything goes on.
    for client in &clients {
        assert!(gateway.send_message_to_client(client.id(), "hello").await.result);
    }
    assert_eq!(gateway.hub().waiting_calls().sum::<u64>(), 0);
    // One that is let go is no burden either; the next is read to its end.
    drop(streams.pop());
    let answers = read(streams.pop().unwrap()).await;
    assert_eq!(answers.len(), 200);
    gateway.hub().stop();
    let ended = async {
        for stream in &mut streams {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                        break;
                    }
                }
            }
        }
    };
    soon("the ends of the streams", ended).await;
}
