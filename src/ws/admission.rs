//! Who may come in as whom: between a request that is right and its answer.
//!
//! ```text
//!  token ─► identity ─► asked: the connect hook ─► place: permit, address, uid ─► 101
//! ```

use std::sync::Arc;

use hyper::Request;

use super::{Context, caller::Caller, token, upgrade::Refusal};
use crate::{
    change::Change,
    close::{Cause, Close, code},
    config::InForce,
    identity::Verified,
    message::Target,
    metrics::TokenFault,
    shard::{ConnectionPermit, REPLACED},
    status::Phase,
};

/// The token in the request; none if none is looked for, or need be there.
pub(super) fn token<B>(request: &Request<B>, config: &InForce) -> Result<Option<Vec<u8>>, Refusal> {
    let auth = &config.auth;
    let token = token::of(request, auth).map_err(Refusal::Token)?;
    if token.is_none() && auth.is_on() && auth.required {
        return Err(Refusal::Token(TokenFault::Missing));
    }
    Ok(token)
}

/// Who asks, by the token. Nothing is known of who brings none.
pub(super) async fn identify(
    token: Option<Vec<u8>>,
    context: &Context,
    config: &InForce,
) -> Result<Option<Verified>, Refusal> {
    let Some(token) = token else { return Ok(None) };
    let verified = context.identity.verify(&token, config).await.map_err(Refusal::Token)?;
    context.hub.handshakes().tokens.accepted.increment();
    Ok(Some(verified))
}

/// A place for the client that the request is to become. If another one has to make room for it,
/// that one is gone by then.
pub(super) async fn place(
    caller: &Caller,
    change: Option<&Change>,
    context: &Context,
    config: &InForce,
) -> Result<ConnectionPermit, Refusal> {
    let mut permit = permit(context)?;
    caller.take(&mut permit);
    let uid = change.and_then(|change| change.uid.as_ref()).and_then(Option::as_ref);
    let Some(uid) = uid else { return Ok(permit) };
    let entered = context.uids.enter(uid, &config.auth).map_err(|_| Refusal::Uid)?;
    let Some((hold, leaving)) = entered else { return Ok(permit) };
    permit.keep(Arc::new(hold));
    for client in leaving {
        let close = Close::new(Cause::Replaced, code::REPLACED, REPLACED);
        // One that is gone already is none to be closed; one that can't be told so is still there.
        let closed = context.hub.close(Target::Client(client), close).await;
        closed.map_err(|_| Refusal::Busy)?;
    }
    Ok(permit)
}

/// A place under `limits.max_clients`; dropping it gives it back.
pub(super) fn permit(context: &Context) -> Result<ConnectionPermit, Refusal> {
    context.hub.permit().map_err(|_| match context.lifecycle.phase() {
        Phase::Ready => Refusal::Full,
        Phase::Starting | Phase::Draining | Phase::Stopping => Refusal::Closed,
    })
}
