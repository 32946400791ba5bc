//! What a genuine token says (RFC 7519 §4): whether it holds here and now, and who brings it.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::{
    attributes::{Attributes, Retouch},
    change::{Change, Expiry},
    config::{Auth, Config, Limits},
    ids::Name,
    metrics::TokenFault,
    timestamp,
};

/// What is known of a client by its token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verified {
    /// What it makes of the client: uid, groups, attributes, and until when.
    pub change: Change,
    /// All that the token says.
    pub claims: Map<String, Value>,
}

/// Judges the payload of a genuine token at `now`, the time since 1970-01-01 UTC.
pub(super) fn judge(
    payload: &[u8],
    config: &Config,
    now: Duration,
) -> Result<Verified, TokenFault> {
    let claims: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_| TokenFault::Malformed)?;
    let (auth, limits) = (&config.auth, &config.limits);
    let left = time_left(&claims, auth, now)?;
    check_issuer(&claims, auth)?;
    check_audience(&claims, auth)?;
    let change = Change {
        uid: uid(&claims, auth, limits)?.map(Some),
        join: groups(&claims, auth, limits)?,
        attributes: attributes(&claims, auth, limits)?,
        // To the second as it was signed; what no clock can say is never.
        expires: Some(
            UNIX_EPOCH.checked_add(now.saturating_add(left)).map(|at| Expiry { at, after: left }),
        ),
        ..Change::default()
    };
    Ok(Verified { change, claims })
}

/// The time until the token has expired for good.
fn time_left(
    claims: &Map<String, Value>,
    auth: &Auth,
    now: Duration,
) -> Result<Duration, TokenFault> {
    let expires = time(claims, "exp")?.ok_or(TokenFault::Claims)?;
    // Nothing goes by when it was issued, but a time that is none is no time here either.
    if claims.get("iat").is_some_and(Value::is_number) {
        time(claims, "iat")?;
    }
    let left = expires.saturating_add(auth.leeway).saturating_sub(now);
    if left.is_zero() {
        return Err(TokenFault::Expired);
    }
    if time(claims, "nbf")?.is_some_and(|begins| begins > now.saturating_add(auth.leeway)) {
        return Err(TokenFault::NotYetValid);
    }
    Ok(left)
}

fn check_issuer(claims: &Map<String, Value>, auth: &Auth) -> Result<(), TokenFault> {
    let issuers = &auth.issuers.0;
    let issuer = claims.get("iss").and_then(Value::as_str);
    let is_listed = issuer.is_some_and(|issuer| issuers.iter().any(|listed| listed == issuer));
    if issuers.is_empty() || is_listed { Ok(()) } else { Err(TokenFault::Issuer) }
}

/// Who isn't named must not take what is for others (RFC 7519 §4.1.3).
fn check_audience(claims: &Map<String, Value>, auth: &Auth) -> Result<(), TokenFault> {
    let is_listed = |audience: &Value| {
        let audience = audience.as_str();
        audience.is_some_and(|audience| auth.audiences.0.iter().any(|listed| listed == audience))
    };
    let is_for_us = match claims.get("aud") {
        None => auth.audiences.0.is_empty(),
        Some(Value::Array(audiences)) => audiences.iter().any(is_listed),
        Some(audience) => is_listed(audience),
    };
    if is_for_us { Ok(()) } else { Err(TokenFault::Audience) }
}

/// The uid. Who sets `auth.uid_claim` counts on it, so a token without it is none.
fn uid(
    claims: &Map<String, Value>,
    auth: &Auth,
    limits: &Limits,
) -> Result<Option<Name>, TokenFault> {
    if auth.uid_claim.is_empty() {
        return Ok(None);
    }
    match claims.get(&auth.uid_claim) {
        Some(Value::String(uid)) => name(uid, limits).map(Some),
        Some(Value::Number(uid)) if !uid.is_f64() => name(&uid.to_string(), limits).map(Some),
        _ => Err(TokenFault::Claims),
    }
}

fn groups(
    claims: &Map<String, Value>,
    auth: &Auth,
    limits: &Limits,
) -> Result<Vec<Name>, TokenFault> {
    let names: Vec<&str> = match optional(claims, &auth.groups_claim) {
        None => return Ok(Vec::new()),
        Some(Value::String(names)) => names.split_ascii_whitespace().collect(),
        Some(Value::Array(names)) => {
            let names = names.iter().map(|name| name.as_str().ok_or(TokenFault::Claims));
            names.collect::<Result<_, _>>()?
        }
        Some(_) => return Err(TokenFault::Claims),
    };
    let mut groups = names.into_iter().map(|it| name(it, limits)).collect::<Result<Vec<_>, _>>()?;
    groups.sort_unstable();
    groups.dedup();
    let fits = groups.len() <= limits.groups_per_client;
    fits.then_some(groups).ok_or(TokenFault::Claims)
}

fn attributes(
    claims: &Map<String, Value>,
    auth: &Auth,
    limits: &Limits,
) -> Result<Option<Retouch>, TokenFault> {
    let pairs = match optional(claims, &auth.attributes_claim) {
        None => return Ok(None),
        Some(Value::Object(pairs)) => pairs,
        Some(_) => return Err(TokenFault::Claims),
    };
    let pairs = pairs.iter().map(|(key, value)| {
        let value = value.as_str().ok_or(TokenFault::Claims)?;
        Ok((name(key, limits)?, Box::from(value)))
    });
    let set = pairs.collect::<Result<Attributes, TokenFault>>()?;
    let fits = set.len() <= limits.attributes && set.bytes() <= limits.attribute_bytes.bytes();
    fits.then(|| Some(Retouch { set, ..Retouch::default() })).ok_or(TokenFault::Claims)
}

/// A claim that need not be there.
fn optional<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    claims.get(name).filter(|value| !name.is_empty() && !value.is_null())
}

fn name(text: &str, limits: &Limits) -> Result<Name, TokenFault> {
    Name::new(text, limits.names).map_err(|_| TokenFault::Claims)
}

/// A moment, in seconds since 1970-01-01 UTC, which may have a fraction (RFC 7519 §2). It has to be one
/// that can be told to others; what is before 1970 is long ago.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<Duration>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let (first, last) = (*timestamp::SECONDS.start(), *timestamp::SECONDS.end());
    if let Some(seconds) = value.as_u64() {
        let in_range = i64::try_from(seconds).is_ok_and(|seconds| seconds <= last);
        let at = in_range.then(|| Some(Duration::from_secs(seconds)));
        return at.ok_or(TokenFault::TimeOutOfRange);
    }
    let seconds = value.as_f64().ok_or(TokenFault::Claims)?;
    #[expect(clippy::cast_precision_loss, reason = "both have fewer than 53 bits")]
    let (first, end) = (first as f64, (last + 1) as f64);
    if !(first..end).contains(&seconds) {
        return Err(TokenFault::TimeOutOfRange);
    }
    Ok(Some(Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
