//! Says back to each client what it says: the smallest back end that answers.

use std::{env, error::Error, process::ExitCode};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use v1::{
    Acknowledgement, Event, SendRequest, SubscribeRequest, SubscribeStart, Target, event::What,
    events_client::EventsClient, subscribe_request::Step as Say, subscribe_response::Step as Heard,
};

/// What build.rs made.
mod v1 {
    tonic::include_proto!("gateway.v1");
}

/// The consumer group, as `events.groups` names it.
const GROUP: &str = "echo";

/// Bytes of the largest batch that is taken: more than `limits.max_message` of any gateway that this
/// is meant for.
const LARGEST: usize = 64 << 20;

/// Bytes that may be under way before they were read.
const WINDOW: u32 = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match echo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers until the stream ends.
async fn echo() -> Result<(), Box<dyn Error>> {
    let address = env::var("GATEWAY").unwrap_or_else(|_| "127.0.0.1:20819".to_owned());
    let gateway = Endpoint::try_from(format!("http://{address}"))?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let channel = gateway.connect().await.map_err(|_| format!("no gateway at {address}"))?;
    let mut events = EventsClient::new(channel).max_decoding_message_size(LARGEST);

    // What is said goes into a bounded queue: where the gateway doesn't take it, events wait.
    let (says, said) = mpsc::channel(4);
    let say = async |step| says.send(SubscribeRequest { step: Some(step) }).await;
    say(Say::Start(SubscribeStart { group: GROUP.to_owned(), ..SubscribeStart::default() }))
        .await?;
    let mut stream = events.subscribe(ReceiverStream::new(said)).await?.into_inner();
    let mut epoch = 0;
    while let Some(heard) = stream.message().await? {
        match heard.step {
            Some(Heard::Hello(hello)) => {
                epoch = hello.epoch;
                println!("hears {GROUP}");
            }
            Some(Heard::Events(batch)) => {
                // One acknowledgement is enough for all of them, and for all answers.
                let Some(cursor) = batch.events.last().map(|event| event.cursor) else { continue };
                let sends = batch.events.into_iter().filter_map(answer).collect();
                let acknowledgement =
                    Acknowledgement { epoch, cursor, sends, ..Acknowledgement::default() };
                say(Say::Acknowledgement(acknowledgement)).await?;
            }
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

/// The same message, to who said it. That one has come or gone needs no answer.
fn answer(event: Event) -> Option<SendRequest> {
    let Some(What::Message(message)) = event.what else { return None };
    let target = Target { clients: vec![event.client], ..Target::default() };
    Some(SendRequest { target: Some(target), message: Some(message), ..SendRequest::default() })
}
