//! What an operator wants to read of a certificate: whose it is, and how long it is good.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rustls::{SupportedCipherSuite, crypto::ring::cipher_suite, pki_types::CertificateDer};
use x509_cert::{
    Certificate as X509,
    der::{Decode as _, asn1::ObjectIdentifier},
    ext::pkix::{SubjectAltName, name::GeneralName},
    time::Time,
};

/// A server's own certificate, as far as it can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it names: the common name (`CN=example.com`), or else the first of its DNS names.
    pub subject: String,
    /// From when it is valid: seconds since 1970-01-01 UTC.
    pub not_before: u64,
    /// When it expires: seconds since 1970-01-01 UTC.
    pub not_after: u64,
    /// The day on which it expires, as 2026-12-31.
    pub until: String,
    /// The beginning of the SHA-256 sum over it and those that lead to the authority's.
    pub fingerprint: String,
}

/// Certificates that expire so soon are warned of. Those of Let's Encrypt are renewed a month
/// ahead, so by then something is wrong.
const WARN: Duration = Duration::from_hours(14 * 24);

/// A longer name is cut: it is shown to be recognised.
const SHOWN: usize = 64;

/// A certificate may leave it open whose it is.
const NOBODY: &str = "nobody named";

/// RFC 4519 §2.3, the common name.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

impl Certificate {
    /// Reads the first of a chain, which is not empty; fails with what is wrong.
    pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let parsed = X509::from_der(leaf).map_err(|error| error.to_string())?;
        let content = parsed.tbs_certificate();
        let validity = content.validity();
        let until = validity.not_after.to_date_time();
        Ok(Self {
            subject: subject(&parsed),
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
            until: format!("{:04}-{:02}-{:02}", until.year(), until.month(), until.day()),
            fingerprint: fingerprint(chain),
        })
    }

    /// Whole days from `now` (seconds since 1970) to its end, rounded down; negative when it has
    /// expired.
    pub fn days_left(&self, now: u64) -> i64 {
        self.not_after.cast_signed().saturating_sub(now.cast_signed()).div_euclid(86_400)
    }

    /// What the operator ought to know at `now`, fit to follow the name of a setting.
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let Self { subject, until, .. } = self;
        if now < self.not_before {
            return Some(format!("the certificate of {subject} is not valid yet"));
        }
        if now > self.not_after {
            return Some(format!("the certificate of {subject} expired on {until}"));
        }
        let soon = self.not_after - now <= WARN.as_secs();
        let when = match self.days_left(now) {
            0 => "within a day".to_owned(),
            1 => "in 1 day".to_owned(),
            days => format!("in {days} days"),
        };
        soon.then(|| format!("the certificate of {subject} expires on {until}, {when}"))
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} until {} (sha256 {})", self.subject, self.until, self.fingerprint)
    }
}

/// Whom a certificate names, for the log: its common name, or else the first of its DNS names.
pub fn name(certificate: &CertificateDer<'_>) -> String {
    // Who was verified has a certificate that can be read.
    X509::from_der(certificate).map_or_else(|_| NOBODY.to_owned(), |parsed| subject(&parsed))
}

fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}

fn subject(certificate: &X509) -> String {
    let content = certificate.tbs_certificate();
    let common = content.subject().iter().find(|attribute| attribute.oid == COMMON_NAME);
    let name = common.map(ToString::to_string).or_else(|| {
        let (_, names) = content.get_extension::<SubjectAltName>().ok()??;
        names.0.iter().find_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.to_string()),
            _ => None,
        })
    });
    let name = name.unwrap_or_else(|| content.subject().to_string());
    if name.is_empty() {
        return NOBODY.to_owned();
    }
    // Whoever made it may have written anything, and it goes to terminals and logs.
    name.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// The first eight digits of the SHA-256 sum: enough to tell one from the other.
pub(super) fn fingerprint(chain: &[CertificateDer<'_>]) -> String {
    let SupportedCipherSuite::Tls13(suite) = cipher_suite::TLS13_AES_128_GCM_SHA256 else {
        return String::new();
    };
    let mut sum = suite.common.hash_provider.start();
    for certificate in chain {
        sum.update(certificate);
    }
    match sum.finish().as_ref() {
        [a, b, c, d, ..] => format!("{a:02x}{b:02x}{c:02x}{d:02x}"),
        _ => String::new(),
    }
}
