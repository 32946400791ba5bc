//! What the values of `[auth]` mean, and which of them fit each other.

use hyper::Uri;

use super::{Config, TOKEN_CHARACTERS, is_token};
use crate::{access::Algorithm, config::Auth};

const ALGORITHMS: &str =
    "a list of HS256, HS384, HS512, RS256, PS256, ES256 and EdDSA, such as [\"ES256\"]";
const SOURCES: &str = "a list of \"header\", \"protocol\", \"cookie\" and \"query\", each once";
const JWKS: &str = "a path, or a URL such as \"https://issuer.example/jwks.json\" without user, \
    password or fragment; http:// only of this machine (127.0.0.1, [::1], localhost)";

/// Tells `refuse` of all that a start or a reload has to refuse: the key, and what is allowed.
pub(super) fn broken(config: &Config, mut refuse: impl FnMut(&'static str, &str)) {
    let auth = &config.auth;
    let names = &auth.algorithms.0;
    if !names.iter().all(|name| Algorithm::of(name).is_some()) {
        refuse("auth.algorithms", ALGORITHMS);
    }
    let (has_key, has_set) = (!auth.key.as_os_str().is_empty(), !auth.jwks.is_empty());
    match (auth.is_on(), has_key, has_set) {
        (true, false, false) => {
            refuse("auth.key", "a path, or auth.jwks, as auth.algorithms is set");
        }
        (false, true, _) => refuse("auth.algorithms", "a list of algorithms, as auth.key is set"),
        (false, _, true) => refuse("auth.algorithms", "a list of algorithms, as auth.jwks is set"),
        (true, _, _) | (false, false, false) => {}
    }
    if auth.jwks_url().is_some_and(|url| place(url).is_none()) {
        refuse("auth.jwks", JWKS);
    }
    let secure = auth.jwks_url().is_some_and(|url| url.starts_with("https://"));
    if !auth.jwks_ca.as_os_str().is_empty() && !secure {
        refuse("auth.jwks_ca", "\"\", as auth.jwks is no https:// URL");
    }
    check_sources(config, &mut refuse);
    if !is_token(&auth.cookie) {
        refuse("auth.cookie", &format!("the name of a cookie: {TOKEN_CHARACTERS}"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if auth.query_parameter.is_empty() || !auth.query_parameter.bytes().all(plain) {
        refuse("auth.query_parameter", "a name of letters, digits and -._~");
    }
}

fn check_sources(config: &Config, refuse: &mut impl FnMut(&'static str, &str)) {
    let auth = &config.auth;
    let sources = &auth.sources.0;
    let known = sources.iter().all(|source| Auth::SOURCES.contains(&source.as_str()));
    let twice = (1..sources.len()).any(|at| sources[..at].contains(&sources[at]));
    if !known || twice || sources.is_empty() {
        refuse("auth.sources", SOURCES);
    }
    // A browser sends cookies for whatever page asks it to connect.
    if auth.takes_from("cookie") && config.websocket.allowed_origins.0.is_empty() {
        refuse(
            "websocket.allowed_origins",
            "the origins of your pages, as auth.sources has \"cookie\": any page could connect \
             with its visitor's cookie",
        );
    }
}

/// What is allowed and probably not meant.
pub(super) fn warnings(config: &Config) -> Option<String> {
    let carriers =
        [("header", "authorization"), ("protocol", "sec-websocket-protocol"), ("cookie", "cookie")];
    let kept = &config.websocket.keep_headers.0;
    let (_, name) = carriers.into_iter().find(|(source, header)| {
        config.auth.takes_from(source) && kept.iter().any(|kept| kept.eq_ignore_ascii_case(header))
    })?;
    Some(format!(
        "websocket.keep_headers has {name:?}, in which clients bring their tokens (auth.sources): \
         whoever may call can read them"
    ))
}

/// The URL, if keys may be fetched from there.
fn place(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let host = authority.host();
    let near = host == "localhost"
        || host.parse().is_ok_and(|four: std::net::Ipv4Addr| four.is_loopback())
        || host == "[::1]";
    let scheme = match uri.scheme_str()? {
        "https" => true,
        "http" => near,
        _ => false,
    };
    let plain = !authority.as_str().contains('@') && !url.contains('#');
    let port = authority.as_str() == host || authority.port_u16().is_some();
    (scheme && plain && port && !host.is_empty()).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_where_nobody_can_change_them_on_the_way() {
        for good in [
            "https://issuer.example/jwks.json",
            "https://issuer.example:8443/a/b?c=d",
            "https://[2001:db8::1]/jwks",
            "https://issuer.example",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]/jwks",
            "http://localhost:80/jwks",
        ] {
            assert!(place(good).is_some(), "{good}");
        }
        for bad in [
            "http://issuer.example/jwks",
            "http://localhost.example/jwks",
            "http://10.0.0.1/jwks",
            "https://user:secret@issuer.example/jwks",
            "https://issuer.example/jwks#top",
            "https://issuer.example:port/jwks",
            "https:///jwks",
            "ftp://issuer.example/jwks",
            "://issuer.example",
            "https://issuer example/",
        ] {
            assert!(place(bad).is_none(), "{bad}");
        }
    }
}
