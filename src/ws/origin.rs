//! Which web pages may connect: the origins of `websocket.allowed_origins`.
//!
//! An entry is an origin as browsers send it, `https://app.example.com:8443`, or one whose host
//! begins with `*.`, for every host below, at any depth, but not for the host itself. Origins are
//! compared as RFC 6454 §5 does: by scheme, host and port, of which the usual one need not be written.

use crate::config::value::Pattern;

/// Whether the entry stands for the origin.
pub(super) fn covers(entry: &str, origin: &[u8]) -> bool {
    Pattern::read(entry).is_some_and(|pattern| pattern.covers(origin))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_entry_is_one_origin() {
        for (origin, covered) in [
            ("https://app.example", true),
            ("HTTPS://App.Example", true),
            ("https://app.example:443", true),
            ("https://app.example:80", false),
            ("http://app.example", false),
            ("https://a.app.example", false),
            ("https://app.example/", false),
            ("", false),
        ] {
            assert_eq!(covers("https://app.example", origin.as_bytes()), covered, "{origin}");
        }
        assert!(covers("null", b"null"));
        assert!(covers("https://app.example:443", b"https://app.example"));
        assert!(covers("http://App.Example:80", b"http://app.example"));
        assert!(covers("https://[2001:db8:0::1]:443", b"https://[2001:db8::1]"));
        assert!(covers("chrome-extension://abcdef", b"chrome-extension://abcdef"));
    }

    #[test]
    fn a_wildcard_is_every_host_below_with_its_scheme_and_port() {
        let plain = "https://*.example.com";
        let port = "https://*.example.com:8443";
        for (entry, origin, covered) in [
            (plain, "https://a.example.com", true),
            (plain, "https://a.b-1.c_2.example.com", true),
            (plain, "HTTPS://A.EXAMPLE.com", true),
            (plain, "https://example.com", false),
            (plain, "https://.example.com", false),
            (plain, "https://a..example.com", false),
            (plain, "https://aexample.com", false),
            (plain, "https://a.example.com.", false),
            (plain, "https://a.example.com.evil", false),
            (plain, "http://a.example.com", false),
            (plain, "https://a.example.com:443", true),
            ("https://*.example.com:443", "https://a.example.com", true),
            (plain, "https://a.example.com:8443", false),
            (plain, "https://evil.com/.example.com", false),
            (plain, "https://evil.com?.example.com", false),
            (plain, "https://evil.com#.example.com", false),
            (plain, "https://evil.com:80.example.com", false),
            (plain, "https://evil.com@a.example.com", false),
            (plain, "https://[::1].example.com", false),
            (plain, "https://evil.com, https://a.example.com", false),
            (plain, "https://ä.example.com", false),
            (plain, "https://*.example.com", false),
            (plain, "https://", false),
            (plain, "null", false),
            (port, "https://a.example.com:8443", true),
            (port, "https://a.example.com", false),
            (port, "https://a.example.com:84430", false),
            (port, "https://a.example.com:1.example.com:8443", false),
        ] {
            assert_eq!(covers(entry, origin.as_bytes()), covered, "{entry} {origin}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_covered_is_a_host_below(origin in "(https|http)://[a-z./:@?#\\[-]{0,6}[.]?e[.]x(:8)?") {
            let below = origin.strip_prefix("https://").and_then(|rest| rest.strip_suffix(".e.x"));
            let host = |text: &str| {
                text.split('.').all(|label| !label.is_empty())
                    && !text.contains(['/', ':', '@', '?', '#', '['])
            };
            prop_assert_eq!(covers("https://*.e.x", origin.as_bytes()), below.is_some_and(host));
        }

        #[test]
        fn nothing_panics(entry in ".*", origin: Vec<u8>) {
            covers(&entry, &origin);
            covers("a://*.b", &origin);
        }
    }
}
