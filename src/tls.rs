//! Certificates and keys: from PEM files to what a TLS handshake needs.
//!
//! ```text
//!  certificate ─┐
//!  key ─────────┤ read (bounded) ─► do they fit together? ─► Server: rustls configuration,
//!  client CA ───┘                        └ Error names file         name and time of expiry
//! ```
//!
//! It knows files, rustls and streams of bytes ([`accept`] does a handshake over one), and nothing of
//! sockets or clients. Private keys live in rustls'
//! configuration and nowhere else; what can be printed of a [`Server`] is its certificate's name,
//! dates and fingerprint.
//!
//! The cryptography is ring's, always given by name: whatever else in the process sets a default
//! provider makes no difference here.

mod certificate;
mod client;
mod handshake;
mod records;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{
        NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::file::{self, Unread};

pub use certificate::{Certificate, name};
pub use client::Client;
pub use handshake::accept;
pub use records::{Established, Records};

/// A larger file is a mistake: a chain of certificates takes some kilobytes.
pub const MAX_FILE: u64 = 1 << 20;

/// What is spoken over the TLS connection; it is agreed by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, from which a WebSocket is upgraded.
    WebSocket,
    /// HTTP/2.
    Grpc,
}

/// The files that one server's TLS is made of.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The certificate and those that lead from it to the authority's.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
    /// The authorities of which clients must have a certificate; none lets in clients without.
    pub client_ca: Option<&'a Path>,
}

/// Which of the [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// [`Files::certificate`].
    Certificate,
    /// [`Files::key`].
    Key,
    /// [`Files::client_ca`].
    ClientCa,
    /// The authorities of servers that the gateway asks.
    ServerCa,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct Error {
    /// What it should have been.
    pub role: Role,
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file; reads on after its name.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The system doesn't let it be read.
    #[error("can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is a pipe, a directory, a device.
    #[error("is not a regular file")]
    NoFile,
    /// It is larger than [`MAX_FILE`].
    #[error("is larger than {MAX_FILE} bytes")]
    TooLarge,
    /// It begins like a PEM file and is none. What stands there is not shown: it may be a key.
    #[error("is damaged: it is no valid PEM file (RFC 7468)")]
    Damaged,
    /// No block of the right kind.
    #[error("holds no certificate: expected \"-----BEGIN CERTIFICATE-----\" blocks (PEM)")]
    NoCertificate,
    /// No block of the right kind.
    #[error(
        "holds no private key: expected a \"-----BEGIN PRIVATE KEY-----\" block (PEM; \
         RSA PRIVATE KEY and EC PRIVATE KEY are fine too)"
    )]
    NoKey,
    /// The key needs a passphrase, and nobody is there to type it.
    #[error("holds an encrypted private key: expected one without a passphrase")]
    EncryptedKey,
    /// The key is broken, too short, or of a rare kind.
    #[error("holds a private key that can't be used ({0}): expected RSA, ECDSA or Ed25519")]
    BadKey(rustls::Error),
    /// The key is that of another certificate.
    #[error("does not match the certificate of {}", .0.display())]
    Mismatch(PathBuf),
    /// A block that claims to be a certificate.
    #[error("holds a certificate that can't be used: {0}")]
    BadCertificate(String),
    /// The parts are right one by one, and rustls makes no configuration of them.
    #[error("can't be put in force: {0}")]
    Refused(String),
}

/// What the server's side of a TLS handshake works with. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    config: Arc<rustls::ServerConfig>,
    certificate: Arc<Certificate>,
    authorities: Option<Authorities>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The authorities of which clients must have a certificate, as far as they can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authorities {
    count: usize,
    fingerprint: Arc<str>,
}

impl Server {
    /// Reads the files, checks that they fit together, and answers everything that is wrong.
    pub fn load(files: Files<'_>, protocol: Protocol) -> Result<Self, Vec<Error>> {
        let provider = Arc::new(ring::default_provider());
        let blame = |role, path: &Path| {
            let path = path.to_owned();
            move |problem| Error { role, path, problem }
        };
        let blame_certificate = || blame(Role::Certificate, files.certificate);
        let chain = read_chain(files.certificate).map_err(blame_certificate());
        let key = read_key(files.key).map_err(blame(Role::Key, files.key));
        let authorities = files.client_ca.map(|path| {
            read_authorities(path).map_err(blame(Role::ClientCa, path)).map(|store| (path, store))
        });
        let (chain, key, authorities) = match (chain, key, authorities.transpose()) {
            (Ok(chain), Ok(key), Ok(authorities)) => (chain, key, authorities),
            (chain, key, authorities) => {
                return Err([chain.err(), key.err(), authorities.err()]
                    .into_iter()
                    .flatten()
                    .collect());
            }
        };
        let certificate = Certificate::of_chain(&chain)
            .map_err(|problem| vec![blame_certificate()(Problem::BadCertificate(problem))])?;
        let key = fit(chain, key, &provider, files.certificate).map_err(|(role, problem)| {
            let path = if role == Role::Key { files.key } else { files.certificate };
            vec![blame(role, path)(problem)]
        })?;
        let (shown, store) = match authorities {
            None => (None, None),
            Some((path, (shown, store))) => (Some(shown), Some((path, store))),
        };
        let verifier = match store {
            None => None,
            Some((path, store)) => {
                let blame = blame(Role::ClientCa, path);
                Some(verify(store, &provider).map_err(|problem| vec![blame(problem)])?)
            }
        };
        let config = build(key, verifier.clone(), protocol, &provider)
            .map_err(|problem| vec![blame_certificate()(problem)])?;
        Ok(Self {
            config: Arc::new(config),
            certificate: Arc::new(certificate),
            authorities: shown,
            verifier,
        })
    }

    /// What rustls needs to answer a client.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The server's own certificate, as far as it can be shown.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What judges the certificates of clients; none if they need none. It is another one each time
    /// the files are read.
    pub fn verifier(&self) -> Option<&Arc<dyn ClientCertVerifier>> {
        self.verifier.as_ref()
    }

    /// When the certificate expires: seconds since 1970-01-01 UTC.
    pub fn not_after(&self) -> u64 {
        self.certificate.not_after
    }

    /// The authorities of clients in a few words; none if clients need no certificate.
    pub fn authorities(&self) -> Option<String> {
        self.authorities.as_ref().map(Authorities::text)
    }
}

impl Authorities {
    fn text(&self) -> String {
        let Self { count, fingerprint } = self;
        let noun = if *count == 1 { "authority" } else { "authorities" };
        format!("{count} {noun} (sha256 {fingerprint})")
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("certificate", &self.certificate)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

/// Puts certificate and key together, if they belong together.
fn fit(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
    certificate: &Path,
) -> Result<CertifiedKey, (Role, Problem)> {
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| (Role::Key, Problem::BadKey(error)))?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Ok(()) => Ok(key),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err((Role::Key, Problem::Mismatch(certificate.to_owned())))
        }
        Err(error) => Err((Role::Certificate, Problem::BadCertificate(error.to_string()))),
    }
}

/// Makes rustls' configuration.
fn build(
    key: CertifiedKey,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    protocol: Protocol,
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ServerConfig, Problem> {
    let refused = |error: rustls::Error| Problem::Refused(error.to_string());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let mutual = verifier.is_some();
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    // All that is needed to resume is in the ticket, which the client keeps.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if mutual {
        // Who resumes is not asked for a certificate again. A ticket would outlive the authority
        // that is taken off the list, so there are none: each connection shows its certificate.
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = tickets(protocol).map_err(refused)?;
    }
    Ok(config)
}

/// What judges the certificates of clients by the authorities in `store`.
fn verify(
    store: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Problem> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| Problem::Refused(error.to_string()))
}

/// The keys of session tickets (RFC 5077, RFC 8446 §4.6.1), which change by themselves every six
/// hours. They are the process's, so that a client can resume after its server's certificate was
/// renewed; and one set per protocol, since a ticket of one must open nothing of the other.
fn tickets(protocol: Protocol) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    static WEBSOCKET: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    static GRPC: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    let place = match protocol {
        Protocol::WebSocket => &WEBSOCKET,
        Protocol::Grpc => &GRPC,
    };
    if let Some(tickets) = place.get() {
        return Ok(Arc::clone(tickets));
    }
    let made = ring::Ticketer::new()?;
    Ok(Arc::clone(place.get_or_init(|| made)))
}

impl Protocol {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::WebSocket => b"http/1.1",
            Self::Grpc => b"h2",
        }
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(Problem::NoCertificate),
        Ok(chain) => Ok(chain),
        Err(_) => Err(Problem::Damaged),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if find(&text, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            Problem::EncryptedKey
        }
        pem::Error::NoItemsFound => Problem::NoKey,
        _ => Problem::Damaged,
    })
}

fn read_authorities(path: &Path) -> Result<(Authorities, RootCertStore), Problem> {
    let chain = read_chain(path)?;
    let fingerprint = certificate::fingerprint(&chain).into();
    let mut store = RootCertStore::empty();
    for certificate in chain {
        store.add(certificate).map_err(|error| Problem::BadCertificate(error.to_string()))?;
    }
    Ok((Authorities { count: store.len(), fingerprint }, store))
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = file::read(path, MAX_FILE).map_err(|unread| match unread {
        Unread::System(error) => Problem::Unreadable(error),
        Unread::Irregular => Problem::NoFile,
        Unread::TooLarge => Problem::TooLarge,
    })?;
    // Some editors begin a text with a mark, and then its first line is none that begins PEM.
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn find(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests;
