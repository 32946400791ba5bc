//! A business system that says who may connect: a real gRPC server, whose every word is the test's.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use gateway_websocket::grpc::proto::v1::{
    AdmitRequest, AdmitResponse, Allow, Refuse,
    admission_server::{Admission, AdmissionServer},
    admit_response::Verdict,
};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::{HeaderMap, HeaderName, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Response as Answer, Status, codegen::Service as _, metadata::MetadataMap};

use crate::client::soon;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

type Said = Result<AdmitResponse, Status>;
type Saying = Pin<Box<dyn Future<Output = Said> + Send>>;

/// Speaks in the back end's place.
pub type Voice = Arc<dyn Fn(AdmitRequest, MetadataMap) -> Saying + Send + Sync>;

/// A back end, which ends with the test, or when it is dropped; then its connections end with it.
pub struct BackEnd {
    address: SocketAddr,
    /// Connections that it was ever asked over.
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A question that waits for its answer.
pub struct Asked {
    pub request: AdmitRequest,
    pub metadata: MetadataMap,
    answer: oneshot::Sender<Said>,
}

impl Asked {
    /// Answers it; nobody may wait for that any more.
    pub fn answer(self, said: Said) {
        let _ = self.answer.send(said);
    }

    /// Waits until nobody waits for the answer any more.
    pub async fn given_up(mut self) {
        soon("the end of the call", self.answer.closed()).await;
    }
}

/// The questions of a back end, in their order.
pub struct Questions(mpsc::UnboundedReceiver<Asked>);

impl Questions {
    pub async fn next(&mut self) -> Asked {
        soon("a question", self.0.recv()).await.expect("the back end is there")
    }

    /// The next one, if it is there already.
    pub fn try_next(&mut self) -> Option<Asked> {
        self.0.try_recv().ok()
    }
}

/// A yes with all that is given by it.
#[expect(clippy::unnecessary_wraps, reason = "it is what a voice says")]
pub fn allow(allow: Allow) -> Said {
    Ok(AdmitResponse { verdict: Some(Verdict::Allow(allow)) })
}

/// A yes to a client of this uid.
pub fn allow_as(uid: &str) -> Said {
    allow(Allow { uid: uid.to_owned(), ..Allow::default() })
}

/// A no.
#[expect(clippy::unnecessary_wraps, reason = "it is what a voice says")]
pub fn refuse(status: i32, body: &str) -> Said {
    Ok(AdmitResponse { verdict: Some(Verdict::Refuse(Refuse { status, body: body.to_owned() })) })
}

/// Says the same to everybody.
pub fn always(said: Said) -> Voice {
    Arc::new(move |_, _| Box::pin(std::future::ready(said.clone())))
}

/// Lets the test answer, question by question.
pub fn waiting() -> (Voice, Questions) {
    let (ask, questions) = mpsc::unbounded_channel();
    let voice = move |request, metadata| -> Saying {
        let (answer, said) = oneshot::channel();
        // A test that has ended asks for nothing more.
        let _ = ask.send(Asked { request, metadata, answer });
        Box::pin(async { said.await.unwrap_or_else(|_| Err(Status::aborted("dropped"))) })
    };
    (Arc::new(voice), Questions(questions))
}

/// An answer that comes a byte at a time.
struct Trickle {
    bytes: Bytes,
    taken: usize,
    pause: Duration,
    tell: mpsc::UnboundedSender<usize>,
}

impl Trickle {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, String>, Self)> {
        // How slow it is, is what the test is about.
        tokio::time::sleep(self.pause).await;
        let byte = self.bytes.get(self.taken..=self.taken).expect("it is never at its end");
        let frame = Frame::data(Bytes::copy_from_slice(byte));
        self.taken += 1;
        Some((Ok(frame), self))
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        // A test that has ended asks for nothing more.
        let _ = self.tell.send(self.taken);
    }
}

/// How much was taken of each answer that was given up, in their order.
pub struct Given(mpsc::UnboundedReceiver<usize>);

impl Given {
    pub async fn next(&mut self) -> usize {
        soon("the end of an answer", self.0.recv()).await.expect("the back end is there")
    }
}

impl BackEnd {
    /// A back end with a voice, on a port of its own.
    pub async fn with(voice: Voice) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), voice).await
    }

    /// The same, at an address.
    pub async fn at(address: SocketAddr, voice: Voice) -> Self {
        Self::speaking(address, None, None, voice).await
    }

    /// The same, on a port of its own, that takes no more than `streams` calls at once.
    pub async fn narrow(streams: u32, voice: Voice) -> Self {
        Self::speaking("127.0.0.1:0".parse().unwrap(), None, Some(streams), voice).await
    }

    /// The same, over TLS.
    pub async fn over_tls(config: Arc<rustls::ServerConfig>, voice: Voice) -> Self {
        Self::speaking("127.0.0.1:0".parse().unwrap(), Some(config), None, voice).await
    }

    async fn speaking(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        streams: Option<u32>,
        voice: Voice,
    ) -> Self {
        let speaker = AdmissionServer::new(Speaker(voice));
        Self::serving(address, tls, streams, move |request: Request<Incoming>| {
            let mut speaker = speaker.clone();
            async move {
                let answer = speaker.call(request.map(tonic::body::Body::new)).await?;
                Ok(answer.map(|body| body.map_err(|error| error.to_string()).boxed_unsync()))
            }
        })
        .await
    }

    /// A server that speaks HTTP/2 and answers with these headers and these chunks, again and again if
    /// it is `endless`.
    pub async fn raw(kind: &'static str, chunk: &'static [u8], endless: bool) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        Self::serving(address, None, None, move |_: Request<Incoming>| async move {
            let chunk = move |_| Ok(Frame::data(Bytes::from_static(chunk)));
            let chunks = if endless { u64::MAX } else { 1 };
            let body = StreamBody::new(stream::iter((0..chunks).map(chunk))).boxed_unsync();
            let answer = Response::builder().header("content-type", kind).body(body);
            Ok(answer.unwrap())
        })
        .await
    }

    /// Answers each question with `said`, a byte at a time with a pause before each; but at once what
    /// comes after the first `slow` questions. Beside it, how many bytes of each slow answer were
    /// taken before it was given up.
    pub async fn trickling(said: AdmitResponse, slow: usize, pause: Duration) -> (Self, Given) {
        let (tell, given) = mpsc::unbounded_channel();
        let message = said.encode_to_vec();
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        let bytes: Bytes = [&[0], &len[..], &message].concat().into();
        let asked = Arc::new(AtomicUsize::new(0));
        let address = "127.0.0.1:0".parse().unwrap();
        let service = move |_: Request<Incoming>| {
            let before = asked.fetch_add(1, Ordering::SeqCst);
            let body = if before < slow {
                let trickle = Trickle { bytes: bytes.clone(), taken: 0, pause, tell: tell.clone() };
                StreamBody::new(stream::unfold(trickle, Trickle::next)).boxed_unsync()
            } else {
                let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
                let frames = [Frame::data(bytes.clone()), Frame::trailers(trailers)];
                StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync()
            };
            let answer = Response::builder().header("content-type", "application/grpc").body(body);
            std::future::ready(Ok(answer.unwrap()))
        };
        (Self::serving(address, None, None, service).await, Given(given))
    }

    async fn serving<S, F>(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        streams: Option<u32>,
        service: S,
    ) -> Self
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<UnsyncBoxBody<Bytes, String>>, Infallible>>
            + Send
            + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            // Dropped with the task, and the connections with it.
            let mut carried = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (service, tls) = (service.clone(), tls.clone());
                counter.fetch_add(1, Ordering::SeqCst);
                carried.spawn(async move {
                    match tls {
                        None => carry(stream, streams, service).await,
                        Some(config) => {
                            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                                carry(stream, streams, service).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The setting that makes a gateway ask it.
    pub fn key(&self) -> String {
        format!("hook.address=http://{}", self.address)
    }

    /// The same as a value of TOML.
    pub fn value(&self) -> String {
        format!("\"http://{}\"", self.address)
    }

    /// Ends it with all its connections, as a crash would.
    pub async fn crash(self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry<I, S, F>(io: I, streams: Option<u32>, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<UnsyncBoxBody<Bytes, String>>, Infallible>> + Send + 'static,
{
    let mut connection = http2::Builder::new(TokioExecutor::new());
    connection.max_concurrent_streams(streams);
    let _ = connection.serve_connection(TokioIo::new(io), service_fn(service)).await;
}

struct Speaker(Voice);

#[tonic::async_trait]
impl Admission for Speaker {
    async fn admit(
        &self,
        request: tonic::Request<AdmitRequest>,
    ) -> Result<Answer<AdmitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0(request, metadata).await.map(Answer::new)
    }
}
