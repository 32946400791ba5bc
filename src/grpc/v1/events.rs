//! `gateway.v1.Events`: what clients do, and what the subscriber has done about it.
//!
//! ```text
//!  first request: start ─► Events::subscribe ─► hello
//!  group ─► take ─► a batch ──────────────────────────────┐
//!  acknowledgements ─► plain ones at once                 ├─► answers ─► caller
//!        └► with changes and messages: work ─► then ─┬─► done (what failed)
//!           (the next ones aren't read meanwhile)    └─► acknowledged
//! ```
//!
//! A stream holds a bounded amount of memory: nothing is taken from the group before there is room
//! for it, and what the caller says beyond what is worked on stays with the caller, by HTTP/2's flow
//! control. Who reads nothing acknowledges nothing, and loses his place by `events.ack_timeout`.

mod asked;
mod presence;
mod tell;
mod work;

use std::future::poll_fn;

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::{asked::Asked, presence::Presence, work::Work};
use super::{
    V1,
    proto::{self, Done, SubscribeRequest, SubscribeResponse, subscribe_response::Step},
};
use crate::{
    access::Caller,
    config::Live,
    events::{Ended, Events, Subscription},
    hub::{Hub, HubError},
};

/// Events that leave together, if as many wait.
const BATCH: usize = 128;

/// Bytes of their content, unless one has more.
const BATCH_BYTES: usize = 256 * 1024;

/// Answers that wait to be taken by the caller: one that is being sent, and one behind it.
const ANSWERS: usize = 2;

/// The answers of one stream.
pub(super) type Answers = ReceiverStream<Answer>;

type Answer = Result<SubscribeResponse, Status>;

#[tonic::async_trait]
impl proto::events_server::Events for V1 {
    type SubscribeStream = Answers;

    /// The head of the answer comes at once: a caller may wait for it before he says `start`.
    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (answers, taken) = mpsc::channel(ANSWERS);
        let (hub, events, live) = (self.hub.clone(), self.events.clone(), self.live.clone());
        let caller = request.extensions().get::<Caller>().cloned();
        let asked = Asked::new(request.into_inner(), live.clone());
        tokio::spawn(async move {
            let served = serve(&hub, &events, &live, asked, caller, &answers);
            let ended = tokio::select! {
                ended = served => ended,
                () = answers.closed() => return,
            };
            if let Err(status) = ended {
                // Who is gone needs no reason.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(taken)))
    }
}

/// Carries a stream to its end, by which the place in the group is given up.
async fn serve(
    hub: &Hub,
    events: &Events,
    live: &Live,
    mut asked: Asked,
    caller: Option<Caller>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Status> {
    let time = live.snapshot().limits.handshake;
    let begun = timeout(time, asked.start()).await;
    let (group, wish) = begun.map_err(|_| asked::late(time))??;
    let subscription = events.subscribe(&group, wish).map_err(|why| tell::refused(&why, &group))?;
    let window = subscription.window();
    let mut presence = Presence::new(group.as_str(), caller.as_ref(), window);
    let hello = tell::hello(events.epoch(), window);
    // Only who is gone takes no first answer.
    let _ = answers.send(Ok(hello)).await;
    let (work, done) = (None, None);
    let stream = Stream { hub, subscription, asked, work, done, acknowledges: false, mute: false };
    let outcome = stream.run(answers, &mut presence).await;
    presence.ends(&outcome);
    outcome
}

/// A subscription under way.
struct Stream<'a> {
    hub: &'a Hub,
    subscription: Subscription,
    asked: Asked,
    /// What acknowledgements want to be done. Until it is, no others are read.
    work: Option<Work>,
    /// What is to be told of it. Until it is, no others are read, either.
    done: Option<Done>,
    /// Whether anything was ever acknowledged.
    acknowledges: bool,
    /// Whether the caller has closed its side without acknowledging anything: it watches.
    mute: bool,
}

impl Stream<'_> {
    /// Takes in turn what comes first, until something is wrong, or the caller has closed its side:
    /// one that acknowledged leaves when that is done; one that never did is given what its window
    /// holds.
    ///
    /// * room for an answer, and something to be told,
    /// * the end of the work on acknowledgements,
    /// * more of these,
    /// * the end of the subscription,
    /// * a long time without any of these, although there is something to take.
    async fn run(
        mut self,
        answers: &mpsc::Sender<Answer>,
        presence: &mut Presence,
    ) -> Result<(), Status> {
        loop {
            let idle = self.work.is_none() && self.done.is_none();
            if idle && let Some(end) = self.asked.end() {
                end?;
                if self.acknowledges {
                    return Ok(());
                }
                self.mute = true;
            }
            if self.mute && self.subscription.is_full() {
                return Err(tell::mute(self.subscription.window()));
            }
            tokio::select! {
                failures = work::done(&mut self.work), if self.work.is_some() => {
                    self.finish(failures.map_err(|error| super::fault::status(&error))?)?;
                }
                steps = poll_fn(|context| self.asked.poll_steps(context)),
                    if idle && !self.mute =>
                {
                    self.acknowledge(steps);
                    presence.moves();
                }
                told = tell_next(&mut self.subscription, &mut self.done, answers) => {
                    told.map_err(|why| tell::ended(&why))?;
                    presence.moves();
                }
                () = presence.stands_still() => {
                    presence.mention(self.subscription.is_full(), answers.capacity() == 0);
                }
            }
        }
    }

    /// Acknowledges what needs no work, and begins to work on the rest.
    fn acknowledge(&mut self, steps: Vec<asked::Step>) {
        let mut work = Work::default();
        self.acknowledges |= !steps.is_empty();
        for step in steps {
            let (epoch, cursor) = step.at();
            let acknowledged = if work.is_empty() && step.is_plain() {
                self.subscription.acknowledge(epoch, cursor)
            } else {
                // Nothing is done for a wrong one.
                self.subscription.check(epoch, cursor).map(|()| work.add(step))
            };
            if let Err(why) = acknowledged {
                self.asked.fail(tell::wrong(&why));
                break;
            }
        }
        if !work.is_empty() {
            work.begin(self.hub.clone());
            self.work = Some(work);
        }
    }

    /// The work is done: now its acknowledgements count.
    fn finish(&mut self, done: work::Outcome) -> Result<(), Status> {
        self.work = None;
        for (epoch, cursor) in done.acknowledged {
            self.subscription.acknowledge(epoch, cursor).map_err(|why| tell::wrong(&why))?;
        }
        self.done = done.told;
        Ok(())
    }
}

/// Tells what was done, or else the next events, as soon as there is room for an answer. The
/// subscription may end before there is. Can be dropped without losing anything.
async fn tell_next(
    subscription: &mut Subscription,
    done: &mut Option<Done>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Ended> {
    let room = tokio::select! {
        room = answers.reserve() => room,
        why = subscription.ended() => return Err(why),
    };
    let Ok(room) = room else {
        // Who is gone is noticed elsewhere, and nothing is taken for him.
        return std::future::pending().await;
    };
    let step = match done.take() {
        Some(done) => Step::Done(done),
        None => Step::Events(tell::batch(subscription.take(BATCH, BATCH_BYTES).await?)),
    };
    room.send(Ok(SubscribeResponse { step: Some(step) }));
    Ok(())
}
