//! `Messages.SendStream`: many messages, one behind the other, and how far they have come.
//!
//! ```text
//!  items ──► batch: what has arrived by now ──► hub.send_all ──► under way ──► answer ──► caller
//!    ▲                                                              │
//!    └───────── not read while enough is under way, or while nobody takes the answers
//! ```
//!
//! So a stream costs a bounded amount of memory, however fast it sends and however slowly it reads:
//! what it sends beyond that stays with the caller, by HTTP/2's flow control.

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
    let items =
        Items { stream: request.into_inner(), live: api.live.clone(), sequence: 0, end: None };
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
    /// How the caller's side ended, once it has.
    end: Option<Result<(), Status>>,
}

impl Items {
    /// Waits for an item and takes those with it that have arrived by then. What comes at the end
    /// of the stream may be empty.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Batch> {
        let config = self.live.snapshot();
        let mut batch = Batch::default();
        while self.end.is_none() && batch.len() < BATCH && batch.bytes < BATCH_BYTES {
            match Pin::new(&mut self.stream).poll_next(context) {
                Poll::Ready(Some(Ok(item))) => match self.check(&item, &config) {
                    Ok(()) => batch.take(item, &config),
                    Err(faults) => self.end = Some(Err(faults.into())),
                },
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(status)),
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
            reading.fault("sequence", format_args!("is {now}, after {before}: it has to grow"));
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
                        message: format!("{field} {why}"),
                    });
                }
            }
        }
    }
}

fn read(send: SendRequest, config: &Config) -> Result<(Target, Payload), Faults> {
    let mut reading = Reading::new(config);
    if !send.idempotency_key.is_empty() {
        reading.fault("idempotency_key", "is for single calls, not for a stream");
    }
    let send = reading.send(send);
    reading.done(send)
}
