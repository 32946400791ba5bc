//! What is a gRPC call at all, and how its messages are compressed.
//!
//! A web page may have a browser post `text/plain` or a form to any address without asking there
//! first (the "simple requests" of CORS). So only the content types of gRPC are calls, and all else
//! ends here, before a token is looked at and before anything is carried out.
//!
//! Answers are compressed for callers that compress their requests, as grpc-go does it. Most
//! libraries list gzip in `grpc-accept-encoding` whether anybody wants it or not, and compressing
//! for all of these would make every call slower.

use bytes::Bytes;
use http_body_util::Full;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{
        HeaderMap, HeaderName, Method, Request, Response, StatusCode,
        header::{ALLOW, CONTENT_TYPE, HeaderValue},
    },
};

/// Protobuf is what gRPC means if it says nothing else.
const CALLS: [&str; 2] = ["application/grpc", "application/grpc+proto"];
/// Whoever sends something that begins so speaks gRPC, and reads a gRPC status.
const GRPC: &str = "application/grpc";

/// The compression of the messages that follow, and those that may be used in return.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GZIP: &str = "gzip";

/// Most bytes of a path that an error repeats.
const MOST_OF_PATH: usize = 200;

/// What is wrong with a request that is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoCall {
    /// It is none of gRPC's types.
    #[error("content-type is neither application/grpc nor application/grpc+proto")]
    ContentType {
        /// Whether it is a relative of these.
        is_grpc: bool,
    },
    /// Calls are POST.
    #[error("method is not POST")]
    Method,
}

/// Whether a request is a call.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), NoCall> {
    let mut types = request.headers().get_all(CONTENT_TYPE).iter();
    let kind = match (types.next(), types.next()) {
        (Some(kind), None) => kind.to_str().unwrap_or_default(),
        _ => "",
    };
    // Parameters say nothing that a call needs (RFC 9110 §8.3.1).
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !CALLS.iter().any(|call| kind.eq_ignore_ascii_case(call)) {
        let begins = kind.get(..GRPC.len());
        let is_grpc = begins.is_some_and(|begins| begins.eq_ignore_ascii_case(GRPC));
        return Err(NoCall::ContentType { is_grpc });
    }
    if request.method() == Method::POST { Ok(()) } else { Err(NoCall::Method) }
}

impl NoCall {
    /// The answer: an HTTP status for all, a gRPC status for who reads it. It is the caller's fault,
    /// and counted as such.
    pub(super) fn answer(self) -> Response<Body> {
        let text = self.to_string();
        let mut answer = Status::invalid_argument(text.as_str()).into_http::<Body>();
        *answer.status_mut() = match self {
            Self::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        };
        if self == Self::Method {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if self == (Self::ContentType { is_grpc: false }) {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, plain);
            *answer.body_mut() = Body::new(Full::new(Bytes::from(text + "\n")));
        }
        answer
    }
}

/// Has the answer compressed only for who compresses.
pub(super) fn settle_compression(headers: &mut HeaderMap) {
    let compresses = headers.get(ENCODING).is_some_and(|encoding| encoding == GZIP);
    if !compresses {
        headers.remove(ACCEPT_ENCODING);
    }
}

/// Puts into the head of an answer what it lacks: which compression is taken here, and the name of
/// the method if there is none such.
pub(super) fn complete(answer: Response<Body>, path: &str) -> Response<Body> {
    let headers = answer.headers();
    let mut answer = if is_unknown(headers) {
        let shown = &path[..path.floor_char_boundary(MOST_OF_PATH)];
        Status::unimplemented(format!("unknown method {shown}")).into_http()
    } else {
        answer
    };
    answer.headers_mut().entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static(GZIP));
    answer
}

/// tonic says `UNIMPLEMENTED` and not a word more of services and methods that there are not.
fn is_unknown(headers: &HeaderMap) -> bool {
    let silent = Status::from_header_map(headers).filter(|status| status.message().is_empty());
    silent.is_some_and(|status| status.code() == Code::Unimplemented)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(types: &[&str]) -> Result<(), NoCall> {
        let mut request = Request::post("/proto.UnGroup/UnGroup").body(()).unwrap();
        for kind in types {
            request.headers_mut().append(CONTENT_TYPE, kind.parse().unwrap());
        }
        check(&request)
    }

    #[test]
    fn only_the_types_of_grpc_are_calls() {
        for call in [
            "application/grpc",
            "application/grpc+proto",
            "Application/GRPC+Proto",
            "application/grpc;charset=utf-8",
            "application/grpc ; proto=\"a\"",
            " application/grpc",
        ] {
            assert_eq!(of(&[call]), Ok(()), "{call}");
        }
        for (other, is_grpc) in [
            ("text/plain", false),
            ("text/plain;application/grpc", false),
            ("text/plain, application/grpc", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=application/grpc", false),
            ("application/json", false),
            ("application/x-protobuf", false),
            ("", false),
            ("application/grp", false),
            ("application/grpc+json", true),
            ("application/grpc-web", true),
            ("application/grpc-web+proto", true),
            ("application/grpc, text/plain", true),
            ("application/grpc proto", true),
            ("application/grpc+proto+x", true),
        ] {
            assert_eq!(of(&[other]), Err(NoCall::ContentType { is_grpc }), "{other}");
        }
        let none = Err(NoCall::ContentType { is_grpc: false });
        assert_eq!(of(&[]), none);
        assert_eq!(of(&["application/grpc", "text/plain"]), none);
        let get = Request::get("/").header(CONTENT_TYPE, GRPC).body(()).unwrap();
        assert_eq!(check(&get), Err(NoCall::Method));
    }

    #[test]
    fn who_does_not_compress_is_sent_nothing_compressed() {
        for (encoding, stays) in
            [(None, false), (Some("identity"), false), (Some("gzip"), true), (Some("br"), false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity,deflate,gzip"));
            if let Some(encoding) = encoding {
                headers.insert(ENCODING, HeaderValue::from_static(encoding));
            }
            settle_compression(&mut headers);
            assert_eq!(headers.contains_key(ACCEPT_ENCODING), stays, "{encoding:?}");
        }
    }

    #[test]
    fn a_method_that_is_not_there_is_named_and_no_other_answer_is_changed() {
        let named = |status: Status, path: &str| {
            let answer = complete(status.into_http(), path);
            assert_eq!(answer.headers()[ACCEPT_ENCODING], GZIP);
            let status = Status::from_header_map(answer.headers()).unwrap();
            (status.code(), status.message().to_owned())
        };
        let silent = || Status::unimplemented("");
        let expected = (Code::Unimplemented, "unknown method /a.B/C".to_owned());
        assert_eq!(named(silent(), "/a.B/C"), expected);
        let long = "/é".repeat(5000);
        assert!(named(silent(), &long).1.len() < 250);
        let says = Status::unimplemented("compressed with `br`");
        assert_eq!(named(says, "/a").1, "compressed with `br`");
        assert_eq!(named(Status::unavailable(""), "/a"), (Code::Unavailable, String::new()));
    }
}
