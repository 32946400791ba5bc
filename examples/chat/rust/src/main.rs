//! A chat: the gateway holds the connections and tells what clients do, this says what it means.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    error::Error,
    fs,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use v1::{directory_client::DirectoryClient, event::What, events_client::EventsClient, *};
use v1::{subscribe_request::Step as Say, subscribe_response::Step as Heard};

/// What build.rs made.
mod v1 {
    tonic::include_proto!("gateway.v1");
}

/// Of each client that is in a room: which, and who it is.
type Places = HashMap<String, (String, String)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let page = service_fn(async |request| page(&request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), page));
        }
    });
    let address = env::var("GATEWAY").unwrap_or_else(|_| "127.0.0.1:20819".to_owned());
    let gateway = Endpoint::try_from(format!("http://{address}"))?.connect_lazy();
    loop {
        println!("{:?}", chat(gateway.clone()).await);
        sleep(Duration::from_secs(1)).await;
    }
}

/// The page, and tokens. Here anybody is who he says; a real one would ask for a password.
fn page(request: &Request<Incoming>) -> hyper::http::Result<Response<String>> {
    let file = |name| fs::read_to_string(format!("{}/../{name}", env!("CARGO_MANIFEST_DIR")));
    let name = request.uri().query().and_then(|query| query.strip_prefix("name="));
    let (kind, body) = match (request.uri().path(), name) {
        ("/", _) => ("text/html; charset=utf-8", file("page.html")),
        ("/token", Some(name)) => ("text/plain", file("secret").map(|it| token(name, &it))),
        _ => return Response::builder().status(404).body("not found\n".to_owned()),
    };
    Response::builder().header("content-type", kind).body(body.unwrap_or_default())
}

/// A JSON Web Token: who has it may connect as `name`, and stay for an hour.
fn token(name: &str, secret: &str) -> String {
    let expires = std::time::UNIX_EPOCH.elapsed().expect("a clock that is set").as_secs() + 3600;
    let parts = [json!({"alg": "HS256", "typ": "JWT"}), json!({"sub": name, "exp": expires})];
    let said = parts.map(|part| BASE64.encode(part.to_string())).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.trim_end().as_bytes());
    format!("{said}.{}", BASE64.encode(hmac::sign(&key, said.as_bytes())))
}

/// Hears events and acknowledges each with what is to be done, until the stream ends.
async fn chat(gateway: Channel) -> Result<(), tonic::Status> {
    let (says, said) = mpsc::unbounded_channel();
    let say = |step| says.send(SubscribeRequest { step: Some(step) }).unwrap_or_default();
    say(Say::Start(SubscribeStart { group: "chat".to_owned(), ..SubscribeStart::default() }));
    let mut events = EventsClient::new(gateway.clone());
    let mut stream = events.subscribe(UnboundedReceiverStream::new(said)).await?.into_inner();
    let (mut epoch, mut places) = (0, Places::new());
    while let Some(heard) = stream.message().await? {
        match heard.step {
            Some(Heard::Hello(hello)) => {
                (epoch, places) = (hello.epoch, who_is_where(gateway.clone()).await?);
                println!("chat is open: http://127.0.0.1:8080/");
            }
            Some(Heard::Events(batch)) => {
                for event in batch.events {
                    let cursor = event.cursor;
                    let (applies, sends) = react(event, &mut places);
                    say(Say::Acknowledgement(Acknowledgement { epoch, cursor, applies, sends }));
                }
            }
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

/// The gateway remembers the rooms, which are groups: it is asked after each restart.
async fn who_is_where(gateway: Channel) -> Result<Places, tonic::Status> {
    let (mut directory, mut places) = (DirectoryClient::new(gateway), Places::new());
    let mut rooms = directory.stream_groups(StreamGroupsRequest::default()).await?.into_inner();
    while let Some(part) = rooms.message().await? {
        for room in part.groups.into_iter().map(|group| group.name) {
            let filter = ClientFilter { group: room.clone(), ..ClientFilter::default() };
            let request = StreamClientsRequest { filter: Some(filter) };
            let mut clients = directory.stream_clients(request).await?.into_inner();
            while let Some(part) = clients.message().await? {
                places.extend(part.clients.into_iter().map(|it| (it.id, (room.clone(), it.uid))));
            }
        }
    }
    Ok(places)
}

/// What is changed, and what is sent, because of an event.
fn react(event: Event, places: &mut Places) -> (Vec<ApplyRequest>, Vec<SendRequest>) {
    let Event { client, uid: name, what, .. } = event;
    let place = places.get(&client).cloned();
    let to_me = Target { clients: vec![client.clone()], ..Target::default() };
    let to_room = |room: &str| Target { groups: vec![room.to_owned()], ..Target::default() };
    let (mut apply, gone) = (None, matches!(what, Some(What::Closed(_))));
    let said: Value = match what {
        Some(What::Closed(_)) if place.is_some() => json!({"do": "leave"}),
        Some(What::Message(message)) => serde_json::from_slice(&message.data).unwrap_or_default(),
        _ => return (vec![], vec![]),
    };
    let (to, what) = match (said["do"].as_str(), place, said["room"].as_str()) {
        (Some("join"), None, Some(room)) => {
            places.insert(client.clone(), (room.to_owned(), name.clone()));
            apply = Some(ApplyRequest { join: vec![room.to_owned()], ..ApplyRequest::default() });
            (to_room(room), json!({"what": "joined", "name": name, "room": room}))
        }
        (Some("say"), Some((room, name)), _) => {
            (to_room(&room), json!({"what": "said", "name": name, "text": said["text"]}))
        }
        (Some("who"), Some((room, _)), _) => {
            let names = places.values().filter(|place| place.0 == room).map(|place| &place.1);
            (to_me, json!({"what": "who", "room": room, "names": names.collect::<BTreeSet<_>>()}))
        }
        (Some("leave"), Some((room, name)), _) => {
            places.remove(&client);
            let leave = vec![room.clone()];
            apply = (!gone).then(|| ApplyRequest { leave, ..ApplyRequest::default() });
            let left = json!({"what": "left", "name": name, "room": room});
            (Target { groups: vec![room], ..to_me }, left)
        }
        (_, None, _) => (to_me, json!({"what": "error", "text": "join a room first"})),
        _ => (to_me, json!({"what": "error", "text": "not understood"})),
    };
    let message = Message { kind: Kind::Text.into(), data: what.to_string().into() };
    let send = SendRequest { target: Some(to), message: Some(message), ..SendRequest::default() };
    (apply.map(|apply| ApplyRequest { client, ..apply }).into_iter().collect(), vec![send])
}
