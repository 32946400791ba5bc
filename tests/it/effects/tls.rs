//! `[tls]`, and TLS of `[grpc]`: which certificate new connections see, and whose they have to have.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use super::Stage;
use crate::{
    authority::{Authority, Secure, shake},
    client::{Client, soon},
    listeners::{address, free_port},
};

/// The path of a file of the authority's, as a setting.
fn path(authority: &Authority, name: &str) -> String {
    format!("\"{}\"", authority.file(name).display())
}

/// A gateway that has TLS there, under `tls.` or `grpc.`.
async fn stage(authority: &Authority, section: &str, address: SocketAddr) -> Stage {
    let [listen, certificate, key] =
        ["listen", "certificate", "key"].map(|name| format!("{section}.{name}"));
    let settings = [
        (listen.as_str(), format!("\"{address}\"")),
        (certificate.as_str(), path(authority, "cert.pem")),
        (key.as_str(), path(authority, "key.pem")),
    ];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Stage::new(&settings).await
}

fn certificate_of(secure: &Secure) -> CertificateDer<'static> {
    secure.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// The certificate that a new connection sees there.
async fn shown(
    authority: &Authority,
    section: &str,
    address: SocketAddr,
) -> CertificateDer<'static> {
    let stream = TcpStream::connect(address).await.unwrap();
    let client = if section == "tls" { authority.client() } else { authority.caller(false) };
    certificate_of(&shake(stream, client).await.unwrap())
}

async fn is_served(client: &mut Client<Secure>) {
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
}

#[tokio::test]
pub(super) async fn tls_listen() {
    let authority = Authority::new();
    let (old, new) = (address(free_port()), address(free_port()));
    let mut stage = stage(&authority, "tls", old).await;
    let mut before = Box::pin(Client::over(authority.connect(old).await)).await;
    stage.change("tls.listen", &format!("[\"{new}\"]")).await;
    let mut after = Box::pin(Client::over(authority.connect(new).await)).await;
    is_served(&mut after).await;
    assert!(std::net::TcpStream::connect(old).is_err());
    is_served(&mut before).await;
}

/// Another file for the same key of the gateway's.
async fn changes_certificate(section: &str) {
    let authority = Authority::new();
    let address = address(free_port());
    let mut stage = stage(&authority, section, address).await;
    let first = shown(&authority, section, address).await;
    let second = authority.reissue("second.pem");
    assert_eq!(shown(&authority, section, address).await, first);
    stage.change(&format!("{section}.certificate"), &path(&authority, "second.pem")).await;
    assert_eq!(shown(&authority, section, address).await, second);
}

/// A certificate is renewed in its place, with a key in another: it can be shown as soon as the
/// other is named.
async fn changes_key(section: &str) {
    let authority = Authority::new();
    let address = address(free_port());
    let mut stage = stage(&authority, section, address).await;
    let first = shown(&authority, section, address).await;
    let old_key = std::fs::read(authority.file("key.pem")).unwrap();
    let second = authority.renew();
    std::fs::rename(authority.file("key.pem"), authority.file("second.pem")).unwrap();
    std::fs::write(authority.file("key.pem"), old_key).unwrap();
    let key = format!("{section}.key");
    stage.change_is_refused(&key, &path(&authority, "key.pem"), section).await;
    assert_eq!(shown(&authority, section, address).await, first);
    stage.change(&key, &path(&authority, "second.pem")).await;
    assert_eq!(shown(&authority, section, address).await, second);
}

#[tokio::test]
pub(super) async fn tls_certificate() {
    changes_certificate("tls").await;
}

#[tokio::test]
pub(super) async fn tls_key() {
    changes_key("tls").await;
}

#[tokio::test]
pub(super) async fn grpc_certificate() {
    changes_certificate("grpc").await;
}

#[tokio::test]
pub(super) async fn grpc_key() {
    changes_key("grpc").await;
}

/// Whether a caller, with or without a certificate, is spoken to.
async fn is_heard(authority: &Authority, address: SocketAddr, known: bool) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut secure) = shake(stream, authority.caller(known)).await else { return false };
    let _ = secure.write_all(super::grpc::PREFACE).await;
    let mut settings = [0; 9];
    soon("an answer or the end", secure.read_exact(&mut settings)).await.is_ok()
}

#[tokio::test]
pub(super) async fn grpc_client_ca() {
    let authority = Authority::new();
    authority.publish("root.pem");
    let address = address(free_port());
    let mut stage = stage(&authority, "grpc", address).await;
    assert!(is_heard(&authority, address, false).await);
    stage.change("grpc.client_ca", &path(&authority, "root.pem")).await;
    assert!(!is_heard(&authority, address, false).await);
    assert!(is_heard(&authority, address, true).await);
    assert!(!is_heard(&Authority::new(), address, true).await, "of another authority");
    stage.change("grpc.client_ca", "\"\"").await;
    assert!(is_heard(&authority, address, false).await);
}
