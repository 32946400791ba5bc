//! What comes all at once: nobody who reads is closed for it.

use gateway_websocket::{
    close::Cause,
    grpc::proto::v1::{ApplyRequest, SendRequest, SendStreamRequest},
};
use tokio_stream::StreamExt as _;

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    subscriber::{Subscriber, opened},
    v1::{applied, clients, queued, send},
};

/// Two of them don't fit into a queue of `limits.queue_bytes`.
const LARGE: usize = 600_000;

fn large(first: char) -> String {
    first.to_string().repeat(LARGE)
}

fn two(client: &str) -> Vec<SendRequest> {
    ['a', 'b'].map(|first| send(clients([client]), &large(first))).into()
}

/// The client reads both, in order, and stays.
async fn reads_two(gateway: &Gateway, client: &mut Client) {
    for first in ['a', 'b'] {
        let text = client.next_text().await;
        assert_eq!((text.len(), text.chars().next()), (LARGE, Some(first)));
    }
    gateway.mark(client.id()).await;
    assert_eq!(client.next_text().await, "marker");
    assert_eq!(gateway.closed(Cause::Slow), 0);
}

/// Sends items to a client; none is refused.
async fn stream(gateway: &Gateway, items: Vec<Vec<SendRequest>>) {
    let items = (1..).zip(items).map(|(sequence, sends)| SendStreamRequest { sequence, sends });
    let items: Vec<_> = items.collect();
    let answers = gateway.messages().send_stream(tokio_stream::iter(items)).await.unwrap();
    let answers = answers.into_inner().collect::<Result<Vec<_>, _>>();
    for answer in soon("the end of the stream", answers).await.unwrap() {
        assert!(answer.failures.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn two_large_messages_in_one_item_of_a_stream_reach_who_reads() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    stream(&gateway, vec![two(ada.id())]).await;
    reads_two(&gateway, &mut ada).await;
}

#[tokio::test]
async fn two_large_messages_in_one_apply_reach_who_reads() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    let messages = ['a', 'b'].map(|first| applied(&large(first))).into();
    let request = ApplyRequest { client: ada.id().to_owned(), messages, ..ApplyRequest::default() };
    let answer = gateway.membership().apply(request).await.unwrap().into_inner();
    assert_eq!(answer.delivery, Some(queued(2)));
    reads_two(&gateway, &mut ada).await;
}

#[tokio::test]
async fn two_large_messages_in_one_acknowledgement_reach_who_reads() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut ada = gateway.connect().await;
    let event = subscriber.next().await;
    opened(&event);
    subscriber.acknowledge_with(event.cursor, Vec::new(), two(ada.id())).await;
    reads_two(&gateway, &mut ada).await;
}

#[tokio::test]
async fn many_large_messages_of_a_stream_reach_who_reads() {
    const ITEMS: usize = 10;
    const LEN: usize = 900_000;
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    let text = "x".repeat(LEN);
    let items = (0..ITEMS).map(|_| vec![send(clients([ada.id()]), &text)]).collect();
    let reading = async {
        for _ in 0..ITEMS {
            assert_eq!(ada.next_text().await.len(), LEN);
        }
    };
    tokio::join!(stream(&gateway, items), reading);
    assert_eq!(gateway.closed(Cause::Slow), 0);
}

#[tokio::test]
async fn the_longest_message_of_a_call_fits_into_an_empty_queue() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    // What a request has beside it is less than a KiB.
    let text = "x".repeat((4 << 20) - 1024);
    assert_eq!(gateway.send(send(clients([ada.id()]), &text)).await, queued(1));
    assert_eq!(ada.next_text().await.len(), text.len());
    assert_eq!(gateway.closed(Cause::Slow), 0);
}
