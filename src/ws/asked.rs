//! What the business system says of a request that is right: between who asks and its answer.
//!
//! ```text
//!  token, if any ─► hook ─┬─ may come ─► change over the token's, sub-protocol
//!                         ├─ may not ──► No::Theirs: its status and its words
//!                         ├─ no turn ──► No::Ours (503)
//!                         └─ no word ──► hook.fail: No::Ours (503), or as the token says
//! ```

use std::{fmt, net::SocketAddr};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Bytes,
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};

use super::{
    Context, admission, token,
    upgrade::{Negotiated, Refusal},
};
use crate::{
    change::Change,
    config::{Fail, InForce},
    hook::{Question, Verdict},
    identity::Verified,
    proto::v1::VerifiedToken,
    timestamp,
};

/// Why a request does not become a client.
#[derive(Debug)]
pub(super) enum No {
    /// We say so.
    Ours(Refusal),
    /// The business system says so, in its own words.
    Theirs { status: StatusCode, body: String },
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Ours(refusal)
    }
}

impl No {
    /// The status that says so.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Ours(refusal) => refusal.status(),
            Self::Theirs { status, .. } => *status,
        }
    }

    /// The whole answer.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let (status, body) = match self {
            Self::Ours(refusal) => return refusal.response(),
            Self::Theirs { status, body } => (status, body),
        };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // Whatever it says, it is no page.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(refusal) => refusal.fmt(f),
            Self::Theirs { .. } => f.write_str("the connect hook refuses the client"),
        }
    }
}

/// What the client becomes as it is let in, and what is agreed on with it, by the word of the back
/// end; as its token says, where nobody is asked.
pub(super) async fn ask<B>(
    request: &Request<B>,
    peer: SocketAddr,
    verified: Option<Verified>,
    negotiated: &mut Negotiated,
    context: &Context,
    config: &InForce,
) -> Result<Option<Box<Change>>, No> {
    let is_on = config.hook.is_on();
    let told = verified.as_ref().filter(|_| is_on).map(verified_token);
    let known = verified.is_some();
    let by_token = verified.map(|verified| verified.change).unwrap_or_default();
    let mut offers = Vec::new();
    if is_on {
        // The back end isn't asked about who can't come anyway.
        drop(admission::permit(context)?);
        offers.extend(
            token::subprotocols(request.headers(), &config.auth)
                .filter_map(|offer| str::from_utf8(offer).ok())
                .map(str::to_owned),
        );
    }
    let question = Question {
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        peer,
        headers: request.headers(),
        offers: &offers,
        token: told.as_ref(),
        change: &by_token,
    };
    match context.hook.ask(question, config).await {
        None => Ok(known.then(|| Box::new(by_token))),
        Some(Ok(Verdict::Refuse { status, body })) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            Err(No::Theirs { status, body })
        }
        Some(Ok(Verdict::Allow { change, subprotocol })) => {
            // It is one of the offers, which came in a header.
            let told = subprotocol.and_then(|it| HeaderValue::try_from(it).ok());
            negotiated.subprotocol = told.or(negotiated.subprotocol.take());
            Ok(Some(change))
        }
        // Whom we had no time to ask about could be anybody.
        Some(Err(failure)) if failure.is_ours() => Err(Refusal::Unknown(failure.cause()).into()),
        Some(Err(failure)) => match config.hook.fail {
            Fail::Closed => Err(Refusal::Unknown(failure.cause()).into()),
            Fail::Open => Ok(known.then(|| Box::new(by_token))),
        },
    }
}

/// What the back end is told of a token.
fn verified_token(verified: &Verified) -> VerifiedToken {
    let change = &verified.change;
    let attributes = change.attributes.iter().flat_map(|retouch| retouch.set.iter());
    VerifiedToken {
        uid: change.uid.clone().flatten().map(|uid| uid.to_string()).unwrap_or_default(),
        groups: change.join.iter().map(ToString::to_string).collect(),
        attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        expires_at: change.expires.flatten().map(|expiry| timestamp::write(expiry.at)),
        claims: serde_json::to_string(&verified.claims).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_business_system_says_is_no_page_and_ends_the_connection() {
        let no = No::Theirs { status: StatusCode::PAYMENT_REQUIRED, body: "<h1>".to_owned() };
        assert!(!no.to_string().contains("<h1>"));
        let response = no.response();
        assert_eq!(response.status(), 402);
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["connection"], "close");
    }
}
