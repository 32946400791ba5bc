//! A handshake without a socket: what the listener would say to the bytes of a request.
//!
//! The way in for those who have bytes and no client: the fuzz target of `fuzz/`, and the replay of
//! what it found. Reading, judging and answering are the listener's own; only that there is room
//! for one more client is taken for granted.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use hyper::{
    rt::{Read, Write},
    service::service_fn,
};

use hyper_util::rt::TokioIo;

use super::{
    handshake,
    held::{Held, Hold, Parts},
    upgrade,
};
use crate::config::Config;

/// Reads one request from `io` and answers it by the rules of `config`.
///
/// Gives, if the answer was 101, the connection back and what was read of it behind the request.
/// Needs a tokio runtime's clock, as the listener does.
pub async fn rehearse<I>(io: I, config: &Config) -> Option<(I, Vec<u8>)>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let begun = Mutex::new(None);
    let hold = Hold::default();
    let service = service_fn(|mut request| {
        if upgrade::has_body(&request) {
            hold.expect_body();
        }
        let accepted = upgrade::answer(&request, config)
            .and_then(|negotiated| handshake::begin(&mut request, negotiated));
        let response = match accepted {
            Ok((response, websocket)) => {
                *begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(websocket);
                response
            }
            Err(refusal) => refusal.response(),
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let stream = Held::new(TokioIo::new(io), hold.clone(), config.limits.close_wait);
    let stream = TokioIo::new(stream);
    handshake::http(config).serve_connection(stream, service).with_upgrades().await.ok()?;
    let websocket = begun.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    let upgraded = websocket.await.ok()?.into_inner().into_inner();
    let upgraded = upgraded.downcast::<TokioIo<Held<TokioIo<I>>>>().ok()?;
    let Parts { stream, unread, .. } = upgraded.io.into_inner().into_parts();
    Some((stream.into_inner(), [&*upgraded.read_buf, &unread].concat()))
}
