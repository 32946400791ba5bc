//! What lies in the files that settings name: certificates, keys, tokens.
//!
//! It is read together with the settings and put in force together with them, so that nobody meets
//! a new path beside what the old one held. A file that can't be used is a fault of the key that
//! names it, and then the old material stays in force as a whole.
//!
//! Secrets live here and nowhere else; nothing here is ever printed but names, dates and counts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::Value;

use super::{
    Change, Config, Fault, InForce, Origin,
    keys::{class_of, flatten},
};
use crate::{
    access::{Algorithm, KeyError, Keys, Secret, Tokens},
    tls::{self, Protocol, Role},
};

/// The contents of all files that the settings name.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// What `tls.certificate` and `tls.key` hold; none if they are not set.
    pub wss: Option<tls::Server>,
    /// What `grpc.certificate`, `grpc.key` and `grpc.client_ca` hold; none if they are not set.
    pub grpc_tls: Option<tls::Server>,
    /// What `grpc.token_files` hold; nothing if none is set.
    pub callers: Tokens,
    /// What `auth.key` holds; nothing if it is not set.
    pub client_key: Keys,
    /// What the file of `auth.jwks` holds; nothing if none is set.
    pub client_jwks: Keys,
    /// What the server of the URL in `auth.jwks` is trusted by; none if it is not asked over TLS.
    pub jwks_tls: Option<tls::Client>,
    /// What the back end of `hook.address` is trusted by; none if it is not asked over TLS.
    pub hook_tls: Option<tls::Client>,
    /// What `hook.token_file` holds; none if it is not set.
    pub hook_token: Option<Secret>,
    /// Files of secrets that are open to more than their owner and group; one line each.
    exposed: Vec<String>,
}

/// The reading of all files: what is to be read, and what is wrong so far.
struct Reading<'a> {
    config: &'a Config,
    origins: &'a BTreeMap<String, Origin>,
    faults: &'a mut Vec<Fault>,
}

/// The keys that name the files of one server's TLS.
struct TlsKeys {
    certificate: &'static str,
    key: &'static str,
    client_ca: &'static str,
}

const WSS: TlsKeys = TlsKeys { certificate: "tls.certificate", key: "tls.key", client_ca: "" };

const GRPC: TlsKeys =
    TlsKeys { certificate: "grpc.certificate", key: "grpc.key", client_ca: "grpc.client_ca" };

const TOKENS: &str = "grpc.token_files";
const KEY: &str = "auth.key";
const JWKS: &str = "auth.jwks";
const JWKS_CA: &str = "auth.jwks_ca";

const HOOK_CA: &str = "hook.ca";

const HOOK_TOKEN: &str = "hook.token_file";

impl Material {
    /// Reads all files that `config` names; faults go to `faults`, with the origin of the key that
    /// names the file.
    pub(super) fn read(
        config: &Config,
        origins: &BTreeMap<String, Origin>,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut reading = Reading { config, origins, faults };
        let (wss, grpc) = (&config.tls, &config.grpc);
        let mut exposed = Vec::new();
        Self {
            callers: reading.tokens(&mut exposed),
            client_key: reading.keys(KEY, set(&config.auth.key), Keys::read, &mut exposed),
            client_jwks: reading.keys(JWKS, config.auth.jwks_file(), Keys::read_set, &mut exposed),
            jwks_tls: reading.jwks_tls(),
            hook_tls: reading.hook_tls(),
            hook_token: reading.secret(&config.hook.token_file, &mut exposed),
            exposed,
            wss: reading.tls(
                &WSS,
                Protocol::WebSocket,
                [&wss.certificate, &wss.key, Path::new("")],
            ),
            grpc_tls: reading.tls(
                &GRPC,
                Protocol::Grpc,
                [&grpc.certificate, &grpc.key, &grpc.client_ca],
            ),
        }
    }

    /// All files that `config` names, for whoever watches them.
    pub fn files(config: &Config) -> Vec<PathBuf> {
        let (tls, grpc, auth, hook) = (&config.tls, &config.grpc, &config.auth, &config.hook);
        let named = [
            &tls.certificate,
            &tls.key,
            &auth.key,
            &auth.jwks_ca,
            &grpc.certificate,
            &grpc.key,
            &grpc.client_ca,
            &hook.ca,
            &hook.token_file,
        ];
        let tokens = grpc.token_files.0.iter().map(PathBuf::from);
        let mut files: Vec<PathBuf> = named.into_iter().filter_map(set).cloned().collect();
        files.extend(tokens);
        files.extend(auth.jwks_file().map(Path::to_owned));
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The files whose contents differ though the keys that name them don't, so that
    /// [`diff`](super::diff()) is silent about them.
    pub fn changes(old: &InForce, new: &InForce) -> Vec<Change> {
        let (before, after) = (flatten(&old.config), flatten(&new.config));
        let same_path = |key: &str| before.get(key) == after.get(key);
        let both = shown(&old.material).into_iter().zip(shown(&new.material));
        both.filter_map(|((key, old), (_, new))| {
            let (old, new) = (old?, new?);
            (old != new && same_path(key)).then(|| Change { key, old, new, class: class_of(key) })
        })
        .collect()
    }

    /// What is allowed and probably not meant: certificates that have expired or soon will,
    /// secrets that lie open.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings_at(SystemTime::now())
    }

    /// The server certificates, each with the key that names it.
    pub fn certificates(&self) -> impl Iterator<Item = (&'static str, &tls::Certificate)> {
        let servers = [(WSS.certificate, &self.wss), (GRPC.certificate, &self.grpc_tls)];
        servers.into_iter().filter_map(|(key, server)| Some((key, server.as_ref()?.certificate())))
    }

    fn warnings_at(&self, now: SystemTime) -> Vec<String> {
        let warned =
            |(key, it): (&str, &tls::Certificate)| Some(format!("{key}: {}", it.warning(now)?));
        self.certificates().filter_map(warned).chain(self.exposed.iter().cloned()).collect()
    }
}

/// What can be said of the contents of each file, by the key that names it.
fn shown(material: &Material) -> [(&'static str, Option<String>); 9] {
    let certificate = |server: &Option<tls::Server>| {
        server.as_ref().map(|server| server.certificate().to_string())
    };
    let keys = |keys: &Keys| (!keys.is_empty()).then(|| keys.to_string());
    let authorities = material.grpc_tls.as_ref().and_then(tls::Server::authorities);
    [
        (WSS.certificate, certificate(&material.wss)),
        (KEY, keys(&material.client_key)),
        (JWKS, keys(&material.client_jwks)),
        (JWKS_CA, material.jwks_tls.as_ref().map(|client| client.authorities().to_owned())),
        (GRPC.certificate, certificate(&material.grpc_tls)),
        (GRPC.client_ca, authorities),
        (TOKENS, Some(&material.callers).filter(|it| !it.is_empty()).map(Tokens::to_string)),
        (HOOK_CA, material.hook_tls.as_ref().map(|client| client.authorities().to_owned())),
        (HOOK_TOKEN, material.hook_token.as_ref().map(Secret::to_string)),
    ]
}

/// A path, unless it is left empty.
fn set(path: &PathBuf) -> Option<&PathBuf> {
    (!path.as_os_str().is_empty()).then_some(path)
}

impl Reading<'_> {
    /// The TLS of one surface; none if its files are not set, or one of them is at fault.
    fn tls(
        &mut self,
        keys: &TlsKeys,
        protocol: Protocol,
        [certificate, key, client_ca]: [&Path; 3],
    ) -> Option<tls::Server> {
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        // That one of the two is missing is a fault of the settings, which is found there.
        if !is_set(certificate) || !is_set(key) {
            return None;
        }
        let client_ca = is_set(client_ca).then_some(client_ca);
        let files = tls::Files { certificate, key, client_ca };
        match tls::Server::load(files, protocol) {
            Ok(server) => Some(server),
            Err(errors) => {
                for error in errors {
                    let key = match error.role {
                        Role::Certificate => keys.certificate,
                        Role::Key => keys.key,
                        Role::ClientCa | Role::ServerCa => keys.client_ca,
                    };
                    self.fault(key, error.problem.to_string());
                }
                None
            }
        }
    }

    /// The tokens of callers; none if one of the files is at fault.
    fn tokens(&mut self, exposed: &mut Vec<String>) -> Tokens {
        let files = self.config.grpc.token_files.0.iter().map(Path::new);
        let (read, open) = Tokens::read(files);
        exposed.extend(open.iter().map(|line| format!("{TOKENS}: {line}")));
        read.unwrap_or_else(|errors| {
            for error in errors {
                self.fault(TOKENS, error.to_string());
            }
            Tokens::default()
        })
    }

    /// The keys of clients' tokens in the file that `key` names; none if the file is at fault.
    fn keys(
        &mut self,
        key: &str,
        path: Option<&(impl AsRef<Path> + ?Sized)>,
        read: impl Fn(&Path, &[Algorithm]) -> (Result<Keys, KeyError>, Option<String>),
        exposed: &mut Vec<String>,
    ) -> Keys {
        let Some(path) = path else { return Keys::default() };
        let (keys, open) = read(path.as_ref(), &self.config.auth.algorithms());
        exposed.extend(open.map(|line| format!("{key}: {line}")));
        keys.unwrap_or_else(|error| {
            self.fault(key, error.to_string());
            Keys::default()
        })
    }

    /// Whom the gateway trusts that it asks for keys; none if it asks nobody over TLS.
    fn jwks_tls(&mut self) -> Option<tls::Client> {
        let auth = &self.config.auth;
        auth.jwks_url().filter(|url| url.starts_with("https://"))?;
        let client = match set(&auth.jwks_ca) {
            Some(path) => tls::Client::trusting(path).map_err(|error| error.to_string()),
            None => tls::Client::of_this_machine(),
        };
        client.map_err(|problem| self.fault(JWKS_CA, problem)).ok()
    }

    /// Whom the gateway trusts that it asks who may connect; none if it asks nobody over TLS.
    fn hook_tls(&mut self) -> Option<tls::Client> {
        let hook = &self.config.hook;
        hook.back_end().filter(|back_end| back_end.tls)?;
        let client = match set(&hook.ca) {
            Some(path) => tls::Client::trusting(path).map_err(|error| error.problem.to_string()),
            None => tls::Client::of_this_machine(),
        };
        let client = client.map_err(|problem| self.fault(HOOK_CA, problem)).ok()?;
        Some(client.speaking(Protocol::Grpc))
    }

    /// The token for the hook's back end; none if its file is not set, or at fault.
    fn secret(&mut self, path: &PathBuf, exposed: &mut Vec<String>) -> Option<Secret> {
        let (read, open) = Secret::read(set(path)?);
        exposed.extend(open.map(|line| format!("{HOOK_TOKEN}: {line}")));
        read.map_err(|error| self.fault(HOOK_TOKEN, error.to_string())).ok()
    }

    /// The file that `key` names can't be used: `problem` says why.
    fn fault(&mut self, key: &str, problem: String) {
        let origin = self.origins.get(key).cloned().unwrap_or_default();
        let value = flatten(self.config).remove(key).unwrap_or(Value::Null);
        self.faults.push(Fault::of(origin, key, problem).with_literal(&value));
    }
}

#[cfg(test)]
mod tests;
