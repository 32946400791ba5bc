//! A second reader of what a genuine token says: all its faults, or what it makes of the client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use gateway_websocket::{
    attributes::Retouch,
    change::Change,
    config::{Config, Limits},
    identity::Verified,
    metrics::TokenFault,
};
use serde_json::{Map, Value};

/// The issuer of the tokens in `vectors.json`.
pub(super) const ISSUER: &str = "https://issuer.example";

/// Seconds by which two looks at the clock may differ, and numbers that were rounded.
const SLACK: f64 = 10.0;

/// The years 1 to 9999, in seconds since 1970.
const FIRST: f64 = -62_135_596_800.0;
const END: f64 = 253_402_300_800.0;

/// What a token makes of the client that brings it.
pub(super) struct Read {
    claims: Map<String, Value>,
    uid: Option<String>,
    groups: BTreeSet<String>,
    attributes: Option<BTreeMap<String, String>>,
    /// When it ends, in seconds since 1970.
    until: f64,
}

/// Reads the payload of a genuine token; none if its time begins or ends just now, so that another
/// look at the clock may say otherwise.
pub(super) fn read(payload: &[u8], config: &Config) -> Option<Result<Read, Vec<TokenFault>>> {
    let Ok(Value::Object(claims)) = serde_json::from_slice(payload) else {
        return Some(Err(vec![TokenFault::Malformed]));
    };
    let (auth, limits) = (&config.auth, &config.limits);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
    let [exp, nbf] = ["exp", "nbf"].map(|name| claims.get(name).map(Value::as_f64));
    if [exp, nbf].iter().any(|time| matches!(time, Some(Some(it)) if (it - now).abs() < SLACK)) {
        return None;
    }
    let iat = claims.get("iat").filter(|it| it.is_number()).map(Value::as_f64);
    let is_beyond =
        |time: &Option<Option<f64>>| matches!(time, Some(Some(it)) if *it < FIRST || *it >= END);
    let uid = uid(&claims, &auth.uid_claim, limits);
    let groups = groups(&claims, &auth.groups_claim, limits);
    let attributes = attributes(&claims, &auth.attributes_claim, limits);

    let is_listed = |listed: &[String], value: &Value| listed.iter().any(|it| value == it);
    let is_for_us = match claims.get("aud") {
        None => auth.audiences.0.is_empty(),
        Some(Value::Array(many)) => many.iter().any(|one| is_listed(&auth.audiences.0, one)),
        Some(one) => is_listed(&auth.audiences.0, one),
    };
    let issuer = claims.get("iss").unwrap_or(&Value::Null);
    let is_sound = matches!(exp, Some(Some(_)))
        && nbf != Some(None)
        && uid.is_ok()
        && groups.is_some()
        && attributes.is_ok();
    let faults: Vec<_> = [
        (matches!(exp, Some(Some(exp)) if exp < now), TokenFault::Expired),
        (matches!(nbf, Some(Some(nbf)) if nbf > now), TokenFault::NotYetValid),
        ([exp, nbf, iat].iter().any(is_beyond), TokenFault::TimeOutOfRange),
        (!auth.issuers.0.is_empty() && !is_listed(&auth.issuers.0, issuer), TokenFault::Issuer),
        (!is_for_us, TokenFault::Audience),
        (!is_sound, TokenFault::Claims),
    ]
    .into_iter()
    .filter_map(|(is, fault)| is.then_some(fault))
    .collect();
    Some(match (uid, groups, attributes) {
        (Ok(uid), Some(groups), Ok(attributes)) if faults.is_empty() => {
            let until = exp.flatten().unwrap_or_default();
            Ok(Read { claims, uid, groups, attributes, until })
        }
        _ => Err(faults),
    })
}

impl Read {
    /// Compares it with what was made of the same token.
    pub(super) fn check(&self, verified: &Verified) {
        assert_eq!(verified.claims, self.claims, "the claims are exactly those that were signed");
        let Change { uid, leave, join, attributes, expires, messages } = &verified.change;
        let uid = uid.as_ref().map(|uid| uid.as_ref().map(ToString::to_string));
        assert_eq!(uid, self.uid.clone().map(Some), "the uid is the one that was signed");
        let groups: Vec<_> = join.iter().map(ToString::to_string).collect();
        let signed: Vec<_> = self.groups.iter().cloned().collect();
        assert_eq!(groups, signed, "the groups are those that were signed");
        let signed = self.attributes.as_ref();
        let signed = signed.map(|all| all.iter().map(|(name, value)| (&**name, &**value)));
        let set = attributes.as_ref().map(|Retouch { replace, remove, set }| {
            assert!(!replace && remove.is_empty(), "attributes are only added");
            set.iter().collect::<Vec<_>>()
        });
        assert_eq!(set, signed.map(Iterator::collect), "the attributes are those that were signed");
        assert!(leave.is_empty() && messages.is_empty(), "a token does no more than that");
        let Some(expiry) = expires.expect("each token expires") else {
            return assert!(self.until > 2f64.powi(62), "only what no clock can say is never");
        };
        let until = expiry.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (until, signed) = (until.as_secs_f64(), self.until);
        let is_it = (until - signed).abs() <= SLACK + signed * 1e-6;
        assert!(is_it, "it holds until {signed}, as was signed, not until {until}");
    }
}

fn is_name(text: &str, limits: &Limits) -> bool {
    !text.is_empty() && text.len() <= limits.names
}

fn uid(
    claims: &Map<String, Value>,
    claim: &str,
    limits: &Limits,
) -> Result<Option<String>, TokenFault> {
    let uid = match claims.get(claim) {
        _ if claim.is_empty() => return Ok(None),
        Some(Value::String(uid)) => uid.clone(),
        Some(Value::Number(uid)) if uid.is_i64() || uid.is_u64() => uid.to_string(),
        _ => return Err(TokenFault::Claims),
    };
    is_name(&uid, limits).then_some(Some(uid)).ok_or(TokenFault::Claims)
}

fn groups(claims: &Map<String, Value>, claim: &str, limits: &Limits) -> Option<BTreeSet<String>> {
    let groups: BTreeSet<String> = match claims.get(claim) {
        _ if claim.is_empty() => BTreeSet::new(),
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::String(names)) => names
            .split(['\t', '\n', '\x0c', '\r', ' '])
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        Some(Value::Array(names)) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<_>>()?
        }
        Some(_) => return None,
    };
    let fit =
        groups.len() <= limits.groups_per_client && groups.iter().all(|name| is_name(name, limits));
    fit.then_some(groups)
}

fn attributes(
    claims: &Map<String, Value>,
    claim: &str,
    limits: &Limits,
) -> Result<Option<BTreeMap<String, String>>, TokenFault> {
    let pairs = match claims.get(claim) {
        _ if claim.is_empty() => return Ok(None),
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(pairs)) => pairs.iter(),
        Some(_) => return Err(TokenFault::Claims),
    };
    let all = pairs.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let all: BTreeMap<String, String> = all.collect::<Option<_>>().ok_or(TokenFault::Claims)?;
    let bytes: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
    let fit = all.len() <= limits.attributes
        && bytes <= limits.attribute_bytes.bytes()
        && all.keys().all(|name| is_name(name, limits));
    fit.then_some(Some(all)).ok_or(TokenFault::Claims)
}
