//! Files of all kinds, and a handshake over what is made of the right ones.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// A self-signed certificate for `name` and its key, as PEM.
fn signed(name: &str) -> (String, String) {
    signed_with(name, |_| {})
}

fn signed_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn load(certificate: &Path, key: &Path) -> Result<Server, Vec<String>> {
    let files = Files { certificate, key, client_ca: None };
    Server::load(files, Protocol::WebSocket).map_err(|errors| shown(&errors))
}

fn shown(errors: &[Error]) -> Vec<String> {
    errors.iter().map(|error| format!("{:?} {}", error.role, error.problem)).collect()
}

#[test]
fn what_is_wrong_with_a_file_is_said_of_all_files_at_once() {
    let folder = Folder::new();
    let nowhere = folder.0.path().join("nowhere");
    let (certificate, key) = signed("a.example");
    let large = folder.put("large", vec![b'x'; (1 << 20) + 1]);
    let empty = folder.put("empty", "");
    let cut = folder.put("cut", &certificate[..certificate.len() / 2]);
    let lies = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let lies = folder.put("lies", lies);
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let sealed = folder.put("sealed", sealed);
    let junk = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let junk = folder.put("junk", junk);
    let certificate = folder.put("cert.pem", certificate);
    let key = folder.put("key.pem", key);
    for (certificate, key, expected) in [
        (&nowhere, &large, vec!["Certificate can't be read", "Key is larger than 1048576 bytes"]),
        (&empty, &empty, vec!["Certificate holds no certificate", "Key holds no private key"]),
        (&key, &certificate, vec!["Certificate holds no certificate", "Key holds no private key"]),
        (&cut, &sealed, vec!["Certificate is damaged", "Key holds an encrypted private key"]),
        (&lies, &key, vec!["Certificate holds a certificate that can't be used"]),
        (&certificate, &junk, vec!["Key holds a private key that can't be used"]),
    ] {
        let wrong = load(certificate, key).unwrap_err();
        assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
        for (wrong, expected) in wrong.iter().zip(expected) {
            assert!(wrong.starts_with(expected), "{wrong:?} is not {expected:?}");
        }
    }
}

#[test]
fn a_mark_before_the_text_is_none_of_it() {
    let folder = Folder::new();
    let (certificate, key) = signed("a.example");
    let certificate = folder.put("cert.pem", format!("\u{feff}{certificate}"));
    let key = folder.put("key.pem", format!("\u{feff}{key}"));
    let files =
        Files { certificate: &certificate, key: &key, client_ca: Some(certificate.as_path()) };
    assert!(Server::load(files, Protocol::Grpc).is_ok());
}

#[test]
fn a_key_of_another_certificate_is_refused_by_name() {
    let folder = Folder::new();
    let (certificate, _) = signed("a.example");
    let (_, key) = signed("a.example");
    let (certificate, key) = (folder.put("cert.pem", certificate), folder.put("key.pem", key));
    let wrong = load(&certificate, &key).unwrap_err();
    let expected = format!("Key does not match the certificate of {}", certificate.display());
    assert_eq!(wrong, [expected]);
}

#[test]
fn nothing_of_a_key_is_ever_shown() {
    let folder = Folder::new();
    let (certificate, key) = signed("a.example");
    let secret: String = key.lines().nth(1).unwrap().to_owned();
    let certificate = folder.put("cert.pem", certificate);
    let whole = folder.put("key.pem", &key);
    let server = load(&certificate, &whole).unwrap();
    assert!(!format!("{server:?}").contains(&secret[..8]));
    // A key whose first line lost its line break, and one with a letter that doesn't belong there.
    for broken in [key.replacen('\n', "", 1), key.replacen(&secret[..4], "!!!!", 1)] {
        let broken = folder.put("broken.pem", broken);
        let wrong = load(&certificate, &broken).unwrap_err();
        let text = format!("{wrong:?}");
        assert_eq!(wrong.len(), 1);
        assert!(!text.contains(&secret[8..16]), "{text}");
    }
}

#[test]
fn a_certificate_is_described_by_name_and_end() {
    let folder = Folder::new();
    let day = |month, day| rcgen::date_time_ymd(2031, month, day);
    let (certificate, key) = signed_with("a.example", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a\u{7}.example");
        (params.not_before, params.not_after) = (day(1, 1), day(3, 1));
    });
    let key = folder.put("key.pem", key);
    let server = load(&folder.put("cert.pem", certificate), &key).unwrap();
    let certificate = server.certificate();
    assert_eq!(
        (certificate.subject.as_str(), server.not_after()),
        ("CN=a\\07.example", 1_930_089_600)
    );
    let text = certificate.to_string();
    assert!(text.starts_with("CN=a\\07.example until 2031-03-01 (sha256 "), "{text}");

    let warning = |days: i64| {
        let now = server.not_after().strict_add_signed(-days * 86_400);
        assert_eq!(certificate.days_left(now), days);
        certificate.warning(std::time::UNIX_EPOCH + Duration::from_secs(now))
    };
    assert_eq!(warning(15), None);
    let soon = "the certificate of CN=a\\07.example expires on 2031-03-01, in 14 days";
    assert_eq!(warning(14).unwrap(), soon);
    assert_eq!(warning(-1).unwrap(), "the certificate of CN=a\\07.example expired on 2031-03-01");
    assert_eq!(warning(60).unwrap(), "the certificate of CN=a\\07.example is not valid yet");
}

#[test]
fn a_certificate_without_a_common_name_is_called_by_its_first_dns_name() {
    let folder = Folder::new();
    let (certificate, key) = signed_with("b.example", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    let key = folder.put("key.pem", key);
    let server = load(&folder.put("cert.pem", certificate), &key).unwrap();
    assert_eq!(server.certificate().subject, "b.example");
}

/// Lets client and server speak until neither has anything to say; answers what went wrong first.
fn shake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), rustls::Error> {
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

fn client_config(trusted: Option<(&str, Option<(&str, &str)>)>) -> Arc<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    if let Some((pem, _)) = trusted {
        roots.add(certificate(pem)).unwrap();
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match trusted.and_then(|(_, own)| own) {
        None => builder.with_no_client_auth(),
        Some((own, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate(own)], key).unwrap()
        }
    })
}

fn meet(
    server: &Server,
    client: &Arc<rustls::ClientConfig>,
) -> (ClientConnection, Result<(), rustls::Error>) {
    let name = ServerName::try_from("a.example").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(server.config()).unwrap();
    let outcome = shake(&mut client, &mut server);
    (client, outcome)
}

#[test]
fn a_client_resumes_after_the_certificate_was_renewed() {
    let folder = Folder::new();
    let (certificate, key) = signed("a.example");
    let client = client_config(Some((&certificate, None)));
    let old = load(&folder.put("cert.pem", &certificate), &folder.put("key.pem", &key)).unwrap();
    let (first, outcome) = meet(&old, &client);
    outcome.unwrap();
    assert_eq!(first.handshake_kind(), Some(rustls::HandshakeKind::Full));

    let (certificate, key) = signed("a.example");
    let new = load(&folder.put("cert.pem", certificate), &folder.put("key.pem", key)).unwrap();
    assert_ne!(old.certificate(), new.certificate());
    let (second, outcome) = meet(&new, &client);
    outcome.unwrap();
    assert_eq!(second.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
}

#[test]
fn with_authorities_each_connection_has_to_show_a_certificate_of_theirs() {
    let folder = Folder::new();
    let (certificate, key) = signed("a.example");
    let (mine, my_key) = signed("client.example");
    let (others, others_key) = signed("client.example");
    let (cert, key) = (folder.put("cert.pem", &certificate), folder.put("key.pem", key));
    let trusted = folder.put("ca.pem", &mine);
    let server = |client_ca: &Path| {
        let files = Files { certificate: &cert, key: &key, client_ca: Some(client_ca) };
        Server::load(files, Protocol::Grpc).map_err(|errors| shown(&errors))
    };
    let empty = folder.put("empty.pem", "");
    assert!(server(&empty).unwrap_err()[0].starts_with("ClientCa holds no certificate"));
    let server = server(&trusted).unwrap();
    assert!(server.authorities().unwrap().starts_with("1 authority (sha256 "));

    let known = client_config(Some((&certificate, Some((&mine, &my_key)))));
    for _ in 0..2 {
        let (client, outcome) = meet(&server, &known);
        outcome.unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    for own in [None, Some((others.as_str(), others_key.as_str()))] {
        let (_, outcome) = meet(&server, &client_config(Some((&certificate, own))));
        assert!(outcome.is_err());
    }
}

#[test]
fn a_ticket_of_one_protocol_opens_nothing_of_the_other() {
    let folder = Folder::new();
    let (certificate, key) = signed("a.example");
    let (cert, key) = (folder.put("cert.pem", &certificate), folder.put("key.pem", key));
    let files = Files { certificate: &cert, key: &key, client_ca: None };
    let client = client_config(Some((&certificate, None)));
    let websocket = Server::load(files, Protocol::WebSocket).unwrap();
    let grpc = Server::load(files, Protocol::Grpc).unwrap();
    for server in [&websocket, &grpc] {
        let (client, outcome) = meet(server, &client);
        outcome.unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
