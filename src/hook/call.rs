//! One call: a gRPC request over HTTP/2, and what is acceptable as its answer.
//!
//! It is one message there and one back, so it is framed here, on hyper: what is too large is cut off
//! as it arrives, and what makes no sense can't be mistaken for an error that the back end told.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT},
};
use prost::Message;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::{answer::Nonsense, line::Wire};
use crate::{
    access::Secret,
    proto::v1::{AdmitRequest, AdmitResponse},
};

/// What is called.
const PATH: &str = "/gateway.v1.Admission/Admit";

/// Bytes before a message: whether it is compressed, and how long it is.
const PREFIX: usize = 5;

/// Bytes that are told of an error of the back end.
const MOST_TOLD: usize = 200;

const GRPC: &str = "application/grpc";

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection was at its end before the back end could see anything of the call.
    Unsent,
    /// The back end fails, or said nothing more.
    Error(String),
    /// The connection is at its end, of which another call has told already.
    Broken(String),
    /// The back end says that we do too much on the connection.
    TooMuch(String),
    /// The back end is well and rejects the question.
    Declined(String),
    /// It said something strange.
    Nonsense(Nonsense),
}

/// What is asked, ready to be sent. Cheap to clone.
#[derive(Clone)]
pub(super) struct Call {
    uri: Uri,
    authorization: Option<HeaderValue>,
    message: Bytes,
}

/// The message on its way. It is taken as soon as the call has a stream of the connection, and then the
/// back end's time begins.
#[derive(Debug)]
pub(super) struct Outgoing {
    message: Option<Bytes>,
    begun: Option<oneshot::Sender<()>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(begun) = self.begun.take() {
            // Who has given up doesn't listen any more.
            let _ = begun.send(());
        }
        Poll::Ready(self.message.take().map(|message| Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.message.as_ref().map_or(0, |message| message.len() as u64))
    }
}

impl Call {
    /// Asks `request` of the back end at this authority, with our token.
    pub(super) fn new(authority: &str, token: Option<&Secret>, request: &AdmitRequest) -> Self {
        let mut message = BytesMut::with_capacity(PREFIX + request.encoded_len());
        message.put_u8(0);
        // A request is not larger than its head, to which `limits.head` sets an end.
        message.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
        message.put(request.encode_to_vec().as_slice());
        let authorization = token.and_then(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        // The check of the configuration lets in what makes an address only.
        let uri = format!("http://{authority}{PATH}").parse().unwrap_or_default();
        Self { uri, authorization, message: message.freeze() }
    }

    /// Makes the call; the back end is told how much `time` it has, and `begun` when that begins. The
    /// answer may have `most` bytes.
    pub(super) async fn make(
        self,
        wire: &mut Wire,
        time: Duration,
        most: usize,
        begun: oneshot::Sender<()>,
    ) -> Result<AdmitResponse, Trouble> {
        let response = wire.send(self.request(time, Some(begun))).await?;
        read(response, most).await
    }

    fn request(self, time: Duration, begun: Option<oneshot::Sender<()>>) -> Request<Outgoing> {
        let mut request = Request::new(Outgoing { message: Some(self.message), begun });
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri;
        let headers = request.headers_mut();
        let agent = concat!("gateway-websocket/", env!("CARGO_PKG_VERSION"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        let time = format!("{}m", time.as_millis().clamp(1, 99_999_999));
        headers.extend(HeaderValue::from_str(&time).ok().map(|time| (TIMEOUT, time)));
        headers.extend(self.authorization.map(|it| (AUTHORIZATION, it)));
        request
    }
}

/// Reads an answer, which has at most `most` bytes.
async fn read(response: Response<Incoming>, most: usize) -> Result<AdmitResponse, Trouble> {
    if response.status() != StatusCode::OK {
        return Err(Trouble::Error(format!("it answers HTTP status {}", response.status())));
    }
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.starts_with(GRPC.as_bytes()) {
        return Err(Trouble::Error("it answers something that is not gRPC".to_owned()));
    }
    let told = status(response.headers());
    let (body, trailers) = whole(response.into_body(), most).await?;
    let Some(status) = told.or_else(|| status(&trailers)) else {
        return Err(Trouble::Error("its answer ends without a status".to_owned()));
    };
    match status.code() {
        Code::Ok => {}
        code if declines(code) => return Err(Trouble::Declined(shown(&status))),
        _ => return Err(Trouble::Error(shown(&status))),
    }
    decode(body).map_err(Trouble::Nonsense)
}

/// Whether a status is about this question, and says that the back end works. The rest says that it
/// fails, has too much to do or isn't there, or may say so.
fn declines(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

/// The body and what follows it; no more of it is taken than may be.
async fn whole(
    body: impl Body<Data = Bytes, Error = hyper::Error>,
    most: usize,
) -> Result<(Bytes, HeaderMap), Trouble> {
    let collected = Limited::new(body, most + PREFIX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Trouble::Nonsense(Nonsense::TooLarge(most))
        } else {
            Trouble::Error(format!("its answer breaks off: {}", causes(&*error)))
        }
    })?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok((collected.to_bytes(), trailers))
}

/// Takes one message out of a body that has to be one message.
fn decode(mut body: Bytes) -> Result<AdmitResponse, Nonsense> {
    let undecodable = |why: &str| Nonsense::Undecodable(why.to_owned());
    if body.len() < PREFIX {
        return Err(undecodable("it has no message"));
    }
    let (compressed, len) = (body.get_u8() != 0, body.get_u32());
    if compressed {
        return Err(undecodable("it is compressed, which was not asked for"));
    }
    if usize::try_from(len).ok() != Some(body.len()) {
        return Err(undecodable("it is not one whole message"));
    }
    AdmitResponse::decode(body).map_err(|error| Nonsense::Undecodable(error.to_string()))
}

/// A status of the back end's, cut to a length for the log.
fn shown(status: &Status) -> String {
    let message = status.message();
    let cut = &message[..message.floor_char_boundary(MOST_TOLD)];
    format!("it answers {:?}: {cut:?}", status.code())
}

/// An error and what it comes from: hyper's own words say little.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Allow, admit_response::Verdict};

    fn framed(compressed: u8, len: u32, message: &[u8]) -> Bytes {
        [&[compressed], &len.to_be_bytes()[..], message].concat().into()
    }

    #[test]
    fn a_body_is_exactly_one_message() {
        let allow = Allow { uid: "ada".into(), ..Allow::default() };
        let answer = AdmitResponse { verdict: Some(Verdict::Allow(allow)) };
        let bytes = answer.encode_to_vec();
        let len = u32::try_from(bytes.len()).unwrap();
        assert_eq!(decode(framed(0, len, &bytes)), Ok(answer));
        assert_eq!(decode(framed(0, 0, b"")), Ok(AdmitResponse::default()));
        let twice = [bytes.as_slice(), &framed(0, len, &bytes)].concat();
        for (body, says) in [
            (Bytes::new(), "no message"),
            (Bytes::from_static(&[0, 0, 0, 0]), "no message"),
            (framed(1, len, &bytes), "compressed"),
            (framed(0, len + 1, &bytes), "one whole message"),
            (framed(0, len - 1, &bytes), "one whole message"),
            (framed(0, u32::MAX, &bytes), "one whole message"),
            (framed(0, len, &twice), "one whole message"),
            (framed(0, 3, b"\xff\xff\xff"), "can't be decoded"),
            // A uid that is not UTF-8.
            (framed(0, 6, b"\x0a\x04\x0a\x02\xff\xfe"), "UTF-8"),
        ] {
            let said = decode(body.clone()).unwrap_err().to_string();
            assert!(said.contains(says), "{body:?}: {said}");
        }
    }

    #[test]
    fn what_the_back_end_says_is_cut_for_the_log() {
        let said = shown(&Status::internal("\u{e9}".repeat(1000)));
        assert!(said.len() < MOST_TOLD + 100, "{said}");
        assert!(said.starts_with("it answers Internal: "), "{said}");
    }

    #[test]
    fn the_token_is_sent_and_never_shown() {
        let (_folder, path) = {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("token");
            std::fs::write(&path, "0123456789abcdef").unwrap();
            (folder, path)
        };
        let token = Secret::read(&path).0.unwrap();
        let call = Call::new("a.example:9000", Some(&token), &AdmitRequest::default());
        let request = call.request(Duration::from_millis(1500), None);
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer 0123456789abcdef");
        assert_eq!(request.headers()["grpc-timeout"], "1500m");
        assert_eq!(request.uri(), "http://a.example:9000/gateway.v1.Admission/Admit");
        assert!(!format!("{:?}", request.headers()).contains("0123456789abcdef"));
    }
}
