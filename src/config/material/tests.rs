//! Files that settings name: their faults by key, and what changed in them.

use std::{fs, time::Duration};

use super::*;
use crate::config::{Source, load_to_run, value::Words};

/// A folder with a certificate and its key for wss, and the settings that name them.
struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Self { folder: tempfile::tempdir().unwrap() };
        case.renew();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        fs::write(self.path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    }

    fn load(&self, more: &[&str]) -> Result<InForce, Vec<String>> {
        let at = |key: &str, name: &str| format!("{key}={}", self.path(name).display());
        let mut sets = vec![at("tls.certificate", "cert.pem"), at("tls.key", "key.pem")];
        sets.extend(more.iter().map(ToString::to_string));
        let source = Source { file: None, sets };
        let loaded = load_to_run(&source, std::iter::empty::<(String, String)>());
        let folder = self.folder.path().display().to_string();
        loaded
            .map(|loaded| loaded.in_force())
            .map_err(|faults| faults.lines().iter().map(|line| line.replace(&folder, "")).collect())
    }
}

#[test]
fn files_are_read_though_nobody_listens() {
    let loaded = Case::new().load(&[]).unwrap();
    assert!(loaded.material.wss.is_some() && loaded.material.grpc_tls.is_none());
    let keys: Vec<_> = loaded.material.certificates().map(|(key, _)| key).collect();
    assert_eq!(keys, ["tls.certificate"]);
}

#[test]
fn faults_name_the_key_its_value_and_where_it_was_set() {
    let case = Case::new();
    fs::write(case.path("key.pem"), "").unwrap();
    let grpc = ["grpc.certificate=/nowhere/c", "grpc.key=/nowhere/k", "grpc.client_ca=/nowhere/ca"];
    let faults = case.load(&grpc).unwrap_err();
    let unreadable = "can't be read: No such file or directory (os error 2)";
    assert!(
        faults[0].starts_with("--set: tls.key = \"/key.pem\": holds no private key"),
        "{faults:?}"
    );
    assert_eq!(
        faults[1..],
        [
            format!("--set: grpc.certificate = \"/nowhere/c\": {unreadable}"),
            format!("--set: grpc.key = \"/nowhere/k\": {unreadable}"),
            format!("--set: grpc.client_ca = \"/nowhere/ca\": {unreadable}"),
        ]
    );
}

#[test]
fn a_file_whose_contents_changed_is_a_change_of_its_key() {
    let case = Case::new();
    let before = case.load(&[]).unwrap();
    assert_eq!(Material::changes(&before, &case.load(&[]).unwrap()), []);
    case.renew();
    let after = case.load(&[]).unwrap();
    let changes = Material::changes(&before, &after);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].key, "tls.certificate");
    assert_ne!(changes[0].old, changes[0].new);
    // Another path is a change of the setting, which the comparison of the settings tells.
    fs::copy(case.path("cert.pem"), case.path("other.pem")).unwrap();
    case.renew();
    fs::copy(case.path("cert.pem"), case.path("other.pem")).unwrap();
    let other = format!("tls.certificate={}", case.path("other.pem").display());
    let moved = case.load(&[&other]).unwrap();
    assert_ne!(moved.material.certificates().count(), 0);
    assert_eq!(Material::changes(&after, &moved), []);
}

#[test]
fn the_keys_of_tokens_are_read_with_the_rest_and_a_new_one_is_a_change() {
    let case = Case::new();
    let sets = [
        "auth.algorithms=[\"HS256\"]".to_owned(),
        format!("auth.key={}", case.path("secret").display()),
    ];
    let sets = [sets[0].as_str(), &sets[1]];
    fs::write(case.path("secret"), "short").unwrap();
    let faults = case.load(&sets).unwrap_err();
    assert!(
        faults[0].contains("auth.key = \"/secret\": /secret holds a secret of 5"),
        "{faults:?}"
    );
    fs::write(case.path("secret"), "0".repeat(32)).unwrap();
    let before = case.load(&sets).unwrap();
    assert_eq!(Material::changes(&before, &case.load(&sets).unwrap()), []);
    fs::write(case.path("secret"), "1".repeat(32)).unwrap();
    let changes = Material::changes(&before, &case.load(&sets).unwrap());
    assert_eq!(changes.iter().map(|change| change.key).collect::<Vec<_>>(), ["auth.key"]);
    assert!(changes[0].old.starts_with("1 key (") && !changes[0].new.contains("111"));
}

#[test]
fn all_files_that_settings_name_are_listed_once() {
    let mut config = Config::default();
    assert_eq!(Material::files(&config), Vec::<PathBuf>::new());
    config.tls.certificate = "/c".into();
    config.tls.key = "/k".into();
    config.grpc.certificate = "/c".into();
    config.grpc.key = "/gk".into();
    config.grpc.client_ca = "/ca".into();
    config.grpc.token_files = Words(vec!["/t1".into(), "/t2".into()]);
    config.auth.key = "/ak".into();
    config.auth.jwks = "/aj".into();
    config.auth.jwks_ca = "/aca".into();
    let expected = ["/aca", "/aj", "/ak", "/c", "/ca", "/gk", "/k", "/t1", "/t2"];
    assert_eq!(Material::files(&config), expected.map(PathBuf::from));
    config.auth.jwks = "https://issuer.example/jwks".into();
    assert!(!Material::files(&config).iter().any(|file| file.ends_with("aj")), "it is no file");
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_by_key() {
    let material = Case::new().load(&[]).unwrap().material;
    assert_eq!(material.warnings(), Vec::<String>::new());
    let end = material.wss.as_ref().unwrap().not_after();
    let near = SystemTime::UNIX_EPOCH + Duration::from_secs(end - 86_400);
    let warnings = material.warnings_at(near);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("tls.certificate: the certificate of "), "{warnings:?}");
}
