//! A certificate authority for tests: it issues the gateway's certificate into files, and renews it
//! as ACME clients do; and clients that trust it, and nobody else.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::client::soon;

/// What the certificates are for.
pub const NAME: &str = "gateway.example";

/// A connection to the gateway over TLS.
pub type Secure = TlsStream<TcpStream>;

pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    client: Arc<ClientConfig>,
}

impl Authority {
    /// An authority that has issued a certificate already.
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let folder = tempfile::tempdir().unwrap();
        let authority = Self { folder, issuer, client: Arc::new(client) };
        authority.renew();
        authority
    }

    /// A file of the authority's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues another certificate for another key, each written beside the old file and then put in
    /// its place; answers the certificate.
    pub fn renew(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.replace("cert.pem", &certificate.pem());
        self.replace("key.pem", &key.serialize_pem());
        certificate.der().clone()
    }

    /// Issues another certificate for the same key, in a file of this name; answers it.
    pub fn reissue(&self, name: &str) -> CertificateDer<'static> {
        let key = std::fs::read_to_string(self.file("key.pem")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let params = CertificateParams::new([NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.replace(name, &certificate.pem());
        certificate.der().clone()
    }

    /// Puts the authority's own certificate into a file of this name.
    pub fn publish(&self, name: &str) {
        self.replace(name, &self.issuer.pem());
    }

    /// What a client needs to speak HTTP/2 with the gateway, with a certificate of its own or none.
    pub fn caller(&self, known: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if known {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["caller.example".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
            config.with_client_auth_cert(vec![certificate.der().clone()], secret).unwrap()
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// Puts a key in place that is not the certificate's.
    pub fn spoil_key(&self) {
        self.replace("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    }

    fn replace(&self, name: &str, text: &str) {
        let new = self.file("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file(name)).unwrap();
    }

    /// The settings of a gateway that uses the certificate.
    pub fn sets(&self) -> [String; 3] {
        let path = |name| self.file(name).display().to_string();
        [
            "tls.listen=127.0.0.1:0".to_owned(),
            format!("tls.certificate={}", path("cert.pem")),
            format!("tls.key={}", path("key.pem")),
        ]
    }

    /// The authority's own certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// What a client needs to trust the authority; it keeps the tickets it is given.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// The same, changed, and without tickets.
    pub fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
        let mut client = ClientConfig::clone(&self.client);
        client.resumption = Resumption::disabled();
        change(&mut client);
        Arc::new(client)
    }

    /// A connection whose handshake is done.
    pub async fn connect(&self, address: SocketAddr) -> Secure {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        shake(stream, self.client()).await.unwrap()
    }

    /// The same, on a socket that takes little while nobody reads.
    pub async fn connect_narrow(&self, address: SocketAddr) -> Secure {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        shake(stream, self.client()).await.unwrap()
    }
}

/// Leads the handshake of a client.
pub async fn shake(stream: TcpStream, client: Arc<ClientConfig>) -> std::io::Result<Secure> {
    let name = ServerName::try_from(NAME).unwrap();
    soon("the TLS handshake", TlsConnector::from(client).connect(name, stream)).await
}
