//! Honest peers: how long a client, a caller and a probe wait until they are served.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_websocket::grpc::proto::{
    ClonseClientRequest, CountOnlineClientRequest,
    clonse_client_client::ClonseClientClient,
    count_online_client_client::CountOnlineClientClient,
    v1::{
        AdmitRequest, AdmitResponse, Allow, Refuse, admission_server::Admission,
        admit_response::Verdict,
    },
};
use socket2::{Domain, Socket, Type};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Request, Response, Status, transport::Channel};

use super::{PATIENCE, TOKEN, start};
use crate::{Outcome, known::BackEnd, rows::alone, server::Server, table::Report};

/// Where honest peers come from.
const HONEST: u8 = 77;
/// Where strangers of the hook come from.
const STRANGE: u8 = 66;
/// An id as clients have it, of nobody.
const NOBODY: &str = "00000000-0000-8000-8000-000000000000";
const COUNT: &str = "http://gateway.example/proto.CountOnlineClient/CountOnlineClient";
const STREAM: &str = "http://gateway.example/gateway.v1.Messages/SendStream";

/// Asks for what it has a right to.
pub(super) struct Honest {
    runtime: Runtime,
    websocket: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    /// A connection that was there before any attack.
    channel: Channel,
}

impl Honest {
    pub(super) fn new(server: &Server) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listeners = &server.listeners;
        let grpc = *listeners.grpc.first().ok_or("no gRPC address")?;
        let endpoint = Channel::from_shared(format!("http://{grpc}"))?;
        let channel = runtime.block_on(endpoint.connect())?;
        let websocket = *listeners.websocket.first().ok_or("no WebSocket address")?;
        let admin = *listeners.admin.first().ok_or("no admin address")?;
        let honest = Self { runtime, websocket, grpc, admin, channel };
        if honest.call() >= PATIENCE {
            return Err("an honest call is refused".into());
        }
        Ok(honest)
    }

    /// A WebSocket, until its welcome has come.
    pub(super) fn connect(&self) -> Duration {
        waited(|| upgrade(self.websocket, HONEST, "/").and_then(|(status, _)| accepted(status)))
    }

    /// A client that is there before any attack.
    pub(super) fn pinger(&self) -> Outcome<Pinger> {
        let (status, stream) = upgrade(self.websocket, HONEST, "/")?;
        accepted(status)?;
        Ok(Pinger(stream))
    }

    /// A probe over a connection of its own.
    pub(super) fn livez(&self) -> Duration {
        waited(|| {
            let mut stream = from(HONEST, self.admin)?;
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            if answer == *b"HTTP/1.1 200" { Ok(()) } else { Err("no 200".into()) }
        })
    }

    /// A call over the connection that is there.
    pub(super) fn call(&self) -> Duration {
        waited(|| self.runtime.block_on(count(self.channel.clone())))
    }

    /// A call that the gateway writes a line of audit about.
    pub(super) fn audited(&self) -> Duration {
        waited(|| {
            let request = ClonseClientRequest { clientid: NOBODY.to_owned() };
            let mut client = ClonseClientClient::new(self.channel.clone());
            let call = async { timeout(PATIENCE, client.clonse_client(request)).await };
            self.runtime.block_on(call)??;
            Ok(())
        })
    }

    /// A call over a connection of its own.
    pub(super) fn call_anew(&self) -> Duration {
        waited(|| {
            let endpoint = Channel::from_shared(format!("http://{}", self.grpc))?;
            self.runtime
                .block_on(async { count(timeout(PATIENCE, endpoint.connect()).await??).await })
        })
    }
}

/// A client that pings.
pub(super) struct Pinger(TcpStream);

impl Pinger {
    /// A ping of the protocol, until its pong has come.
    pub(super) fn ping(&self) -> Duration {
        waited(|| {
            let mut stream = &self.0;
            stream.write_all(b"\x89\x80\0\0\0\0")?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer)?;
            if answer == *b"\x8a\0" { Ok(()) } else { Err("no pong".into()) }
        })
    }
}

async fn count(channel: Channel) -> Outcome<()> {
    let mut request = Request::new(CountOnlineClientRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse()?);
    let mut client = CountOnlineClientClient::new(channel);
    timeout(PATIENCE, client.count_online_client(request)).await??;
    Ok(())
}

/// How long it took; all of [`PATIENCE`] if it came to nothing.
fn waited(what: impl FnOnce() -> Outcome<()>) -> Duration {
    let began = Instant::now();
    if what().is_ok() { began.elapsed().min(PATIENCE) } else { PATIENCE }
}

/// A connection from an address of this second byte, which gives up after [`PATIENCE`].
fn from(source: u8, address: SocketAddr) -> Outcome<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, source, 0, 1], 0)).into())?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks for an upgrade: the status of the answer, and the connection once its head, and with 101 the
/// client id, has come.
fn upgrade(address: SocketAddr, source: u8, path: &str) -> Outcome<(u16, TcpStream)> {
    /// A frame of 36 characters.
    const WELCOME: usize = 2 + 36;
    let mut stream = from(source, address)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: gateway.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes)?;
        answer.extend_from_slice(&bytes[..count]);
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n");
        let status = std::str::from_utf8(answer.get(9..12).unwrap_or_default())?.parse();
        match (end, status) {
            (Some(end), Ok(101)) if answer.len() >= end + 4 + WELCOME => return Ok((101, stream)),
            (Some(_), Ok(status)) if status != 101 => return Ok((status, stream)),
            _ if count == 0 => return Err("the gateway closed the connection".into()),
            _ => {}
        }
    }
}

fn accepted(status: u16) -> Outcome<()> {
    if status == 101 { Ok(()) } else { Err(format!("refused with {status}").into()) }
}

/// So many clients that say nothing more.
pub(super) fn crowd(address: SocketAddr, clients: usize) -> Outcome<Vec<TcpStream>> {
    (0..clients).map(|_| Ok(upgrade(address, HONEST, "/")?.1)).collect()
}

/// A call on a connection on which so many streams of messages are blocked.
pub(super) fn call_beside(address: SocketAddr, blocked: usize) -> Outcome<Duration> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let begin = async {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let mut builder = h2::client::Builder::new();
        // Answers of a stream that nobody reads don't get far.
        builder.initial_window_size(64).initial_connection_window_size(1 << 20);
        let (mut send, connection) = builder.handshake::<_, Bytes>(stream).await?;
        tokio::spawn(connection);
        for _ in 0..blocked {
            send = send.ready().await?;
            let (answer, body) = send.send_request(request(STREAM)?, false)?;
            tokio::spawn(async move {
                let _answer = answer;
                items(body).await;
            });
        }
        Ok::<_, Box<dyn std::error::Error>>(send)
    };
    let mut send = runtime.block_on(begin)?;
    // The streams have filled whatever they can.
    thread::sleep(Duration::from_secs(u64::from(blocked > 0) * 3));
    Ok(waited(|| {
        let call = async {
            send = send.clone().ready().await?;
            let (answer, mut body) = send.send_request(request(COUNT)?, false)?;
            body.send_data(Bytes::from_static(&[0; 5]), true)?;
            let answer = answer.await?;
            let mut body = answer.into_body();
            while let Some(data) = body.data().await {
                data?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        };
        runtime.block_on(async { timeout(PATIENCE, call).await })?
    }))
}

fn request(uri: &str) -> Outcome<hyper::Request<()>> {
    let request = hyper::Request::post(uri).header("content-type", "application/grpc");
    Ok(request.header("te", "trailers").body(())?)
}

/// Items of a `SendStream`, as many as are taken: each sends 16 KiB to a client that isn't there.
async fn items(mut body: h2::SendStream<Bytes>) {
    use gateway_websocket::grpc::proto::v1::{Message, SendRequest, SendStreamRequest, Target};
    use prost::Message as _;
    let target = Target { uids: vec!["nobody".to_owned()], ..Target::default() };
    let message = Message { data: vec![b'x'; 16 << 10].into(), ..Message::default() };
    let send =
        SendRequest { target: Some(target), message: Some(message), ..SendRequest::default() };
    for sequence in 1.. {
        let item = SendStreamRequest { sequence, sends: vec![send.clone()] }.encode_to_vec();
        let length = u32::try_from(item.len()).unwrap_or(0).to_be_bytes();
        let mut left = Bytes::from([&[0], length.as_slice(), &item].concat());
        while !left.is_empty() {
            body.reserve_capacity(left.len());
            let Some(Ok(room)) = std::future::poll_fn(|context| body.poll_capacity(context)).await
            else {
                return;
            };
            if body.send_data(left.split_to(room.min(left.len())), false).is_err() {
                return;
            }
        }
    }
}

/// A back end that takes 20 ms for an answer and lets in who asks for `/honest`.
#[derive(Clone)]
struct Careful;

#[tonic::async_trait]
impl Admission for Careful {
    async fn admit(
        &self,
        request: Request<AdmitRequest>,
    ) -> Result<Response<AdmitResponse>, Status> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let verdict = match request.get_ref().path.as_str() {
            "/honest" => Verdict::Allow(Allow::default()),
            _ => Verdict::Refuse(Refuse::default()),
        };
        Ok(Response::new(AdmitResponse { verdict: Some(verdict) }))
    }
}

/// A burst of 1,500 clients whom the back end refuses, and 100 honest ones in the middle of it.
pub(super) fn hook(binary: &Path, report: &mut Report) -> Outcome<()> {
    const STRANGERS: usize = 1500;
    /// Threads that the strangers come from; each waits for its answer.
    const THREADS: usize = 300;
    const HONEST_CLIENTS: usize = 100;
    let back_end = BackEnd::new(Careful)?;
    let address = format!("hook.address=http://{}", back_end.address);
    let set = [&*address, "hook.max_concurrent=4", "hook.timeout=1s", "hook.fail=open"];
    let server = start(binary, &set, None, false)?;
    let websocket = *server.listeners.websocket.first().ok_or("no WebSocket address")?;
    let (left, came_in) = (AtomicUsize::new(STRANGERS), Arc::new(AtomicUsize::new(0)));
    let refused = thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let next = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok() {
                    if matches!(upgrade(websocket, STRANGE, "/strange"), Ok((101, _))) {
                        came_in.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(500));
        (0..HONEST_CLIENTS)
            .filter(|_| !matches!(upgrade(websocket, HONEST, "/honest"), Ok((101, _))))
            .count()
    });
    let none = (0.0, f64::NAN);
    let came_in = came_in.load(Ordering::Relaxed) as f64;
    let what = "of 1,500 clients that the back end refuses let in, hook.fail = \"open\"";
    report.add(alone(what, "", came_in, none.0, none.1));
    let what = "of 100 honest clients refused beside them";
    report.add(alone(what, "", refused as f64, f64::NAN, f64::NAN));
    Ok(())
}
