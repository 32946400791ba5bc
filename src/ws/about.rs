//! What is remembered of the request by which a client has connected.
//!
//! Nothing, for most: for who asks for `/`, agrees on no sub-protocol and has none of the headers
//! that `websocket.keep_headers` names. Who asks for the same as another shares what is remembered,
//! so that a hundred thousand clients of one path cost no more than one.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{HeaderMap, Request, header::HeaderName};

use super::upgrade::Negotiated;
use crate::{config::Config, shard::About};

/// What was remembered lately, for others to share.
#[derive(Debug, Default)]
pub(super) struct Abouts {
    /// The lock is held for one look-up.
    recent: Mutex<HashSet<Arc<About>>>,
}

/// How many different ones are kept for others to share. More paths and headers than that hardly
/// repeat themselves.
const RECENT: usize = 256;

impl Abouts {
    /// What is to be remembered of a request; none if there is nothing.
    pub(super) fn of<B>(
        &self,
        request: &Request<B>,
        negotiated: &Negotiated,
        config: &Config,
    ) -> Option<Arc<About>> {
        let about = about(request, negotiated, config);
        if about == About::default() {
            return None;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent.get(&about) {
            return Some(Arc::clone(known));
        }
        if recent.len() >= RECENT {
            recent.clear();
        }
        let about = Arc::new(about);
        recent.insert(Arc::clone(&about));
        Some(about)
    }
}

fn about<B>(request: &Request<B>, negotiated: &Negotiated, config: &Config) -> About {
    let mut room = config.limits.kept_bytes.bytes();
    let path = Some(request.uri().path()).filter(|&path| path != "/").unwrap_or_default();
    let path = &path[..path.floor_char_boundary(room)];
    room -= path.len();
    let mut headers = Vec::new();
    for name in &config.websocket.keep_headers.0 {
        // The check of the configuration lets no other names in.
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        let Some(value) = value(request.headers(), &name) else { continue };
        if let Some(left) = room.checked_sub(name.as_str().len() + value.len())
            && headers.iter().all(|(other, _): &(Box<str>, _)| **other != *name.as_str())
        {
            room = left;
            headers.push((name.as_str().into(), value.into()));
        }
    }
    let subprotocol = negotiated.subprotocol.as_ref().and_then(|one| one.to_str().ok());
    About {
        path: path.into(),
        subprotocol: subprotocol.unwrap_or_default().into(),
        headers: headers.into(),
    }
}

/// The header's value, over all its lines (RFC 9110 §5.3); what is not UTF-8 is replaced.
fn value(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines = headers.get_all(name).iter();
    let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect::<Vec<_>>();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn request(path: &str, headers: &[(&str, &[u8])]) -> Request<()> {
        let request = Request::builder().uri(path);
        headers.iter().fold(request, |to, (name, value)| to.header(*name, *value)).body(()).unwrap()
    }

    fn config(keep: &[&str], bytes: u64) -> Config {
        let mut config = Config::default();
        config.websocket.keep_headers.0 = keep.iter().map(ToString::to_string).collect();
        config.limits.kept_bytes.0 = bytes;
        config
    }

    #[test]
    fn nothing_is_remembered_of_who_asks_for_nothing() {
        let config = config(&["x-app"], 1024);
        let abouts = Abouts::default();
        let usual = request("/?a=b", &[("user-agent", b"x")]);
        assert_eq!(abouts.of(&usual, &Negotiated::default(), &config), None);
        assert!(abouts.recent.lock().unwrap().is_empty());
    }

    #[test]
    fn the_same_is_remembered_once_and_not_too_many() {
        let config = config(&[], 1024);
        let abouts = Abouts::default();
        let of = |path: &str| {
            abouts.of(&request(path, &[]), &Negotiated::default(), &config).expect("a path")
        };
        let (one, same, other) = (of("/chat?a"), of("/chat?b"), of("/other"));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        for number in 0..10 * RECENT {
            of(&format!("/{number}"));
            assert!(abouts.recent.lock().unwrap().len() <= RECENT);
        }
    }

    #[test]
    fn headers_are_kept_by_name_and_as_text() {
        let config = config(&["X-App", "accept-language", "x-none", "x-app"], 1024);
        let lines: [(&str, &[u8]); 4] =
            [("x-app", b"1"), ("Accept-Language", b"de"), ("accept-language", b"en"), ("x", b"y")];
        let negotiated = Negotiated {
            subprotocol: Some(HeaderValue::from_static("chat")),
            ..Negotiated::default()
        };
        let kept = about(&request("/", &lines), &negotiated, &config);
        let pair = |name: &str, value: &str| (name.into(), value.into());
        assert_eq!(*kept.headers, [pair("x-app", "1"), pair("accept-language", "de, en")]);
        assert_eq!((&*kept.path, &*kept.subprotocol), ("", "chat"));
        let odd = about(&request("/", &[("x-app", b"a\xffb")]), &negotiated, &config);
        assert_eq!(*odd.headers, [pair("x-app", "a\u{fffd}b")]);
    }

    #[test]
    fn no_more_is_remembered_than_is_allowed() {
        let config = config(&["a", "b", "c"], 10);
        let lines: [(&str, &[u8]); 3] = [("a", b"123"), ("b", b"1234"), ("c", b"1")];
        let kept = about(&request("/234", &lines), &Negotiated::default(), &config);
        assert_eq!(&*kept.path, "/234");
        let names: Vec<_> = kept.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["a", "c"]);
        let kept = about(&request("/23456789abc", &lines), &Negotiated::default(), &config);
        assert_eq!((&*kept.path, kept.headers.len()), ("/23456789a", 0));
    }
}
