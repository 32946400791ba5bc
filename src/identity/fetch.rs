//! One question for a key set over HTTP: everything the answer can hold is bounded, and it leads
//! nowhere else.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    access::{KeyProblem, Keys},
    tls,
};

/// What is asked for, and what the answer may be.
pub(super) struct Question<'q> {
    pub(super) url: &'q str,
    /// Whom is trusted; none where there is no TLS.
    pub(super) tls: Option<&'q tls::Client>,
    pub(super) timeout: Duration,
    pub(super) max_bytes: usize,
}

/// Why there are no new keys; reads on after the URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The check of the configuration lets no such URL in.
    #[error("is no URL to fetch from")]
    Url,
    #[error("can't be reached: {0}")]
    Unreachable(std::io::Error),
    #[error("does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("did not answer within {0:?} (auth.jwks_timeout)")]
    Slow(Duration),
    #[error("answered {0}; redirects are not followed")]
    Redirect(StatusCode),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("answered more than {0} bytes (auth.jwks_max_bytes)")]
    TooLarge(usize),
    #[error("broke off its answer: {0}")]
    BrokenOff(Box<dyn std::error::Error + Send + Sync>),
    /// What was answered.
    #[error(transparent)]
    Keys(#[from] KeyProblem),
}

/// Bytes of the head of an answer.
const HEAD: usize = 16 << 10;

/// Asks once.
pub(super) async fn fetch(question: Question<'_>) -> Result<Keys, FetchError> {
    let limit = question.timeout;
    timeout(limit, ask(question)).await.unwrap_or(Err(FetchError::Slow(limit)))
}

async fn ask(question: Question<'_>) -> Result<Keys, FetchError> {
    let uri: Uri = question.url.parse().map_err(|_| FetchError::Url)?;
    let host = uri.host().ok_or(FetchError::Url)?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.map_err(FetchError::Unreachable)?;
    let body = if secure {
        let tls = question.tls.ok_or(FetchError::Url)?;
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Url)?;
        let connector = TlsConnector::from(tls.config());
        let stream = connector.connect(name, stream).await.map_err(FetchError::Unreachable)?;
        answer(stream, &uri, question.max_bytes).await?
    } else {
        answer(stream, &uri, question.max_bytes).await?
    };
    Ok(Keys::fetched(&body)?)
}

/// The body of the answer.
async fn answer<S>(stream: S, uri: &Uri, max_bytes: usize) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().ok_or(FetchError::Url)?;
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
    let asking = async {
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => whole(response.into_body(), max_bytes).await,
            status if status.is_redirection() => Err(FetchError::Redirect(status)),
            status => Err(FetchError::Status(status)),
        }
    };
    // The connection has to be driven for the answer to come; it lives no longer than that.
    let driving = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = asking => answer,
        never = driving => match never {},
    }
}

async fn whole(body: Incoming, max_bytes: usize) -> Result<Bytes, FetchError> {
    let body = Limited::new(body, max_bytes).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => FetchError::TooLarge(max_bytes),
        Err(error) => FetchError::BrokenOff(error),
    })?;
    Ok(body.to_bytes())
}
