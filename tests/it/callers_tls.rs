//! Callers over TLS: the server is who it says, and so are they.

use std::time::Duration;

use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    client::Client,
    issuer::{Certified, Issuer},
    program::Program,
    raw::Raw,
    site::{Caller, Site},
};

const TLS: &str = "grpc.certificate = CERTIFICATE\ngrpc.key = KEY\n";

impl Site {
    /// Writes the server's certificate and key; answers the settings that name them.
    fn certified(&self, server: &Certified) -> String {
        let certificate = self.write("server.pem", &server.certificate);
        let key = self.write("server.key", &server.key);
        TLS.replace("CERTIFICATE", &certificate).replace("KEY", &key)
    }

    /// And whom callers have to be certified by.
    fn mutual(&self, server: &Certified, authority: &Issuer) -> String {
        let path = self.write("callers.pem", &authority.certificate());
        format!("{}grpc.client_ca = {path}\n", self.certified(server))
    }

    /// A caller who believes `authority`, and who shows a certificate if it has one.
    fn caller_by(&self, authority: &Issuer, shows: Option<&Certified>) -> Caller {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.certificate()))
            .domain_name("localhost");
        if let Some(Certified { certificate, key }) = shows {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let address = format!("https://{}", self.gateway().grpc());
        let endpoint = Endpoint::from_shared(address).unwrap();
        Caller::at(endpoint.tls_config(tls).unwrap().connect_lazy())
    }
}

#[tokio::test]
async fn with_a_certificate_calls_are_made_over_tls_and_no_others() {
    let authority = Issuer::new("the authority");
    let mut site = Site::new();
    let toml = site.certified(&authority.server());
    site.start(&toml).await;
    let caller = site.caller_by(&authority, None);
    assert_eq!(caller.call().await.unwrap(), 0);
    caller.watch().await.unwrap();
    site.caller_by(&Issuer::new("another"), None).is_cut_off().await;
    site.caller().is_cut_off().await;
}

#[tokio::test]
async fn tokens_are_asked_for_over_tls_too() {
    let authority = Issuer::new("the authority");
    let mut site = Site::new();
    let token = "a-token-of-some-length";
    let tokens = site.write("tokens", token);
    let toml = site.certified(&authority.server());
    site.start(&format!("{toml}grpc.token_files = {tokens}\n")).await;
    let caller = site.caller_by(&authority, None);
    assert_eq!(caller.call().await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(caller.bearing(token).call().await.unwrap(), 0);
}

#[tokio::test]
async fn who_is_certified_may_be_connected_without_a_call() {
    let authority = Issuer::new("the authority");
    let mut site = Site::new();
    let tokens = site.write("tokens", "a-token-of-some-length");
    let toml = site.mutual(&authority.server(), &authority);
    site.start(&format!("{toml}grpc.token_files = {tokens}\nlimits.handshake = \"1s\"\n")).await;
    let caller = site.caller_by(&authority, Some(&authority.caller("billing")));
    let mut watch = caller.watch().await.unwrap();
    // Who came later has no more time.
    Raw::open(site.gateway().grpc()).await.ended().await;
    site.gateway().handle().drain().await.unwrap();
    assert_eq!(watch.next().await.unwrap(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_connections_and_leaves_the_others_alone() {
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    let mut site = Site::new();
    let toml = site.certified(&first.server());
    site.start(&toml).await;
    let caller = site.caller_by(&first, None);
    let mut stream = caller.reflection().await.unwrap();

    site.certified(&second.server());
    site.reread().await;
    assert_eq!(site.caller_by(&second, None).call().await.unwrap(), 0);
    site.caller_by(&first, None).is_cut_off().await;
    stream.question().await.unwrap();

    // A key that belongs to another certificate is refused, and what there was stays.
    site.write("server.key", &first.server().key);
    let outcome = site.gateway().handle().reload().await.unwrap();
    assert!(format!("{outcome:?}").contains("Refused"), "{outcome:?}");
    assert_eq!(site.caller_by(&second, None).call().await.unwrap(), 0);
    stream.question().await.unwrap();
}

#[tokio::test]
async fn only_who_is_certified_may_connect() {
    let (authority, other) = (Issuer::new("the authority"), Issuer::new("another"));
    let mut site = Site::new();
    let toml = site.mutual(&authority.server(), &authority);
    site.start(&toml).await;
    let billing = authority.caller("billing");
    assert_eq!(site.caller_by(&authority, Some(&billing)).call().await.unwrap(), 0);
    let forged = other.caller("billing");
    site.caller_by(&authority, Some(&forged)).is_cut_off().await;
    site.caller_by(&authority, None).is_cut_off().await;
    // A server's certificate is no caller's, though the authority is the same.
    site.caller_by(&authority, Some(&authority.server())).is_cut_off().await;
}

#[tokio::test]
async fn an_authority_that_is_taken_out_takes_its_callers_with_it() {
    let (server, old, new) = (Issuer::new("s"), Issuer::new("old"), Issuer::new("new"));
    let certificate = server.server();
    let mut site = Site::new();
    let toml = site.mutual(&certificate, &old);
    site.start(&toml).await;
    let goes = site.caller_by(&server, Some(&old.caller("a")));
    let mut ends = goes.reflection().await.unwrap();
    // Both for a while, so that callers can be moved over.
    site.write("callers.pem", &format!("{}{}", old.certificate(), new.certificate()));
    site.reread().await;
    let stays = site.caller_by(&server, Some(&new.caller("b")));
    let mut goes_on = stays.reflection().await.unwrap();
    ends.question().await.unwrap();

    site.write("callers.pem", &new.certificate());
    site.reread().await;
    let ended = ends.answer().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("grpc.client_ca"), "{ended}");
    goes_on.question().await.unwrap();
    goes.is_cut_off().await;
    assert_eq!(stays.call().await.unwrap(), 0);
}

#[tokio::test]
async fn when_certificates_begin_to_be_asked_for_who_has_none_goes() {
    let authority = Issuer::new("the authority");
    let mut site = Site::new();
    let server = authority.server();
    let toml = site.certified(&server);
    site.start(&toml).await;
    let nobody = site.caller_by(&authority, None);
    let mut stream = nobody.reflection().await.unwrap();
    let mutual = site.mutual(&server, &authority);
    site.reload(&mutual).await;
    assert_eq!(stream.answer().await.unwrap_err().code(), Code::Unavailable);
    nobody.is_cut_off().await;
    // And who came in with one stays when none is asked for any more.
    let billing = site.caller_by(&authority, Some(&authority.caller("billing")));
    let mut stream = billing.reflection().await.unwrap();
    site.reload(&toml).await;
    stream.question().await.unwrap();
    assert_eq!(site.caller_by(&authority, None).call().await.unwrap(), 0);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let authority = Issuer::new("the authority");
    let mut site = Site::new();
    let toml = site.certified(&authority.server());
    site.start(&format!("{toml}limits.handshake = \"200ms\"\ngrpc.max_connections = 1\n")).await;
    // It holds the only place, and nobody else gets in before it has lost it.
    let mut silent = Raw::open(site.gateway().grpc()).await;
    assert_eq!(site.caller_by(&authority, None).call().await.unwrap(), 0);
    silent.ended().await;
}

#[tokio::test]
async fn the_log_names_callers_by_their_certificates() {
    let authority = Issuer::new("the authority");
    let site = Site::new();
    let toml = site.mutual(&authority.server(), &authority);
    let mut program = Program::new();
    let config = program.config(&toml);
    let status = program.serve(&["--config", &config]).await;
    let client = Client::connect(status.listeners.websocket[0]).await;
    let billing = authority.caller("billing");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.certificate()))
        .identity(Identity::from_pem(&billing.certificate, &billing.key))
        .domain_name("localhost");
    let endpoint = format!("https://{}", status.listeners.grpc[0]);
    let endpoint = Endpoint::from_shared(endpoint).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap().timeout(Duration::from_secs(30));
    assert!(Caller::at(endpoint.connect_lazy()).close(client.id()).await.unwrap());
    let log = program.settled_log();
    let line = log.lines().find(|line| line.contains("::audit")).expect("an audit line");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let caller = line["caller"].as_str().unwrap();
    assert!(caller.ends_with(" certificate \"CN=billing\""), "{caller}");
    assert_eq!(line["client"], client.id());
}
