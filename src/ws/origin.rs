//! Which web pages may connect: the origins of `websocket.allowed_origins`.
//!
//! An entry is an origin as browsers send it, `https://app.example.com:8443`, or one whose host
//! begins with `*.`, for every host below, at any depth, but not for the host itself. Scheme and
//! port have to be equal either way. `config::check` lets no other `*` through.

/// Whether the entry stands for the origin. Letter case makes no difference (RFC 6454 §4).
pub(super) fn covers(entry: &str, origin: &[u8]) -> bool {
    let entry = entry.as_bytes();
    let Some((scheme, domain)) = wildcard(entry) else {
        return entry.eq_ignore_ascii_case(origin);
    };
    strip_prefix(origin, scheme)
        .and_then(|rest| strip_suffix(rest, domain))
        // What stands for the asterisk is labels of a host name and nothing else, so the entry's
        // own parts are scheme, domain and port of the origin.
        .is_some_and(|below| below.split(|byte| *byte == b'.').all(is_label))
}

/// `https://*.example.com:8443` in its two halves: `https://` and `.example.com:8443`.
fn wildcard(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = entry.windows(5).position(|bytes| bytes == b"://*.")?;
    Some((&entry[..at + 3], &entry[at + 4..]))
}

fn strip_prefix<'t>(text: &'t [u8], prefix: &[u8]) -> Option<&'t [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn strip_suffix<'t>(text: &'t [u8], suffix: &[u8]) -> Option<&'t [u8]> {
    let (rest, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(rest)
}

/// Browsers write host names in ASCII. The underscore is no part of one by the book, but common.
fn is_label(label: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !label.is_empty() && label.iter().all(allowed)
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
            ("https://app.example:443", false),
            ("http://app.example", false),
            ("https://a.app.example", false),
            ("https://app.example/", false),
            ("", false),
        ] {
            assert_eq!(covers("https://app.example", origin.as_bytes()), covered, "{origin}");
        }
        assert!(covers("null", b"null"));
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
            (plain, "https://a.example.com:443", false),
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
