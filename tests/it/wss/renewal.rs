//! Certificates that are renewed while clients are connected.

use std::net::SocketAddr;

use gateway_websocket::status::Status;
use rustls::{HandshakeKind, pki_types::CertificateDer};

use crate::{
    authority::{Authority, Secure, shake},
    client::{Client, soon},
    program::Program,
};

/// The real program with TLS; `watch` says whether it looks at its files by itself.
async fn serve(authority: &Authority, watch: bool) -> (Program, Status) {
    let mut program = Program::new();
    let mut command = program.command(&[]);
    let watch = format!("reload.watch={watch}");
    for set in authority.sets().iter().chain([&watch, &"shards=2".to_owned()]) {
        command.args(["--set", set]);
    }
    let status = program.spawn(command).await;
    (program, status)
}

/// The certificate that a new client is shown.
async fn shown(authority: &Authority, address: SocketAddr) -> CertificateDer<'static> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = shake(stream, authority.client_with(|_| {})).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn is_served(client: &mut Client<Secure>) {
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
}

#[tokio::test]
async fn a_reload_shows_the_new_certificate_to_new_clients_and_leaves_the_others_alone() {
    let authority = Authority::new();
    let (program, status) = serve(&authority, false).await;
    let address = status.listeners.tls[0];
    let old = shown(&authority, address).await;
    let mut client = Client::over(authority.connect(address).await).await;

    let new = authority.renew();
    assert_eq!(shown(&authority, address).await, old, "nothing was read yet");
    program.run(&["reload", "--plan"]).expect(0, &["tls.certificate", "new connections"]);
    assert_eq!(shown(&authority, address).await, old, "a plan changes nothing");
    program.run(&["reload"]).expect(0, &["tls.certificate"]);
    assert_eq!(shown(&authority, address).await, new);
    is_served(&mut client).await;

    // The ticket of the first connection is still good, and lets the next one resume.
    let stream = authority.connect(address).await;
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    is_served(&mut Client::over(stream).await).await;

    authority.spoil_key();
    let expected = ["tls.key", "does not match the certificate of"];
    program.run(&["reload"]).expect(1, &expected);
    assert_eq!(shown(&authority, address).await, new, "the old one stays");
    is_served(&mut client).await;
}

#[tokio::test]
async fn a_renewal_is_seen_without_being_told() {
    let authority = Authority::new();
    let (_program, status) = serve(&authority, true).await;
    let address = status.listeners.tls[0];
    let mut client = Client::over(authority.connect(address).await).await;
    let new = authority.renew();
    let seen = async { while shown(&authority, address).await != new {} };
    soon("the new certificate", seen).await;
    is_served(&mut client).await;
}

#[tokio::test]
async fn a_gateway_does_not_start_with_a_key_that_is_not_the_certificates() {
    let authority = Authority::new();
    authority.spoil_key();
    let program = Program::new();
    let sets: Vec<_> = authority.sets().into_iter().flat_map(|set| ["--set".into(), set]).collect();
    let sets: Vec<_> = sets.iter().map(String::as_str).collect();
    for command in ["check", "serve"] {
        let said = program.run(&[&sets[..], &[command]].concat());
        assert_ne!(said.code, 0);
        said.expect(said.code, &["tls.key", "does not match the certificate of"]);
    }
}
