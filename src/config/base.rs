//! What relative paths of the configuration are relative to: the directory that the process was
//! started in, even after it has left that directory.
//!
//! A process in the background leaves it, so that it can be removed or unmounted. The file that it
//! reads again at a reload means the same paths as before all the same.

use std::{
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{Config, value::Auto};

/// Set once the process has left the directory.
static BASE: OnceLock<PathBuf> = OnceLock::new();

/// Goes to the root directory. To be called once, before anything is loaded; where the current
/// directory can't be named, as it is gone, there is nothing to leave.
pub fn leave_directory() -> io::Result<()> {
    let Ok(base) = std::env::current_dir() else { return Ok(()) };
    std::env::set_current_dir("/")?;
    let _ = BASE.set(base);
    Ok(())
}

/// The path as it was meant where the process was started.
pub fn absolute(path: PathBuf) -> PathBuf {
    match BASE.get() {
        Some(base) => base.join(path),
        None => path,
    }
}

/// Makes all relative paths absolute, if the process has left its directory.
pub(super) fn resolve(config: &mut Config) {
    if let Some(base) = BASE.get() {
        resolve_from(base, config);
    }
}

fn resolve_from(base: &Path, config: &mut Config) {
    let is_file = config.auth.jwks_file().is_some();
    let Config { tls, grpc, auth, hook, log, control, .. } = config;
    let paths = [
        &mut tls.certificate,
        &mut tls.key,
        &mut grpc.certificate,
        &mut grpc.key,
        &mut grpc.client_ca,
        &mut auth.key,
        &mut auth.jwks_ca,
        &mut hook.ca,
        &mut hook.token_file,
        &mut log.file,
    ];
    let socket = match &mut control.socket {
        Auto::Set(path) => Some(path),
        Auto::Auto => None,
    };
    for path in paths.into_iter().chain(socket) {
        // An empty one stands for none.
        if !path.as_os_str().is_empty() {
            *path = base.join(&*path);
        }
    }
    let names = grpc.token_files.0.iter_mut().chain(is_file.then_some(&mut auth.jwks));
    for name in names {
        if Path::new(name).is_relative() {
            *name = base.join(&*name).to_string_lossy().into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Material, keys::KEYS, to_toml, value::Words};

    #[test]
    fn every_path_is_made_absolute_and_nothing_else_is_touched() {
        let mut config = Config::default();
        resolve_from(Path::new("/base"), &mut config);
        assert_eq!(config, Config::default(), "nothing is set");

        let relative = || PathBuf::from("rel/x");
        let Config { tls, grpc, auth, hook, log, control, .. } = &mut config;
        (tls.certificate, tls.key) = (relative(), relative());
        (grpc.certificate, grpc.key, grpc.client_ca) = (relative(), relative(), relative());
        (auth.key, auth.jwks, auth.jwks_ca) = (relative(), "rel/x".to_owned(), relative());
        (hook.ca, hook.token_file, log.file) = (relative(), relative(), relative());
        grpc.token_files = Words(vec!["rel/x".into(), "/abs".into()]);
        control.socket = Auto::Set(relative());
        let before = to_toml(&config).matches("\"rel/x\"").count();
        assert!(before >= 13 && before < KEYS.len(), "{before}");
        resolve_from(Path::new("/base"), &mut config);
        let text = to_toml(&config);
        assert!(!text.contains("\"rel/"), "{text}");
        assert_eq!(text.matches("\"/base/rel/x\"").count(), before);
        assert!(text.contains("\"/abs\""), "{text}");
        // Whatever the files are that settings name, none was forgotten.
        let files = Material::files(&config);
        assert!(!files.is_empty() && files.iter().all(|file| file.is_absolute()), "{files:?}");

        config.auth.jwks = "https://keys.example/jwks".to_owned();
        resolve_from(Path::new("/base"), &mut config);
        assert_eq!(config.auth.jwks, "https://keys.example/jwks");
    }
}
