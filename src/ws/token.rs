//! Where a request has its token: a header, a sub-protocol, a cookie or a query parameter.
//!
//! It is found and handed on, and never looked into; what it is worth is `identity`'s to say.

use hyper::{
    HeaderMap, Request,
    header::{AUTHORIZATION, COOKIE, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};

use super::elements::elements;
use crate::{config::Auth, metrics::TokenFault};

/// The sub-protocol that says that the next one offered is a token: browsers can set no other header.
const BEARER: &str = "bearer";

/// The token of a request, from the first of the configured places that has one. It must have no
/// second one there: whoever passes a request on might go by another than we do.
pub(super) fn of<B>(request: &Request<B>, auth: &Auth) -> Result<Option<Vec<u8>>, TokenFault> {
    if !auth.is_on() {
        return Ok(None);
    }
    let headers = request.headers();
    for source in &auth.sources.0 {
        let found = match source.as_str() {
            "header" => only(in_header(headers)),
            "protocol" => only(offered(headers)),
            "cookie" => only(in_cookies(headers, &auth.cookie)),
            "query" => only(in_query(request.uri().query(), &auth.query_parameter)),
            _ => Ok(None),
        };
        if let Some(token) = found? {
            return Ok(Some(token.to_vec()));
        }
    }
    Ok(None)
}

/// The answer to a client that offers its token as a sub-protocol, and no other that is known:
/// browsers insist on one of those that they offered.
pub(super) fn answer(headers: &HeaderMap, auth: &Auth) -> Option<HeaderValue> {
    (auth.takes_from("protocol") && offered(headers).next().is_some())
        .then_some(HeaderValue::from_static(BEARER))
}

/// The sub-protocols that are offered, without tokens.
pub(super) fn subprotocols<'h>(
    headers: &'h HeaderMap,
    auth: &Auth,
) -> impl Iterator<Item = &'h [u8]> {
    let takes = auth.takes_from("protocol");
    let mut is_token = false;
    elements(headers, &SEC_WEBSOCKET_PROTOCOL).filter(move |element| {
        let skip = std::mem::replace(&mut is_token, takes && *element == BEARER.as_bytes());
        !skip
    })
}

fn only<'h>(mut tokens: impl Iterator<Item = &'h [u8]>) -> Result<Option<&'h [u8]>, TokenFault> {
    let first = tokens.next();
    if tokens.next().is_some() { Err(TokenFault::Several) } else { Ok(first) }
}

/// RFC 6750 §2.1.
fn in_header(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(AUTHORIZATION).into_iter().filter_map(|line| {
        let line = line.as_bytes().trim_ascii();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (scheme, token) = line.split_at(end);
        scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii())
    })
}

/// What follows each `bearer`, if it is only the end.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let mut elements = elements(headers, &SEC_WEBSOCKET_PROTOCOL);
    std::iter::from_fn(move || {
        elements.find(|element| *element == BEARER.as_bytes())?;
        Some(elements.next().unwrap_or_default())
    })
}

/// RFC 6265 §5.4. A value may stand in quotes (§4.1.1), which are no part of a token.
fn in_cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| value_of(pair.trim_ascii(), name)).map(|value| {
        let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        quoted.unwrap_or(value)
    })
}

fn in_query<'r>(query: Option<&'r str>, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
    let pairs = query.unwrap_or_default().as_bytes().split(|byte| *byte == b'&');
    pairs.filter_map(|pair| value_of(pair, name))
}

/// The value in `name=value`.
fn value_of<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token of a request with these headers.
    fn token(
        sources: &[&str],
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Option<String>, TokenFault> {
        let request = Request::builder().uri(format!("/chat{query}"));
        let request = headers.iter().fold(request, |to, (name, value)| to.header(*name, *value));
        let found = of(&request.body(()).unwrap(), &auth(sources));
        found.map(|token| token.map(|token| String::from_utf8(token).unwrap()))
    }

    fn auth(sources: &[&str]) -> Auth {
        let mut auth = Auth::default();
        auth.algorithms.0 = vec!["ES256".to_owned()];
        auth.sources.0 = sources.iter().map(ToString::to_string).collect();
        auth.cookie = "session".to_owned();
        auth
    }

    #[test]
    fn a_token_is_found_where_it_may_stand_and_nowhere_else() {
        let everywhere = [
            ("authorization", "Bearer one"),
            ("sec-websocket-protocol", "chat, bearer, two"),
            ("cookie", "a=b; session=three"),
        ];
        let find = |source| token(&[source], "?a=b&access_token=four", &everywhere);
        for (source, expected) in
            [("header", "one"), ("protocol", "two"), ("cookie", "three"), ("query", "four")]
        {
            assert_eq!(find(source), Ok(Some(expected.to_owned())), "{source}");
            assert_eq!(token(&[source], "", &[]), Ok(None), "{source}");
        }
        let order = ["query", "cookie", "header"];
        let both = [everywhere[0], everywhere[2]];
        assert_eq!(token(&order, "", &both), Ok(Some("three".to_owned())));
        assert_eq!(token(&order, "", &both[..1]), Ok(Some("one".to_owned())));
        let mut off = auth(&["header"]);
        off.algorithms.0.clear();
        let request = Request::builder().header("authorization", "Bearer one").body(()).unwrap();
        assert_eq!(of(&request, &off), Ok(None));
    }

    #[test]
    fn what_is_no_token_is_none() {
        let header = |value: &str| token(&["header"], "", &[("authorization", value)]);
        assert_eq!(header("Basic abc"), Ok(None));
        assert_eq!(header("Bearerabc"), Ok(None));
        assert_eq!(header("bEARER  abc "), Ok(Some("abc".to_owned())));
        assert_eq!(header("Bearer"), Ok(Some(String::new())), "announced and not there");
        let offer = |value: &str| token(&["protocol"], "", &[("sec-websocket-protocol", value)]);
        assert_eq!(offer("chat, bearer"), Ok(Some(String::new())));
        assert_eq!(offer("bearers, x"), Ok(None));
        let cookie = |value: &str| token(&["cookie"], "", &[("cookie", value)]);
        assert_eq!(cookie("a=b; session=\"x\""), Ok(Some("x".to_owned())), "quotes are none of it");
        assert_eq!(cookie("session=\""), Ok(Some("\"".to_owned())));
        assert_eq!(cookie("session2=x; my_session=y; session"), Ok(None));
        assert_eq!(token(&["query"], "?access_tokens=x&x=access_token=y", &[]), Ok(None));
    }

    #[test]
    fn two_in_one_place_are_too_many() {
        let several = Err(TokenFault::Several);
        let line = ("authorization", "Bearer one");
        assert_eq!(token(&["header"], "", &[line, line]), several);
        let offers = [("sec-websocket-protocol", "bearer, a, bearer, b")];
        assert_eq!(token(&["protocol"], "", &offers), several);
        let cookies = [("cookie", "session=a"), ("cookie", "session=a")];
        assert_eq!(token(&["cookie"], "", &cookies), several);
        assert_eq!(token(&["query"], "?access_token=a&access_token=b", &[]), several);
        // Another scheme is another matter.
        let basic = ("authorization", "Basic abc");
        assert_eq!(token(&["header"], "", &[line, basic]), Ok(Some("one".to_owned())));
    }

    #[test]
    fn bearer_is_answered_and_the_token_is_no_sub_protocol() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer, chat, v2"));
        let takes = auth(&["protocol"]);
        let offers = |auth: &Auth| subprotocols(&headers, auth).collect::<Vec<_>>();
        assert_eq!(offers(&takes), [&b"bearer"[..], b"v2"]);
        assert_eq!(answer(&headers, &takes).unwrap(), "bearer");
        let other = auth(&["header"]);
        assert_eq!(offers(&other), [&b"bearer"[..], b"chat", b"v2"]);
        assert_eq!(answer(&headers, &other), None);
        assert_eq!(answer(&HeaderMap::new(), &takes), None);
    }
}
