//! Where the control socket is: the same list for the server that makes it and the commands that
//! look for it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// The file's name in each of the directories.
pub const FILE: &str = "control.sock";

/// One place for the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The socket's path.
    pub path: PathBuf,
    /// The mode with which the server may create the directory; none if that is not its business.
    pub create: Option<u32>,
    /// Whether anybody could have made the directory, so that it has to be looked at first.
    pub exposed: bool,
}

/// The places to try, in order: the explicit one alone, or `$RUNTIME_DIRECTORY` (systemd makes it),
/// `/run/gateway-websocket`, `$XDG_RUNTIME_DIR/gateway-websocket`, `/tmp/gateway-websocket-UID`.
///
/// `env` looks up a variable of the environment.
pub fn places(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    if let Some(path) = explicit {
        return vec![Place { path: path.to_owned(), create: None, exposed: false }];
    }
    let set = |name| env(name).filter(|value| !value.is_empty());
    let mut places = Vec::new();
    if let Some(directories) = set("RUNTIME_DIRECTORY") {
        // systemd lists several, separated by colons, if the unit asks for several.
        places.extend(std::env::split_paths(&directories).map(|path| Place::within(&path, None)));
    }
    // Everybody may see that the gateway runs; only the owner may use the socket itself.
    places.push(Place::within(Path::new("/run/gateway-websocket"), Some(0o755)));
    if let Some(directory) = set("XDG_RUNTIME_DIR") {
        let directory = PathBuf::from(directory).join("gateway-websocket");
        places.push(Place::within(&directory, Some(0o700)));
    }
    // For a user without any of these, in a container or a cron job: the same for every command.
    let own = format!("/tmp/gateway-websocket-{}", geteuid().as_raw());
    places.push(Place { exposed: true, ..Place::within(Path::new(&own), Some(0o700)) });
    // The specification of XDG_RUNTIME_DIR and plain caution agree: a relative path is none.
    places.retain(|place| place.path.is_absolute());
    let mut seen = Vec::new();
    places.retain(|place| {
        let new = !seen.contains(&place.path);
        seen.push(place.path.clone());
        new
    });
    places
}

/// The places in which a command looks: those of [`places`], and the one that a gateway has which was
/// started by the same user with `XDG_RUNTIME_DIR`, if the command runs without.
pub fn places_to_ask(
    explicit: Option<&Path>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Vec<Place> {
    let mut places = places(explicit, env);
    if explicit.is_none() {
        let own = format!("/run/user/{}/gateway-websocket", geteuid().as_raw());
        let place = Place::within(Path::new(&own), None);
        if !places.iter().any(|known| known.path == place.path) {
            places.push(place);
        }
    }
    places
}

impl Place {
    fn within(directory: &Path, create: Option<u32>) -> Self {
        Self { path: directory.join(FILE), create, exposed: false }
    }

    /// Refuses a directory that somebody else could have made or could write to. One that is right
    /// stays right: in `/tmp` nobody but its owner may move it.
    pub fn check(&self) -> io::Result<()> {
        match self.path.parent() {
            Some(directory) if self.exposed => check_private(directory),
            _ => Ok(()),
        }
    }
}

fn check_private(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let fault = if !found.is_dir() {
        "it is no directory".to_owned()
    } else if owner != geteuid().as_raw() {
        format!("its directory belongs to uid {owner}")
    } else if mode & 0o077 != 0 {
        format!("its directory is open to others (mode {mode:04o}, not 0700)")
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!("{fault}; remove it, or set control.socket")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, and the mode to create its directory with.
    type Found = (String, Option<u32>);

    fn paths(explicit: Option<&str>, env: &[(&str, &str)]) -> Vec<Found> {
        let look = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let places = places(explicit.map(Path::new), look);
        places.into_iter().map(|place| (place.path.display().to_string(), place.create)).collect()
    }

    #[test]
    fn the_places_are_tried_in_the_documented_order() {
        let run = ("/run/gateway-websocket/control.sock".to_owned(), Some(0o755));
        let xdg = ("/run/user/7/gateway-websocket/control.sock".to_owned(), Some(0o700));
        let uid = geteuid().as_raw();
        let own = (format!("/tmp/gateway-websocket-{uid}/control.sock"), Some(0o700));
        let bare = [run.clone(), own.clone()];
        assert_eq!(paths(None, &[]), bare);
        assert_eq!(paths(None, &[("XDG_RUNTIME_DIR", "")]), bare);
        assert_eq!(paths(None, &[("XDG_RUNTIME_DIR", "relative")]), bare);
        assert_eq!(
            paths(
                None,
                &[("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/run/a:/run/b")]
            ),
            [
                ("/run/a/control.sock".to_owned(), None),
                ("/run/b/control.sock".to_owned(), None),
                run.clone(),
                xdg,
                own.clone()
            ]
        );
        // Under systemd the unit's own directory usually is the second place too.
        let systemd = paths(None, &[("RUNTIME_DIRECTORY", "/run/gateway-websocket")]);
        assert_eq!(systemd, [(run.0, None), own]);
    }

    #[test]
    fn a_command_finds_what_was_started_in_a_session_that_it_is_not_part_of() {
        let session = format!("/run/user/{}", geteuid().as_raw());
        let expected = Path::new(&session).join("gateway-websocket").join(FILE);
        let set = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| OsString::from(&session));
        for (places, many) in [(places_to_ask(None, |_| None), 3), (places_to_ask(None, set), 3)] {
            assert!(places.iter().any(|place| place.path == expected), "{places:?}");
            assert_eq!(places.len(), many, "{places:?}");
        }
        assert_eq!(places_to_ask(Some(Path::new("/x")), |_| None).len(), 1);
    }

    #[test]
    fn a_directory_that_others_could_have_made_is_looked_at() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| Place {
            exposed: true,
            ..Place::within(&directory.path().join(name), Some(0o700))
        };
        assert_eq!(at("none").check().unwrap_err().kind(), io::ErrorKind::NotFound);
        let make = |name: &str, mode| {
            fs::create_dir(directory.path().join(name)).unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(directory.path().join(name), mode).unwrap();
        };
        make("own", 0o700);
        assert!(at("own").check().is_ok());
        symlink(directory.path().join("own"), directory.path().join("link")).unwrap();
        make("open", 0o750);
        fs::write(directory.path().join("file"), "").unwrap();
        for (name, fault) in [("link", "no directory"), ("file", "no directory"), ("open", "0750")]
        {
            let error = at(name).check().unwrap_err().to_string();
            assert!(error.contains(fault), "{name}: {error}");
            assert!(Place { exposed: false, ..at(name) }.check().is_ok());
        }
        // Somebody else's: only root can make one.
        if geteuid().is_root() {
            make("theirs", 0o700);
            let path = directory.path().join("theirs");
            std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
            let error = at("theirs").check().unwrap_err().to_string();
            assert!(error.contains("uid 12345"), "{error}");
        }
    }

    #[test]
    fn an_explicit_path_is_the_only_one() {
        let env = [("RUNTIME_DIRECTORY", "/run/a")];
        assert_eq!(paths(Some("/tmp/x.sock"), &env), [("/tmp/x.sock".to_owned(), None)]);
    }
}
