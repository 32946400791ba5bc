//! `Messages.SendStream`: order, answers, what is wrong with single messages, and who is made to wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway_websocket::grpc::proto::v1::{
    Delivery, SendRequest, SendStreamRequest, SendStreamResponse, messages_client::MessagesClient,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Endpoint};

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    v1::{NOBODY, all, clients, fault, send},
};

fn item(sequence: u64, sends: Vec<SendRequest>) -> SendStreamRequest {
    SendStreamRequest { sequence, sends }
}

/// Sends the items; the answers, or how the stream failed.
async fn stream(
    gateway: &Gateway,
    items: Vec<SendStreamRequest>,
) -> Result<Vec<SendStreamResponse>, Status> {
    let answers = gateway.messages().send_stream(tokio_stream::iter(items)).await?;
    let answers = answers.into_inner().collect::<Result<Vec<_>, _>>();
    soon("the stream ends", answers).await
}

/// The last answer.
fn last(answers: &[SendStreamResponse]) -> &SendStreamResponse {
    answers.last().expect("an answer")
}

#[tokio::test]
async fn a_stream_is_seen_in_its_order_and_answered_to_its_end() {
    let gateway = Gateway::start().await;
    let mut three = Vec::new();
    for _ in 0..3 {
        three.push(Client::connect(gateway.websocket()).await);
    }
    let ids: Vec<_> = three.iter().map(|client| client.id().to_owned()).collect();
    let mut items = Vec::new();
    let mut expected = vec![Vec::new(); 3];
    for number in 0..2_000u64 {
        let text = number.to_string();
        let at = usize::try_from(number % 3).unwrap();
        let target = if number % 10 == 7 {
            for texts in &mut expected {
                texts.push(text.clone());
            }
            all()
        } else {
            expected[at].push(text.clone());
            clients([&ids[at]])
        };
        items.push(item(number + 1, vec![send(target, &text)]));
    }
    // What comes together in one item is in order as well.
    let together = ["first", "second", "third"].map(|text| send(all(), text));
    for texts in &mut expected {
        texts.extend(["first", "second", "third"].map(str::to_owned));
    }
    items.push(item(5_000, together.into()));

    let answers = stream(&gateway, items).await.unwrap();
    assert!(answers.is_sorted_by(|one, next| one.sequence < next.sequence));
    assert!(answers.iter().all(|answer| answer.failures.is_empty()));
    let deliveries = expected.iter().map(Vec::len).sum::<usize>().try_into().unwrap();
    let total = Delivery { matched: deliveries, queued: deliveries, ..Delivery::default() };
    assert_eq!((last(&answers).sequence, last(&answers).total), (5_000, Some(total)));
    for (client, texts) in three.iter_mut().zip(expected) {
        for text in texts {
            assert_eq!(client.next_text().await, text);
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_one_message_is_told_and_ends_nothing() {
    let gateway = Gateway::start().await;
    let mut client = Client::connect(gateway.websocket()).await;
    let id = client.id().to_owned();
    let once = SendRequest { idempotency_key: "k".to_owned(), ..send(all(), "once") };
    let sends = vec![
        send(clients([&id]), "good"),
        send(clients(["no id"]), "bad"),
        SendRequest { message: None, ..send(all(), "") },
        once,
        send(clients([NOBODY]), "for nobody"),
        send(clients([&id]), "good, too"),
    ];
    let answers = stream(&gateway, vec![item(7, sends), item(8, Vec::new())]).await.unwrap();
    let failures: Vec<_> = answers.iter().flat_map(|answer| &answer.failures).collect();
    let told: Vec<_> =
        failures.iter().map(|it| (it.sequence, it.index, it.field.as_str())).collect();
    let expected = [(7, 1, "target.clients[0]"), (7, 2, "message"), (7, 3, "idempotency_key")];
    assert_eq!(told, expected);
    assert!(failures.iter().all(|failure| failure.code == Code::InvalidArgument as i32));
    assert_eq!(last(&answers).sequence, 8);
    assert_eq!(
        last(&answers).total,
        Some(Delivery { matched: 2, queued: 2, ..Default::default() })
    );
    assert_eq!(client.next_text().await, "good");
    assert_eq!(client.next_text().await, "good, too");
}

#[tokio::test]
async fn a_stream_that_breaks_its_rules_ends_after_what_was_right() {
    let gateway = Gateway::with(&["api.max_sends=2"]).await;
    let mut client = Client::connect(gateway.websocket()).await;
    let good = |sequence| item(sequence, vec![send(all(), &sequence.to_string())]);
    let long = item(9, vec![send(all(), "a"), send(all(), "b"), send(all(), "c")]);
    for (bad, field) in [(good(3), "sequence"), (good(2), "sequence"), (long, "sends")] {
        let answers = gateway
            .messages()
            .send_stream(tokio_stream::iter(vec![good(1), good(3), bad]))
            .await
            .unwrap();
        let mut answers = answers.into_inner();
        let mut done = 0;
        let end = loop {
            match answers.message().await {
                Ok(Some(answer)) => done = answer.sequence,
                Ok(None) => panic!("it ends as if all were well"),
                Err(status) => break status,
            }
        };
        assert_eq!(done, 3, "what came before is done");
        let refused: Result<tonic::Response<()>, _> = Err(end);
        assert_eq!(fault(refused).0, field);
        assert_eq!(client.next_text().await, "1");
        assert_eq!(client.next_text().await, "3");
    }
    // Zero is no sequence number either.
    let zero = stream(&gateway, vec![good(0)]).await.unwrap_err();
    assert_eq!(zero.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_busy_gateway_makes_streams_wait_and_loses_nothing() {
    const ITEMS: u32 = 300;
    let gateway = Arc::new(Gateway::with(&["limits.inbox=1"]).await);
    let mut client = Client::connect(gateway.websocket()).await;
    let mut running = Vec::new();
    for number in 0..4 {
        let gateway = Arc::clone(&gateway);
        running.push(tokio::spawn(async move {
            let item = |index: u32| {
                let text = format!("{number} {index}");
                item(u64::from(index) + 1, vec![send(all(), &text), send(all(), "between")])
            };
            stream(&gateway, (0..ITEMS).map(item).collect()).await
        }));
    }
    let mut next = [0; 4];
    for _ in 0..4 * ITEMS * 2 {
        let text = client.next_text().await;
        if let Some((number, index)) = text.split_once(' ') {
            let number: usize = number.parse().unwrap();
            assert_eq!(index.parse(), Ok(next[number]));
            next[number] += 1;
        }
    }
    for stream in running {
        let answers = stream.await.unwrap().unwrap();
        assert_eq!(last(&answers).total.unwrap().queued, i64::from(ITEMS * 2));
    }
}

#[tokio::test]
async fn who_does_not_read_the_answers_is_stopped_by_flow_control() {
    const ITEMS: usize = 1_000;
    let gateway = Gateway::start().await;
    // A caller who takes hardly more than one answer at a time.
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.grpc())).unwrap();
    let channel = endpoint.initial_stream_window_size(64).connect().await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let items = {
        let (asked, text) = (Arc::clone(&asked), "x".repeat(64 * 1024));
        tokio_stream::iter(1..=ITEMS as u64).map(move |sequence| {
            asked.fetch_add(1, Ordering::Relaxed);
            item(sequence, vec![send(clients([NOBODY]), &text)])
        })
    };
    let answers = MessagesClient::new(channel).send_stream(items).await.unwrap();
    // It goes on for as long as somebody has room for it: unstopped, it is through in a second or two.
    let (mut before, mut still) = (0, 0);
    while still < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await; // nobody tells that nothing happens
        let now = asked.load(Ordering::Relaxed);
        still = if now > 0 && now == before { still + 1 } else { 0 };
        before = now;
    }
    assert!(before < ITEMS / 2, "{before} items of 64 KiB were taken, and no answer was read");
    let answers = answers.into_inner().collect::<Result<Vec<_>, _>>();
    let answers = soon("the stream goes on", answers).await.unwrap();
    assert_eq!(last(&answers).sequence, ITEMS as u64);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_open() {
    let gateway = Gateway::with(&["api.max_streams=1"]).await;
    for _ in 0..20 {
        // The one before may have to be seen off first.
        let open = async {
            loop {
                let (items, stream) = tokio::sync::mpsc::channel(1);
                let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
                if let Ok(answers) = gateway.messages().send_stream(stream).await {
                    break (items, answers);
                }
            }
        };
        let (items, _answers) = soon("there is a place again", open).await;
        items.send(item(1, vec![send(all(), "going")])).await.unwrap();
    }
}
