//! What the back end is told of who would like to connect.

use std::net::SocketAddr;

use hyper::HeaderMap;

use super::queue::Asker;
use crate::{
    change::Change,
    proto::v1::{AdmitRequest, Header, VerifiedToken},
};

/// Who would like to connect. It is kept as it is found: copies are made when it is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The path of its request.
    pub path: &'a str,
    /// The query of its request.
    pub query: &'a str,
    /// Its address, as the gateway knows it.
    pub peer: SocketAddr,
    /// The headers of its request.
    pub headers: &'a HeaderMap,
    /// The sub-protocols that it offers and may be answered.
    pub offers: &'a [String],
    /// What its token says, if it has brought one.
    pub token: Option<&'a VerifiedToken>,
    /// What it gets by its token.
    pub change: &'a Change,
}

impl Question<'_> {
    /// Who shares a line with it: those of its user, where a token says which, else of its address.
    pub(super) fn asker(&self) -> Asker {
        let uid = self.token.map(|token| token.uid.as_str()).filter(|uid| !uid.is_empty());
        uid.map_or_else(|| self.peer.ip().into(), |uid| Asker::User(uid.to_owned()))
    }

    pub(super) fn request(&self) -> AdmitRequest {
        let headers = self.headers.iter().map(|(name, value)| Header {
            name: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        });
        AdmitRequest {
            path: self.path.to_owned(),
            query: self.query.to_owned(),
            peer_address: self.peer.to_string(),
            headers: headers.collect(),
            token: self.token.cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn all_of_the_request_is_told() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-b", b"1".as_slice()), ("x-a", b"caf\xe9"), ("x-b", b"2")] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let question = Question {
            path: "/chat",
            query: "room=1",
            peer: "[2001:db8::1]:7".parse().unwrap(),
            headers: &headers,
            offers: &[],
            token: None,
            change: &Change::default(),
        };
        let request = question.request();
        let told: Vec<_> =
            request.headers.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect();
        assert_eq!(told, [("x-b", "1"), ("x-b", "2"), ("x-a", "caf\u{fffd}")]);
        assert_eq!(request.peer_address, "[2001:db8::1]:7");
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/chat", "room=1"));
    }
}
