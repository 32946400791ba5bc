//! `gateway.v1.Messages/SendStream`: a stream that lives through many steps.

use futures_util::stream;
use gateway_websocket::grpc::proto::v1::{
    SendRequest, SendStreamRequest, SendStreamResponse, messages_client::MessagesClient,
    send_request::WhenBehind,
};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::{
    Walk,
    send::{is_valid_send, numbers},
};
use crate::{client::soon, gateway::Gateway, model::world::Numbers};

/// Items that are on their way at once, at most.
const ITEMS: usize = 4;

pub struct Stream {
    items: mpsc::UnboundedSender<SendStreamRequest>,
    answers: Streaming<SendStreamResponse>,
    /// The last item's number, and what all of them came to.
    sequence: u64,
    total: Numbers,
}

/// A message that was not sent: item, index, code.
type Failure = (u64, i32, i32);

impl Stream {
    pub async fn open(gateway: &Gateway) -> Self {
        let (items, outgoing) = mpsc::unbounded_channel();
        let outgoing = stream::unfold(outgoing, |mut items| async move {
            let item = items.recv().await?;
            Some((item, items))
        });
        let mut client = MessagesClient::new(gateway.channel());
        let answers = soon("the stream", client.send_stream(outgoing)).await.unwrap().into_inner();
        Self { items, answers, sequence: 0, total: Numbers::default() }
    }

    pub fn send(&self, item: SendStreamRequest) {
        self.items.send(item).expect("the stream is open");
    }

    /// Waits until the item is acknowledged; answers the total and what failed since.
    pub async fn acknowledged(&mut self, sequence: u64) -> (Numbers, Vec<Failure>) {
        let mut failures = Vec::new();
        loop {
            let answer = soon("an acknowledgement", self.answers.message()).await;
            let answer = answer.unwrap().expect("the stream is open");
            assert!(answer.sequence <= sequence, "{} was not sent yet", answer.sequence);
            failures.extend(answer.failures.iter().map(|it| (it.sequence, it.index, it.code)));
            if answer.sequence == sequence {
                return (numbers(answer.total), failures);
            }
        }
    }
}

impl Walk {
    /// A few items, and whether all are sent before the first is acknowledged.
    pub(super) fn items(&mut self, number: u64) -> (Vec<SendStreamRequest>, bool) {
        let mut sequence = self.stream.as_ref().map_or(0, |stream| stream.sequence);
        let mut items = Vec::new();
        let mut keys = 0;
        for _ in 0..=self.random.below(ITEMS) {
            sequence += 1 + u64::try_from(self.random.below(3)).unwrap();
            let mut sends = Vec::new();
            for _ in 0..self.random.below(4) {
                // Small ones: large ones at once could be more than a client's kernel takes.
                let mut send = self.unkeyed_request(number, true);
                // Of two with the same key that come together, one may find the other unsent.
                if let Some(WhenBehind::ConflateKey(key)) = &mut send.when_behind
                    && !key.is_empty()
                {
                    *key = format!("key {keys}");
                    keys += 1;
                }
                if self.random.once_in(60) {
                    send.idempotency_key = format!("not in a stream {number}");
                }
                sends.push(send);
            }
            items.push(SendStreamRequest { sequence, sends });
        }
        (items, self.random.once_in(2))
    }

    pub(super) async fn send_items(&mut self, items: Vec<SendStreamRequest>, together: bool) {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Stream::open(&self.gateway).await,
        };
        let mut expected = Vec::new();
        let (last, count) = (items.last().map_or(0, |item| item.sequence), items.len());
        for (nth, item) in items.into_iter().enumerate() {
            stream.send(item.clone());
            stream.sequence = item.sequence;
            for (index, send) in item.sends.iter().enumerate() {
                if is_valid_send(send) && send.idempotency_key.is_empty() {
                    stream.total += self.deliver(send);
                } else {
                    let index = i32::try_from(index).unwrap();
                    expected.push((item.sequence, index, Code::InvalidArgument.into()));
                }
            }
            if !together || nth + 1 == count {
                let (total, failures) = stream.acknowledged(item.sequence).await;
                assert_eq!(total, stream.total, "after item {}", item.sequence);
                assert_eq!(failures, std::mem::take(&mut expected), "up to item {}", item.sequence);
            }
        }
        assert_eq!(stream.sequence, last);
        self.stream = Some(stream);
    }

    /// The stream ends: by its caller, or because the caller counts wrongly.
    pub(super) async fn end_stream(&mut self, wrongly: bool) {
        let Some(Stream { items, mut answers, sequence, total }) = self.stream.take() else {
            return;
        };
        if wrongly {
            let sends = vec![SendRequest::default()];
            items.send(SendStreamRequest { sequence, sends }).unwrap();
        }
        drop(items);
        let end = loop {
            match soon("the end of the stream", answers.message()).await {
                Ok(Some(answer)) => {
                    assert_eq!((answer.sequence, numbers(answer.total)), (sequence, total));
                    assert!(answer.failures.is_empty(), "{:?}", answer.failures);
                }
                Ok(None) => break Code::Ok,
                Err(status) => break status.code(),
            }
        };
        assert_eq!(end, if wrongly { Code::InvalidArgument } else { Code::Ok });
    }
}
