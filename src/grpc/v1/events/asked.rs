//! What a subscriber says: how it begins, then acknowledgements, read whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prost::Message as _;
use tokio_stream::{Stream as _, StreamExt as _};
use tonic::{Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::super::{
    convert::Reading,
    fault::{self, Faults},
    proto::{Acknowledgement, SubscribeRequest, SubscribeStart, subscribe_request},
};
use crate::{
    change::Change,
    config::{Config, Live, value::span},
    events::SubscribeOptions,
    ids::{ClientId, Name},
    message::{Payload, Target},
};

/// Acknowledgements that are taken together, if as many have arrived.
const BATCH: usize = 256;

/// Bytes of these, unless one is larger.
const BATCH_BYTES: usize = 256 * 1024;

/// The caller's side of a stream.
pub(super) struct Asked {
    stream: Streaming<SubscribeRequest>,
    live: Live,
    /// Was read, and is to be worked on after what came before it.
    next: Option<Step>,
    /// How it ended, once it has.
    end: Option<Result<(), Status>>,
}

/// An acknowledgement that is right in itself.
pub(super) struct Step {
    epoch: u64,
    cursor: u64,
    pub(super) applies: Vec<(ClientId, Change)>,
    pub(super) sends: Vec<(Target, Payload)>,
}

impl Step {
    /// Epoch and cursor.
    pub(super) fn at(&self) -> (u64, u64) {
        (self.epoch, self.cursor)
    }

    /// Whether it wants nothing done.
    pub(super) fn is_plain(&self) -> bool {
        self.applies.is_empty() && self.sends.is_empty()
    }
}

impl Asked {
    pub(super) fn new(stream: Streaming<SubscribeRequest>, live: Live) -> Self {
        Self { stream, live, next: None, end: None }
    }

    /// Waits for the first request: the group, and what is wished.
    pub(super) async fn start(&mut self) -> Result<(Name, SubscribeOptions), Status> {
        let first = self.stream.next().await.transpose();
        let config = self.live.snapshot();
        let first = first.map_err(|status| fault::unread(status, &config))?;
        let mut reading = Reading::new(&config);
        let step = first.and_then(|request| request.step);
        let start = if let Some(subscribe_request::Step::Start(start)) = step {
            read_start(&mut reading, &start)
        } else {
            reading.fault("start", "missing: it must be the first request");
            None
        };
        Ok(reading.done(start)?)
    }

    /// How the caller's side ended, once it has and all before it was taken.
    pub(super) fn end(&mut self) -> Option<Result<(), Status>> {
        self.end.take_if(|_| self.next.is_none())
    }

    /// Something that was said is wrong: nothing more is taken.
    pub(super) fn fail(&mut self, status: Status) {
        self.next = None;
        self.end = Some(Err(status));
    }

    /// Waits for an acknowledgement and takes those with it that have arrived by then and that can
    /// be worked on together: changes come first, so no other one brings any. There may be none at
    /// the end.
    pub(super) fn poll_steps(&mut self, context: &mut Context<'_>) -> Poll<Vec<Step>> {
        let config = self.live.snapshot();
        let mut steps: Vec<_> = self.next.take().into_iter().collect();
        let mut bytes = 0;
        while self.end.is_none() && steps.len() < BATCH && bytes < BATCH_BYTES {
            let request = match Pin::new(&mut self.stream).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => request,
                Poll::Ready(Some(Err(status))) => {
                    self.end = Some(Err(fault::unread(status, &config)));
                    break;
                }
                Poll::Ready(None) => {
                    self.end = Some(Ok(()));
                    break;
                }
                Poll::Pending if steps.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            bytes += request.encoded_len();
            match read(request, &config) {
                Ok(step) if !step.applies.is_empty() && !steps.is_empty() => {
                    self.next = Some(step);
                    break;
                }
                Ok(step) => steps.push(step),
                Err(faults) => self.end = Some(Err(faults.into())),
            }
        }
        Poll::Ready(steps)
    }
}

/// The status of a stream on which nobody said anything.
pub(super) fn late(time: Duration) -> Status {
    let text = format!("no start came within limits.handshake ({})", span::format(time));
    let key = [("key".to_owned(), "limits.handshake".to_owned())];
    let details = ErrorDetails::with_error_info("LATE", "gateway.v1", key);
    Status::with_error_details(tonic::Code::DeadlineExceeded, text, details)
}

fn read_start(
    reading: &mut Reading<'_>,
    start: &SubscribeStart,
) -> Option<(Name, SubscribeOptions)> {
    let group = reading.name("start.group", &start.group);
    let window = usize::try_from(start.window);
    if window.is_err() {
        reading.fault("start.window", format_args!("{} not allowed: use 0 or more", start.window));
    }
    let (group, window) = group.zip(window.ok())?;
    let window = Some(window).filter(|window| *window > 0);
    Some((group, SubscribeOptions { window, snapshots: start.snapshots }))
}

fn read(request: SubscribeRequest, config: &Config) -> Result<Step, Faults> {
    let mut reading = Reading::new(config);
    let step = match request.step {
        Some(subscribe_request::Step::Acknowledgement(acknowledgement)) => {
            read_acknowledgement(&mut reading, acknowledgement)
        }
        Some(subscribe_request::Step::Start(_)) => {
            reading.fault("start", "sent twice: only the first request is a start");
            None
        }
        None => {
            reading.fault("acknowledgement", "missing");
            None
        }
    };
    reading.done(step)
}

fn read_acknowledgement(reading: &mut Reading<'_>, of: Acknowledgement) -> Option<Step> {
    let Acknowledgement { epoch, cursor, applies, sends } = of;
    let (many, most) = (applies.len() + sends.len(), reading.config().api.max_sends);
    if many > most {
        let why = format_args!("{many} changes and messages, api.max_sends allows {most}");
        reading.fault("acknowledgement", why);
        return None;
    }
    let mut step = Step { epoch, cursor, applies: Vec::new(), sends: Vec::new() };
    for (index, apply) in applies.into_iter().enumerate() {
        reading.within(format_args!("acknowledgement.applies[{index}]."), |reading| {
            let client = reading.client("client", &apply.client);
            let change = reading.change(apply);
            step.applies.extend(client.map(|client| (client, change)));
        });
    }
    for (index, send) in sends.into_iter().enumerate() {
        reading.within(format_args!("acknowledgement.sends[{index}]."), |reading| {
            step.sends.extend(reading.streamed(send));
        });
    }
    Some(step)
}
