//! Which thread signs, and who goes on meanwhile.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureAlgorithm, SignatureScheme,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, Signer, SigningKey},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::Certificate;

/// Only ends a test that would hang.
const HANG: Duration = Duration::from_secs(30);

/// A key that says on which thread it is to sign, and signs when it may.
#[derive(Clone, Debug)]
struct Watched {
    key: Arc<dyn SigningKey>,
    threads: UnboundedSender<Option<String>>,
    may: Arc<Mutex<Receiver<()>>>,
}

#[derive(Debug)]
struct WatchedSigner(Box<dyn Signer>, Watched);

impl SigningKey for Watched {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(offered)?;
        Some(Box::new(WatchedSigner(signer, self.clone())))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for WatchedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let thread = std::thread::current();
        self.1.threads.send(thread.name().map(str::to_owned)).unwrap();
        let may = self.1.may.lock().unwrap().recv_timeout(HANG);
        may.map_err(|_| rustls::Error::General("nobody lets it sign".to_owned()))?;
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A server with a key that is watched, and a client that believes it.
struct Pair {
    server: Server,
    client: TlsConnector,
    threads: UnboundedReceiver<Option<String>>,
    let_sign: std::sync::mpsc::Sender<()>,
}

impl Pair {
    fn new(key: &KeyPair) -> Self {
        let certificate = CertificateParams::new(["gateway.example".to_owned()]).unwrap();
        let pem = certificate.self_signed(key).unwrap().pem();
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let (said, threads) = unbounded_channel();
        let (let_sign, may) = channel();
        let provider = Arc::new(ring::default_provider());
        let key = provider.key_provider.load_private_key(private).unwrap();
        let key = Watched { key, threads: said, may: Arc::new(Mutex::new(may)) };
        let shown = Certificate::of_chain(&chain).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let resolver = Always(Arc::new(CertifiedKey::new(chain, Arc::new(key))));
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = Server {
            config: Arc::new(config),
            certificate: Arc::new(shown),
            authorities: None,
            verifier: None,
        };
        Self { server, client: TlsConnector::from(Arc::new(client)), threads, let_sign }
    }

    /// Begins a handshake; the client's end says a byte once it is done.
    fn begin(&self) -> JoinHandle<io::Result<TlsStream<DuplexStream>>> {
        let (near, far) = duplex(1 << 16);
        let (client, server) = (self.client.clone(), self.server.clone());
        tokio::spawn(async move {
            let name = ServerName::try_from("gateway.example").unwrap();
            let mut stream = client.connect(name, far).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            // Until the other end has read it and is dropped.
            let _ = stream.read_u8().await;
        });
        tokio::spawn(async move { accept(&server, near, || ()).await })
    }
}

/// A signature that goes on for long is waited for by its own client alone: the one thread that
/// this runtime has goes on, as does everybody on it.
async fn signs_apart(key: &KeyPair) {
    let mut pair = Pair::new(key);
    let shaking = pair.begin();
    let thread = tokio::time::timeout(HANG, pair.threads.recv()).await.unwrap().unwrap();
    assert_eq!(thread.as_deref(), Some("tls"));
    assert!(!shaking.is_finished());
    tokio::spawn(async {}).await.unwrap();
    pair.let_sign.send(()).unwrap();
    let mut stream = shaking.await.unwrap().unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
}

#[tokio::test]
async fn a_signature_with_an_ec_key_holds_up_nobody_else() {
    signs_apart(&KeyPair::generate().unwrap()).await;
}

#[tokio::test]
async fn a_signature_with_an_rsa_key_holds_up_nobody_else() {
    signs_apart(&KeyPair::from_pem(include_str!("rsa.pem")).unwrap()).await;
}

#[tokio::test]
async fn who_is_dropped_while_waiting_for_its_turn_is_gone() {
    let mut pair = Pair::new(&KeyPair::generate().unwrap());
    // All threads are busy with those before.
    let before: Vec<_> = (0..signers()).map(|_| pair.begin()).collect();
    for _ in &before {
        tokio::time::timeout(HANG, pair.threads.recv()).await.unwrap().unwrap();
    }
    let (near, mut far) = duplex(1 << 16);
    let (server, begun) = (pair.server.clone(), Arc::new(tokio::sync::Notify::new()));
    let waiting = tokio::spawn({
        let begun = Arc::clone(&begun);
        async move { accept(&server, near, || begun.notify_one()).await.map(drop) }
    });
    let mut client = rustls::ClientConnection::new(
        Arc::clone(pair.client.config()),
        ServerName::try_from("gateway.example").unwrap(),
    )
    .unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    far.write_all(&hello).await.unwrap();
    tokio::time::timeout(HANG, begun.notified()).await.unwrap();
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    for _ in &before {
        pair.let_sign.send(()).unwrap();
    }
    // Its stream was dropped, and with that this end is over.
    let mut rest = Vec::new();
    tokio::time::timeout(HANG, far.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    for shaken in before {
        shaken.await.unwrap().unwrap();
    }
}
