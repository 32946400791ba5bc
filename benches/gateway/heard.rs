//! The rows of events: what it costs to tell a back end what clients say, and what it costs everybody
//! else that somebody listens.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use gateway_websocket::grpc::proto::v1;
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use v1::{
    Acknowledgement, SubscribeRequest, SubscribeStart, event::What, events_client::EventsClient,
    subscribe_request::Step as Say, subscribe_response::Step as Heard,
};

use crate::{
    Outcome,
    rows::{Plan, SIZE, figures},
    side::Side,
    table::Report,
};

/// Clients that speak.
const CROWD: usize = 1000;

/// Messages that each says in a turn, one at a time.
const ROUNDS: usize = 20;

/// The setting that makes the consumer group that is subscribed to.
const GROUP: &str = "events.groups=bench";

/// The subscribers of one group, in a thread of their own; each has a connection of its own, as back
/// ends in several processes have.
pub(crate) struct Subscribers {
    messages: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<String>>>,
    _runtime: Runtime,
}

impl Subscribers {
    pub(crate) fn new(gateway: &str, count: usize) -> Outcome<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let messages = Arc::new(AtomicU64::new(0));
        let fault = Arc::new(Mutex::new(None));
        let (ready, mut begun) = mpsc::channel(count);
        let endpoint = Channel::from_shared(format!("http://{gateway}"))?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 20);
        let mut tasks: JoinSet<String> = JoinSet::new();
        for _ in 0..count {
            let (endpoint, ready, messages) =
                (endpoint.clone(), ready.clone(), Arc::clone(&messages));
            let hear = async move {
                match endpoint.connect().await {
                    Ok(channel) => match hear(channel, ready, &messages).await {
                        Ok(()) => "the stream is over".to_owned(),
                        Err(status) => status.to_string(),
                    },
                    Err(error) => error.to_string(),
                }
            };
            tasks.spawn_on(hear, runtime.handle());
        }
        let faults = Arc::clone(&fault);
        runtime.spawn(async move {
            while let Some(ended) = tasks.join_next().await {
                let why = ended.unwrap_or_else(|error| error.to_string());
                *faults.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
        });
        drop(ready);
        for _ in 0..count {
            runtime.block_on(begun.recv()).ok_or("a subscriber did not begin")?;
        }
        Ok(Self { messages, fault, _runtime: runtime })
    }

    /// Messages that they have heard.
    fn heard(&self) -> Outcome<u64> {
        if let Some(why) = &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(format!("a subscriber has ended: {why}").into());
        }
        Ok(self.messages.load(Ordering::Relaxed))
    }

    /// Waits until they have heard so many.
    fn wait_for(&self, messages: u64) -> Outcome<()> {
        while self.heard()? < messages {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Hears events, counts messages and acknowledges batch by batch.
async fn hear(
    channel: Channel,
    ready: mpsc::Sender<()>,
    messages: &AtomicU64,
) -> Result<(), tonic::Status> {
    let (says, said) = mpsc::channel(4);
    let start = SubscribeStart { group: "bench".to_owned(), ..SubscribeStart::default() };
    let ended = |_| tonic::Status::cancelled("the gateway hears no more");
    says.send(SubscribeRequest { step: Some(Say::Start(start)) }).await.map_err(ended)?;
    let mut stream =
        EventsClient::new(channel).subscribe(ReceiverStream::new(said)).await?.into_inner();
    let mut epoch = 0;
    while let Some(heard) = stream.message().await? {
        match heard.step {
            Some(Heard::Hello(hello)) => {
                epoch = hello.epoch;
                let _ = ready.send(()).await;
            }
            Some(Heard::Events(batch)) => {
                let count = batch.events.iter();
                let count = count.filter(|event| matches!(event.what, Some(What::Message(_))));
                messages.fetch_add(count.count() as u64, Ordering::Relaxed);
                let Some(last) = batch.events.last() else { continue };
                let acknowledgement =
                    Acknowledgement { epoch, cursor: last.cursor, ..Acknowledgement::default() };
                let step = Some(Say::Acknowledgement(acknowledgement));
                says.send(SubscribeRequest { step }).await.map_err(ended)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Plan {
    /// What clients say, told to nobody, to one subscriber and to four.
    pub(crate) fn events(&self, report: &mut Report) -> Outcome<()> {
        for count in [0, 1, 4] {
            let set: &[&str] = if count > 0 { &[GROUP] } else { &[] };
            let mut gateway = Side::gateway(&self.gateway, set)?;
            gateway.connect(CROWD)?;
            let subscribers = (count > 0).then(|| Subscribers::new(&gateway.grpc, count));
            let subscribers = subscribers.transpose()?;
            let (mut control, mut shards, mut rates) = (Vec::new(), Vec::new(), Vec::new());
            for turn in 0..=self.turns {
                let before = subscribers.as_ref().map_or(Ok(0), Subscribers::heard)?;
                let all = (ROUNDS * CROWD) as u64;
                let (cpu, took) = gateway.cost_of_saying(ROUNDS, SIZE, || {
                    if let Some(subscribers) = &subscribers {
                        return subscribers.wait_for(before + all);
                    }
                    thread::sleep(Duration::from_millis(50));
                    Ok(())
                })?;
                // The first turn also pays for what is made once.
                if turn > 0 {
                    let per = |time: Duration| time.as_secs_f64() * 1e6 / all as f64;
                    control.push(per(cpu.process.saturating_sub(cpu.shards)));
                    shards.push(per(cpu.shards));
                    rates.push(all as f64 / took.as_secs_f64());
                }
            }
            let to = match count {
                0 => "nobody",
                1 => "one subscriber",
                _ => "four subscribers",
            };
            let whole = shards.iter().zip(&control).map(|(shards, control)| shards + control);
            let what = format!("CPU per message from a client, told to {to}");
            report.add(figures(&what, whole.collect(), f64::NAN));
            report.add(figures("… shard threads", shards, f64::NAN));
            report.add(figures("… control side", control, f64::NAN));
            if count > 0 {
                let mut row = figures("… of these, per second", rates, f64::NAN);
                row.unit = "1/s";
                report.add(row);
            }
        }
        Ok(())
    }

    /// What a fan-out costs while somebody listens to the clients, and none of them says anything,
    /// against the same where nobody does.
    pub(crate) fn listened(&self, report: &mut Report) -> Outcome<()> {
        let (mut without, mut with) = (self.gateway()?, Side::gateway(&self.gateway, &[GROUP])?);
        let _subscribers = Subscribers::new(&with.grpc, 1)?;
        without.connect(CROWD)?;
        with.connect(CROWD)?;
        for (ahead, how) in [(1, "one message at a time"), (4, "4 messages ahead")] {
            let pairs = self.fan_out(&mut without, &mut with, ahead)?;
            let what =
                format!("CPU per delivery, {how}, with a subscriber of events; left: without");
            report.add(pairs.row(&what, 1.05, 1.0));
        }
        Ok(())
    }
}
