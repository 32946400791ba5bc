//! `Messages.SendStream`: many messages, one behind the other, and how far they have come.
//!
//! ```text
//!  items ──► batch: what has arrived by now ──► hub.send_all ──► under way ──► answer ──► caller
//!    ▲                                                              │
//!    └───────── not read while enough is under way, or while nobody takes the answers
//! ```
//!
//! So a stream costs a bounded amount of memory, however fast it sends and however slowly it reads:
//! what it sends beyond that stays with the caller, by HTTP/2's flow control. Its window is a part of
//! the connection's (`grpc/connection.rs`), so a stream that isn't read blocks no other call.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::{Stream as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    V1,
    convert::Reading,
    fault::{self, Faults},
    proto::{SendFailure, SendRequest, SendStreamRequest, SendStreamResponse},
};
use crate::{
    config::{Config, Live},
    hub::{Hub, HubError},
    message::{Payload, Receipt, Target},
};

/// Messages that are passed on together, if as many have arrived.
const BATCH: usize = 256;

/// Of `limits.inbox`, the part that a batch takes up: one over so many. A batch needs its places all
/// at once; so it finds them although others come for a place now and then.
const PART_OF_INBOX: usize = 4;

/// Bytes of items that are passed on together, unless one is larger.
const BATCH_BYTES: usize = 256 * 1024;

/// Batches that may be under way: enough that the shards have work while the next one is read.
const UNDER_WAY: usize = 4;

/// Answers that wait to be taken by the caller.
const ANSWERS: usize = 4;

/// The answers of one stream.
pub(super) type Answers = ReceiverStream<Result<SendStreamResponse, Status>>;

/// Serves one stream, in a task that ends with it.
pub(super) fn serve(
    api: &V1,
    request: Request<Streaming<SendStreamRequest>>,
) -> Result<Response<Answers>, Status> {
    let place = api.streams.enter()?;
    let (answers, taken) = mpsc::channel(ANSWERS);
    let items = Items {
        stream: request.into_inner(),
        live: api.live.clone(),
        sequence: 0,
        held: None,
        end: None,
    };
    let hub = api.hub.clone();
    tokio::spawn(async move {
        let _place = place;
        run(&hub, items, &answers).await;
    });
    Ok(Response::new(ReceiverStream::new(taken)))
}

/// Passes on what comes and answers what is done, until both are at their end or the caller is gone.
async fn run(hub: &Hub, mut items: Items, answers: &mpsc::Sender<Answer>) {
    let mut under_way = VecDeque::new();
    let mut total = Receipt::default();
    while items.end.is_none() || !under_way.is_empty() {
        let reads = items.end.is_none() && under_way.len() < UNDER_WAY;
        let answer = tokio::select! {
            // What is done first: nobody waits for an answer because of what he sends meanwhile.
            biased;
            () = answers.closed() => return,
            answer = oldest(&mut under_way, &mut total), if !under_way.is_empty() => answer,
            batch = poll_fn(|context| items.poll_batch(context)), if reads => {
                let passed_on = tokio::select! {
                    () = answers.closed() => return,
                    passed_on = pass_on(hub, batch) => passed_on,
                };
                match passed_on {
                    Ok(Some(batch)) => under_way.push_back(batch),
                    Ok(None) => {}
                    Err(error) => items.end = Some(Err(fault::status(&error))),
                }
                continue;
            }
        };
        let ends = answer.is_err();
        if answers.send(answer).await.is_err() || ends {
            return;
        }
    }
    if let Some(Err(status)) = items.end {
        // Who is gone needs no reason.
        let _ = answers.send(Err(status)).await;
    }
}

type Answer = Result<SendStreamResponse, Status>;

/// Gives a batch to the shards, as soon as they have room for it.
async fn pass_on(hub: &Hub, batch: Batch) -> Result<Option<UnderWay>, HubError> {
    let Batch { sequence, sends, failures, bytes: _ } = batch;
    if sequence == 0 {
        return Ok(None);
    }
    let receipts = Box::pin(hub.send_all(sends).await?);
    Ok(Some(UnderWay { sequence, failures, receipts }))
}

/// Waits for the oldest batch and makes its answer. Dropped before, it has changed nothing.
async fn oldest(under_way: &mut VecDeque<UnderWay>, total: &mut Receipt) -> Answer {
    let Some(first) = under_way.front_mut() else {
        // Nobody asks then; and if somebody did, there would be nothing to wait for.
        return Err(Status::internal("nothing is under way"));
    };
    let receipts = first.receipts.as_mut().await.map_err(|error| fault::status(&error))?;
    for receipt in receipts {
        *total += receipt;
    }
    let (sequence, failures) = match under_way.pop_front() {
        Some(done) => (done.sequence, done.failures),
        None => Default::default(),
    };
    Ok(SendStreamResponse { sequence, total: Some((*total).into()), failures })
}

/// Items that are passed on together.
#[derive(Default)]
struct Batch {
    /// The last item's; zero if there is none.
    sequence: u64,
    sends: Vec<(Target, Payload)>,
    failures: Vec<SendFailure>,
    bytes: usize,
}

/// A batch that the shards have.
struct UnderWay {
    sequence: u64,
    failures: Vec<SendFailure>,
    receipts: Pin<Box<dyn Future<Output = Result<Vec<Receipt>, HubError>> + Send>>,
}

/// What the caller sends.
struct Items {
    stream: Streaming<SendStreamRequest>,
    live: Live,
    /// The last item's.
    sequence: u64,
    /// An item that was too much for the batch before, and begins the next one.
    held: Option<SendStreamRequest>,
    /// How the caller's side ended, once it has.
    end: Option<Result<(), Status>>,
}

impl Items {
    /// Waits for an item and takes those with it that have arrived by then. What comes at the end
    /// of the stream may be empty.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Batch> {
        let config = self.live.snapshot();
        let most = (config.limits.inbox / PART_OF_INBOX).clamp(1, BATCH);
        let mut batch = Batch::default();
        if let Some(item) = self.held.take() {
            batch.take(item, &config);
        }
        while self.end.is_none() && batch.len() < most && batch.bytes < BATCH_BYTES {
            match Pin::new(&mut self.stream).poll_next(context) {
                Poll::Ready(Some(Ok(item))) => match self.check(&item, &config) {
                    Ok(()) if batch.sequence > 0 && batch.len() + item.sends.len() > most => {
                        self.held = Some(item);
                        break;
                    }
                    Ok(()) => batch.take(item, &config),
                    Err(faults) => self.end = Some(Err(faults.into())),
                },
                Poll::Ready(Some(Err(status))) => {
                    self.end = Some(Err(fault::unread(status, &config)));
                }
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending if batch.sequence == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(batch)
    }

    /// Whether the stream can go on with this item.
    fn check(&mut self, item: &SendStreamRequest, config: &Config) -> Result<(), Faults> {
        let mut reading = Reading::new(config);
        if item.sequence <= self.sequence {
            let (now, before) = (item.sequence, self.sequence);
            reading.fault(
                "sequence",
                format_args!("{now} after {before}: must be larger than the one before"),
            );
        }
        reading.fits("sends", item.sends.len(), ("api.max_sends", config.api.max_sends));
        self.sequence = item.sequence;
        reading.done(Some(()))
    }
}

impl Batch {
    /// Messages, good and bad.
    fn len(&self) -> usize {
        self.sends.len() + self.failures.len()
    }

    fn take(&mut self, item: SendStreamRequest, config: &Config) {
        self.sequence = item.sequence;
        self.bytes += item.encoded_len();
        for (index, send) in (0..).zip(item.sends) {
            match read(send, config) {
                Ok(send) => self.sends.push(send),
                Err(faults) => {
                    let (field, why) = faults.first();
                    self.failures.push(SendFailure {
                        sequence: item.sequence,
                        index,
                        field: field.to_owned(),
                        code: Code::InvalidArgument as i32,
                        message: format!("{field}: {why}"),
                    });
                }
            }
        }
    }
}

fn read(send: SendRequest, config: &Config) -> Result<(Target, Payload), Faults> {
    let mut reading = Reading::new(config);
    let send = reading.streamed(send);
    reading.done(send)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{Arc, Mutex},
    };

    use bytes::{BufMut as _, Bytes, BytesMut};
    use http_body_util::Full;
    use tonic::codec::Codec as _;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::{
        grpc::proto::v1::{Message, Target},
        shard::{Clock, NewConnection},
        sink::{Ear, EventSink, NoSink, Opened, Wake},
    };

    /// What is sent is there at once; item by item, so many messages.
    fn items(inbox: usize, sends: &[usize]) -> Items {
        let mut config = Config::default();
        config.limits.inbox = inbox;
        let mut body = BytesMut::new();
        for (sequence, &sends) in (1..).zip(sends) {
            let send = SendRequest {
                target: Some(Target { all: true, ..Target::default() }),
                message: Some(Message { kind: 1, data: "hello".into() }),
                ..SendRequest::default()
            };
            let item = SendStreamRequest { sequence, sends: vec![send; sends] };
            body.put_u8(0);
            body.put_u32(item.encoded_len().try_into().unwrap());
            item.encode(&mut body).unwrap();
        }
        let decoder = ProstCodec::<SendStreamRequest, _>::default().decoder();
        let body = Full::new(Bytes::from(body));
        let stream = Streaming::new_request(decoder, body, None, None);
        Items { stream, live: Live::new(config), sequence: 0, held: None, end: None }
    }

    /// Last sequence number and number of messages of each batch.
    async fn batches(mut items: Items) -> Vec<(u64, usize)> {
        let mut batches = Vec::new();
        while items.end.is_none() {
            let batch = poll_fn(|context| items.poll_batch(context)).await;
            if batch.sequence > 0 {
                batches.push((batch.sequence, batch.len()));
            }
        }
        assert!(items.held.is_none() && matches!(items.end, Some(Ok(()))));
        batches
    }

    #[tokio::test]
    async fn a_batch_takes_up_a_quarter_of_the_inbox_and_at_least_one_item() {
        for (inbox, sends, expected) in [
            (8, &[1, 1, 1, 1, 1][..], &[(2, 2), (4, 2), (5, 1)][..]),
            (8, &[1, 2, 1, 1], &[(1, 1), (2, 2), (4, 2)]),
            (8, &[1, 5, 0, 1, 9], &[(1, 1), (2, 5), (4, 1), (5, 9)]),
            (1, &[1, 1, 2], &[(1, 1), (2, 1), (3, 2)]),
            (4096, &[200, 56, 1, 256], &[(2, 256), (3, 1), (4, 256)]),
        ] {
            assert_eq!(batches(items(inbox, sends)).await, expected, "{inbox} {sends:?}");
        }
    }

    /// Holds the shard up at the arrival of a client, until it is let go.
    struct Stuck(Mutex<Option<StuckEar>>);

    struct StuckEar(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

    impl EventSink for Stuck {
        fn ear(&self, _: u16, _: Wake) -> Box<dyn Ear> {
            // The first shard has the client.
            let ear = self.0.lock().unwrap().take();
            ear.map_or_else(|| NoSink.ear(0, Arc::new(|| ())), |ear| Box::new(ear))
        }
    }

    impl Ear for StuckEar {
        fn opened(&mut self, _: &Opened<'_>) {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
        }
    }

    #[tokio::test]
    async fn a_stream_that_waits_for_room_ends_when_its_caller_goes_away() {
        let (is_stuck, stuck) = std::sync::mpsc::channel();
        let (let_go, held) = std::sync::mpsc::channel();
        let mut config = Config::default();
        config.limits.inbox = 1;
        let sink = Arc::new(Stuck(Mutex::new(Some(StuckEar(is_stuck, held)))));
        let (hub, threads) = Hub::start(&Live::new(config), sink, Clock::default()).unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        hub.adopt(NewConnection {
            stream,
            tls: None,
            greeting: Vec::new(),
            leftover: Vec::new(),
            peer,
            window: None,
            about: None,
            change: None,
            permit: hub.permit().unwrap(),
        });
        stuck.recv().unwrap();
        let first = Payload::from_text(crate::message::Kind::Text, "first".to_owned());
        let first = hub.send_all(vec![(crate::message::Target::All, first)]).await.unwrap();

        let (answers, taken) = mpsc::channel(ANSWERS);
        let mut running = pin!(run(&hub, items(1, &[1, 1]), &answers));
        let polled = poll_fn(|context| Poll::Ready(running.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "the inbox is full");
        drop(taken);
        let ended = tokio::time::timeout(std::time::Duration::from_mins(1), running).await;
        ended.expect("it ends though there is no room still");
        let_go.send(()).unwrap();
        assert_eq!(first.await.unwrap()[0].queued, 1);
        hub.stop();
        threads.join();
    }
}
