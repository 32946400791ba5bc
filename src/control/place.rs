//! Where the control socket is: the same list for the server that makes it and the commands that
//! look for it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The file's name in each of the directories.
pub const FILE: &str = "control.sock";

/// One place for the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The socket's path.
    pub path: PathBuf,
    /// The mode with which the server may create the directory; none if that is not its business.
    pub create: Option<u32>,
}

/// The places to try, in order: the explicit one alone, or `$RUNTIME_DIRECTORY` (systemd makes it),
/// `/run/gateway-websocket`, `$XDG_RUNTIME_DIR/gateway-websocket`.
///
/// `env` looks up a variable of the environment.
pub fn places(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    if let Some(path) = explicit {
        return vec![Place { path: path.to_owned(), create: None }];
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

impl Place {
    fn within(directory: &Path, create: Option<u32>) -> Self {
        Self { path: directory.join(FILE), create }
    }
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
        assert_eq!(paths(None, &[]), std::slice::from_ref(&run));
        assert_eq!(paths(None, &[("XDG_RUNTIME_DIR", "")]), std::slice::from_ref(&run));
        assert_eq!(paths(None, &[("XDG_RUNTIME_DIR", "relative")]), std::slice::from_ref(&run));
        assert_eq!(
            paths(
                None,
                &[("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/run/a:/run/b")]
            ),
            [
                ("/run/a/control.sock".to_owned(), None),
                ("/run/b/control.sock".to_owned(), None),
                run.clone(),
                xdg
            ]
        );
        // Under systemd the unit's own directory usually is the second place too.
        let systemd = paths(None, &[("RUNTIME_DIRECTORY", "/run/gateway-websocket")]);
        assert_eq!(systemd, [(run.0, None)]);
    }

    #[test]
    fn an_explicit_path_is_the_only_one() {
        let env = [("RUNTIME_DIRECTORY", "/run/a")];
        assert_eq!(paths(Some("/tmp/x.sock"), &env), [("/tmp/x.sock".to_owned(), None)]);
    }
}
