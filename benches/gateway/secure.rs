//! Idle clients over TLS, for the memory that one of them takes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
};

use crate::Outcome;

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: gateway.example\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The welcome: a head of two bytes, and the client id.
const WELCOME: usize = 2 + 36;

/// Clients that were upgraded and say nothing any more.
pub(crate) struct Crowd {
    /// Holds the certificate and its key.
    directory: tempfile::TempDir,
    config: Arc<ClientConfig>,
    clients: Vec<StreamOwned<ClientConnection, TcpStream>>,
}

impl Crowd {
    pub(crate) fn new() -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let made = rcgen::generate_simple_self_signed(["gateway.example".to_owned()])?;
        std::fs::write(directory.path().join("cert.pem"), made.cert.pem())?;
        std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { directory, config: Arc::new(config), clients: Vec::new() })
    }

    /// What a gateway is told to be reached by them.
    pub(crate) fn settings(&self) -> [String; 3] {
        let path = |name| self.directory.path().join(name).display().to_string();
        [
            "tls.listen=127.0.0.1:0".to_owned(),
            format!("tls.certificate={}", path("cert.pem")),
            format!("tls.key={}", path("key.pem")),
        ]
    }

    /// Connects so many more, one after the other, and reads their welcomes.
    pub(crate) fn grow(&mut self, address: SocketAddr, more: usize) -> Outcome<()> {
        for _ in 0..more {
            let name = ServerName::try_from("gateway.example")?;
            let tls = ClientConnection::new(Arc::clone(&self.config), name)?;
            let mut client = StreamOwned::new(tls, TcpStream::connect(address)?);
            client.write_all(UPGRADE)?;
            let mut answer = Vec::new();
            let end = |answer: &[u8]| answer.windows(4).position(|end| end == b"\r\n\r\n");
            while end(&answer).is_none_or(|end| answer.len() < end + 4 + WELCOME) {
                let mut bytes = [0; 1024];
                let count = client.read(&mut bytes)?;
                if count == 0 {
                    return Err("the gateway closed a client".into());
                }
                answer.extend_from_slice(&bytes[..count]);
            }
            self.clients.push(client);
        }
        Ok(())
    }
}
