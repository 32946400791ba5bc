//! A subscriber of a consumer group, with words for tests.

use std::collections::VecDeque;

use gateway_websocket::grpc::proto::v1::{
    Acknowledgement, ApplyRequest, Closed, Done, Event, Hello, Missed, Opened, SendRequest,
    Snapshot, SubscribeRequest, SubscribeResponse, SubscribeStart, event::What,
    events_client::EventsClient, subscribe_request, subscribe_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use crate::{client::soon, gateway::Gateway};

pub struct Subscriber {
    say: mpsc::Sender<SubscribeRequest>,
    answers: Streaming<SubscribeResponse>,
    hello: Hello,
    waiting: VecDeque<Event>,
    done: VecDeque<Done>,
    /// Whether the next event is the first.
    is_new: bool,
    /// Whether also the first counts if it says that nobody is there.
    hears_all: bool,
}

impl Subscriber {
    /// Joins a group, with as many events under way as may be.
    pub async fn of(gateway: &Gateway, group: &str) -> Self {
        Self::try_of(gateway.channel(), group, 0).await.unwrap()
    }

    /// Joins a group, with so many events under way; it may be refused.
    pub async fn try_of(channel: Channel, group: &str, window: i32) -> Result<Self, Status> {
        let start = SubscribeStart { group: group.to_owned(), window, snapshots: false };
        Self::begin(open(channel).await?, start).await
    }

    /// Joins a group and hears everything: with so many events under way, and a snapshot of whatever
    /// comes to it if it wants them.
    pub async fn following(
        channel: Channel,
        group: &str,
        window: i32,
        snapshots: bool,
    ) -> Result<Self, Status> {
        let start = SubscribeStart { group: group.to_owned(), window, snapshots };
        Ok(Self::begin(open(channel).await?, start).await?.hearing_all())
    }

    /// Joins a group with a token.
    pub async fn bearing(token: &str, channel: Channel, group: &str) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(1024);
        let mut request = Request::new(ReceiverStream::new(said));
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let mut client = EventsClient::new(channel);
        let opened = client.subscribe(request);
        let answers = soon("the stream", opened).await?.into_inner();
        let start = SubscribeStart { group: group.to_owned(), ..SubscribeStart::default() };
        Self::begin((say, answers), start).await
    }

    async fn begin((say, mut answers): Open, start: SubscribeStart) -> Result<Self, Status> {
        let step = Some(subscribe_request::Step::Start(start));
        // A stream that has ended already says why below.
        let _ = say.send(SubscribeRequest { step }).await;
        let first = soon("hello, or the end", answers.message()).await?;
        let Some(subscribe_response::Step::Hello(hello)) = first.and_then(|first| first.step)
        else {
            panic!("the first answer is no hello")
        };
        let (waiting, done) = (VecDeque::new(), VecDeque::new());
        Ok(Self { say, answers, hello, waiting, done, is_new: true, hears_all: false })
    }

    /// Leaves nothing out. Others acknowledge by themselves that a new group begins with nobody.
    pub fn hearing_all(mut self) -> Self {
        self.hears_all = true;
        self
    }

    /// The epoch that it was told.
    pub fn epoch(&self) -> u64 {
        self.hello.epoch
    }

    /// How many events may be under way, as it was told.
    pub fn window(&self) -> i32 {
        self.hello.window
    }

    /// The next event. Can be dropped without losing any.
    pub async fn next(&mut self) -> Event {
        self.try_next().await.unwrap()
    }

    /// The next event, or how the stream ended.
    pub async fn try_next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            self.read().await?;
        }
    }

    /// The next event, which is acknowledged.
    pub async fn hear(&mut self) -> Event {
        let event = self.next().await;
        self.acknowledge(event.cursor).await;
        event
    }

    /// So many events, none of which is acknowledged.
    pub async fn next_n(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.next().await);
        }
        events
    }

    /// What is told next of failures. Events that come meanwhile wait.
    pub async fn done(&mut self) -> Done {
        self.try_done().await.unwrap()
    }

    /// The same, or how the stream ended.
    pub async fn try_done(&mut self) -> Result<Done, Status> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Ok(done);
            }
            self.read().await?;
        }
    }

    /// How the stream ends, whatever comes before.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.read().await {
                return status;
            }
        }
    }

    /// Whether there is nothing that was read and not looked at yet.
    pub fn has_looked_at_all(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Reads one answer.
    async fn read(&mut self) -> Result<(), Status> {
        let answer = soon("an answer", self.answers.message()).await?;
        let Some(answer) = answer else { return Err(Status::ok("the stream is over")) };
        match answer.step {
            Some(subscribe_response::Step::Events(batch)) => {
                assert!(!batch.events.is_empty(), "an empty batch");
                for event in batch.events {
                    let is_nobody =
                        matches!(&event.what, Some(What::Snapshot(it)) if it.clients.is_empty());
                    let is_first = std::mem::take(&mut self.is_new);
                    if is_first && is_nobody && !self.hears_all {
                        self.acknowledge(event.cursor).await;
                    } else {
                        self.waiting.push_back(event);
                    }
                }
            }
            Some(subscribe_response::Step::Done(done)) => self.done.push_back(done),
            other => panic!("neither events nor done: {other:?}"),
        }
        Ok(())
    }

    /// Acknowledges an event and all before it.
    pub async fn acknowledge(&self, cursor: u64) {
        self.acknowledge_with(cursor, Vec::new(), Vec::new()).await;
    }

    /// Acknowledges, and has something done.
    pub async fn acknowledge_with(
        &self,
        cursor: u64,
        applies: Vec<ApplyRequest>,
        sends: Vec<SendRequest>,
    ) {
        self.say(Acknowledgement { epoch: self.epoch(), cursor, applies, sends }).await;
    }

    /// Says an acknowledgement of the test's own.
    pub async fn say(&self, acknowledgement: Acknowledgement) {
        let step = Some(subscribe_request::Step::Acknowledgement(acknowledgement));
        self.say_any(SubscribeRequest { step }).await;
    }

    /// Says anything.
    pub async fn say_any(&self, request: SubscribeRequest) {
        // Who has ended the stream says why to who reads.
        let _ = soon("room for a request", self.say.send(request)).await;
    }

    /// Says no more; what comes is still heard.
    pub fn say_no_more(&mut self) {
        self.say = mpsc::channel(1).0;
    }
}

/// Both sides of a stream.
type Open = (mpsc::Sender<SubscribeRequest>, Streaming<SubscribeResponse>);

/// Opens a stream on which nothing was said yet.
pub async fn open(channel: Channel) -> Result<Open, Status> {
    let (say, said) = mpsc::channel(1024);
    let mut client = EventsClient::new(channel);
    let opened = client.subscribe(ReceiverStream::new(said));
    Ok((say, soon("the stream", opened).await?.into_inner()))
}

/// The event is an `opened`.
pub fn opened(event: &Event) -> &Opened {
    let Some(What::Opened(opened)) = &event.what else { panic!("not opened: {event:?}") };
    opened
}

/// The event is a `closed`.
pub fn closed(event: &Event) -> &Closed {
    let Some(What::Closed(closed)) = &event.what else { panic!("not closed: {event:?}") };
    closed
}

/// The event is a message of this text.
pub fn said(event: &Event) -> String {
    let Some(What::Message(message)) = &event.what else { panic!("no message: {event:?}") };
    String::from_utf8(message.data.to_vec()).expect("a text")
}

/// The event tells of a range that is missing.
pub fn missed(event: &Event) -> &Missed {
    let Some(What::Missed(missed)) = &event.what else { panic!("not missed: {event:?}") };
    missed
}

/// The event is a snapshot.
pub fn snapshot(event: &Event) -> &Snapshot {
    let Some(What::Snapshot(snapshot)) = &event.what else { panic!("no snapshot: {event:?}") };
    snapshot
}
