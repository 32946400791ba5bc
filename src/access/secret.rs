//! A token of our own, which is shown to somebody else: read from a file, never printed.

use std::{fmt, path::Path, sync::Arc};

use super::tokens::{self, Mark, TokenError};

/// A token to be sent. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Reads a file that holds one token, and nothing else but comments. Beside it, a line if the
    /// file is open to everybody on the machine.
    pub fn read(path: &Path) -> (Result<Self, TokenError>, Option<String>) {
        let mut exposed = Vec::new();
        let read = tokens::read(path, &mut exposed).and_then(|text| only(&text, path));
        (read, exposed.pop())
    }

    /// The token itself: for the one header that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// The only token in the text of a file.
fn only(text: &str, path: &Path) -> Result<Secret, TokenError> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let mut told = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let Some((number, token)) = told.next() else {
        return Err(TokenError::Empty(path.to_owned()));
    };
    if !tokens::is_token(token) {
        return Err(TokenError::Line(path.to_owned(), number));
    }
    match told.next() {
        Some((second, _)) => Err(TokenError::Second(path.to_owned(), second)),
        None => Ok(Secret(token.into())),
    }
}

impl fmt::Display for Secret {
    /// Something that changes with it and says nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "1 token ({})", Mark::of(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn parsed(text: &str) -> Result<Secret, String> {
        only(text, Path::new("t")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_holds_one_token_which_is_not_printed() {
        let secret = parsed(&format!("# for the back end\n\n  {TOKEN}\r\n")).unwrap();
        assert_eq!(secret.reveal(), TOKEN);
        let other = parsed("fedcba9876543210").unwrap();
        assert_ne!(secret.to_string(), other.to_string());
        assert_eq!(secret.to_string(), parsed(TOKEN).unwrap().to_string());
        assert!(!format!("{secret} {secret:?}").contains(TOKEN));
        for (text, says) in [
            ("", "holds no token"),
            ("# nothing\n", "holds no token"),
            ("short", "line 1 is no token"),
            ("name 0123456789abcdef", "line 1 is no token"),
            ("0123456789abcdef\n\nfedcba9876543210", "line 3"),
        ] {
            let said = parsed(text).unwrap_err();
            assert!(said.contains(says) && !said.contains(TOKEN), "{said}");
        }
    }

    #[test]
    fn a_file_that_is_open_to_all_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, TOKEN).unwrap();
        for (mode, named) in [(0o600, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (secret, exposed) = Secret::read(&path);
            assert_eq!((secret.is_ok(), exposed.is_some()), (true, named));
        }
    }
}
