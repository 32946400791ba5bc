//! Bearer tokens: read from files, remembered as digests, compared in constant time.
//!
//! ```text
//! # comment
//! 0123456789abcdef0123456789abcdef
//! billing  fedcba9876543210fedcba9876543210
//! ```
//!
//! A line is a token, or a name and a token; the name is for the log. Several tokens at once are
//! how one is replaced: add the new one, move the callers over, take the old one out.

use std::{
    fmt, fs,
    hash::{BuildHasher as _, Hash, RandomState},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::ConstantTimeEq as _;

use crate::file::{self, Unread};

/// The tokens that are good now. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tokens(Arc<[Token]>);

/// A token without its secret: its SHA-256, of which it can't be made again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId([u8; SHA256_OUTPUT_LEN]);

struct Token {
    id: TokenId,
    name: Arc<str>,
}

/// Why a file of tokens can't be used. The tokens themselves are never part of it.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The system does not let us read it.
    #[error("{0} can't be read: {1}")]
    Unreadable(PathBuf, io::Error),
    /// It is no regular file.
    #[error("{0} is not a regular file")]
    NoFile(PathBuf),
    /// It is too large to be a file of tokens.
    #[error("{0} is larger than {MAX_FILE} bytes")]
    TooLarge(PathBuf),
    /// It is no text.
    #[error("{0} is not UTF-8")]
    NoText(PathBuf),
    /// It has no token in it; perhaps it is still being written.
    #[error("{0} holds no token")]
    Empty(PathBuf),
    /// A line is not what it should be.
    #[error(
        "{0} line {1} is no token: expected {LEAST} to {MOST} visible ASCII characters, with or \
         without a name of at most {NAME} before them"
    )]
    Line(PathBuf, usize),
    /// A token stands twice, so that taking it out once would not take it out.
    #[error("{0} line {1}: token is listed twice")]
    Twice(PathBuf, usize),
    /// A file of our own token holds another one.
    #[error("{0} line {1}: only one token can be sent, and there stands another one")]
    Second(PathBuf, usize),
    /// There are too many to compare with each call.
    #[error("{0}: there are more than {MAX_TOKENS} tokens")]
    TooMany(PathBuf),
}

/// Bytes of one file.
const MAX_FILE: u64 = 64 << 10;
/// Tokens in all files: each call is compared with each of them.
const MAX_TOKENS: usize = 256;
/// Characters of a token, at least: fewer could be guessed.
const LEAST: usize = 16;
/// And at most: a JWT by habit is shorter.
const MOST: usize = 4096;
/// Characters of a name.
const NAME: usize = 64;
/// Permissions of "others" (chmod(1)).
const OTHERS: u32 = 0o007;

impl Tokens {
    /// Reads the files: all of them or none, with what is wrong with each. Beside it, a line for
    /// each that is open to everybody on the machine.
    pub fn read<'a>(
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> (Result<Self, Vec<TokenError>>, Vec<String>) {
        let mut tokens = Vec::new();
        let (mut errors, mut exposed) = (Vec::new(), Vec::new());
        for path in paths {
            let added = read(path, &mut exposed).and_then(|text| add(&text, path, &mut tokens));
            errors.extend(added.err());
        }
        let tokens = if errors.is_empty() { Ok(Self(tokens.into())) } else { Err(errors) };
        (tokens, exposed)
    }

    /// Which of them this is, and its name. Takes as long for any token of the same length.
    pub fn find(&self, token: &[u8]) -> Option<(TokenId, Arc<str>)> {
        let id = TokenId::of(token);
        let mut found = None;
        // No early end: how long it takes must not tell which token it was, or how alike.
        for token in &*self.0 {
            if bool::from(token.id.0.ct_eq(&id.0)) {
                found = Some(token);
            }
        }
        found.map(|token| (token.id, Arc::clone(&token.name)))
    }

    /// Whether the token is still among them.
    pub fn holds(&self, id: TokenId) -> bool {
        self.0.iter().any(|token| token.id == id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Token {
    fn parse(line: &str, path: &Path, number: usize) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (name, token) = match (words.next()?, words.next(), words.next()) {
            (token, None, _) => (None, token),
            (name, Some(token), None) => (Some(name), token),
            _ => return None,
        };
        let named = name.is_none_or(|name| is_visible(name) && name.len() <= NAME);
        // A comment behind a token, or the two the other way round, must not make a secret a name,
        // and something that can be guessed a token.
        let swapped = name.is_some_and(|name| name.len() >= token.len());
        if swapped || token.starts_with('#') {
            return None;
        }
        if !named || !is_token(token) {
            return None;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.map_or_else(|| format!("{file}:{number}"), str::to_owned);
        Some(Self { id: TokenId::of(token.as_bytes()), name: name.into() })
    }
}

impl TokenId {
    fn of(token: &[u8]) -> Self {
        let mut id = [0; SHA256_OUTPUT_LEN];
        id.copy_from_slice(digest(&SHA256, token).as_ref());
        Self(id)
    }
}

impl fmt::Display for Tokens {
    /// How many there are, and something that changes with them and says nothing of them: its key
    /// is new with each process.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ids: Vec<TokenId> = self.0.iter().map(|token| token.id).collect();
        let mark = Mark::of(ids);
        let noun = if self.len() == 1 { "token" } else { "tokens" };
        write!(f, "{} {noun} ({mark})", self.len())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|token| &token.name)).finish()
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("TokenId(…)")
    }
}

/// Changes with what it is of, says nothing of it, and is another one with each process.
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn of(what: impl Hash) -> Self {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        Self(KEY.get_or_init(RandomState::new).hash_one(what) >> 32)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Whether this could be a token.
pub(super) fn is_token(word: &str) -> bool {
    is_visible(word) && (LEAST..=MOST).contains(&word.len())
}

fn is_visible(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Adds the tokens of one file's text.
fn add(text: &str, path: &Path, tokens: &mut Vec<Token>) -> Result<(), TokenError> {
    let before = tokens.len();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let token = Token::parse(line, path, number)
            .ok_or_else(|| TokenError::Line(path.to_owned(), number))?;
        if tokens.iter().any(|other| other.id == token.id) {
            return Err(TokenError::Twice(path.to_owned(), number));
        }
        if tokens.len() == MAX_TOKENS {
            return Err(TokenError::TooMany(path.to_owned()));
        }
        tokens.push(token);
    }
    if tokens.len() == before {
        return Err(TokenError::Empty(path.to_owned()));
    }
    Ok(())
}

/// A line for people if the file of a secret is open to more than its owner and group.
pub(super) fn exposure(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & OTHERS != 0).then(|| {
        format!(
            "{} can be read or written by every user of this machine (mode {:o}): chmod o= it",
            path.display(),
            mode & 0o777,
        )
    })
}

/// Reads a file of secrets, and notes if it is open to everybody.
pub(super) fn read(path: &Path, exposed: &mut Vec<String>) -> Result<String, TokenError> {
    let bytes = file::read(path, MAX_FILE).map_err(|unread| match unread {
        Unread::System(error) => TokenError::Unreadable(path.to_owned(), error),
        Unread::Irregular => TokenError::NoFile(path.to_owned()),
        Unread::TooLarge => TokenError::TooLarge(path.to_owned()),
    })?;
    exposed.extend(exposure(path));
    String::from_utf8(bytes).map_err(|_| TokenError::NoText(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::{fs::OpenOptions, io::Write as _};

    use proptest::prelude::*;

    use super::*;

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";

    fn file(directory: &tempfile::TempDir, name: &str, mode: u32, text: &[u8]) -> PathBuf {
        let path = directory.path().join(name);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
        file.write_all(text).unwrap();
        path
    }

    fn parsed(text: &[u8]) -> Result<Tokens, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "tokens", 0o600, text);
        Tokens::read([path.as_path()]).0.map_err(|errors| {
            errors[0].to_string().replace(&directory.path().display().to_string(), "")
        })
    }

    #[test]
    fn tokens_of_several_files_are_found_by_their_secret_alone() {
        let directory = tempfile::tempdir().unwrap();
        let named = format!("# rotated in May\n\n  billing\t{FIRST} \r\n");
        let first = file(&directory, "first", 0o640, named.as_bytes());
        let second = file(&directory, "second", 0o640, SECOND.as_bytes());
        let (tokens, exposed) = Tokens::read([&*first, &*second]);
        let tokens = tokens.unwrap();
        assert_eq!((tokens.len(), exposed.len()), (2, 0));
        let (id, name) = tokens.find(FIRST.as_bytes()).unwrap();
        assert_eq!(&*name, "billing");
        assert_eq!(&*tokens.find(SECOND.as_bytes()).unwrap().1, "second:1");
        assert!(tokens.holds(id));
        for wrong in ["", "billing", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef "] {
            assert!(tokens.find(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let fewer = Tokens::read([&*second]).0.unwrap();
        assert!(!fewer.holds(id));
        assert!(fewer.to_string().starts_with("1 token ("), "{fewer}");
        assert_ne!(fewer.to_string(), Tokens::read([&*first]).0.unwrap().to_string());
        assert_eq!(fewer.to_string(), Tokens::read([&*second]).0.unwrap().to_string());
        assert!(Tokens::default().find(FIRST.as_bytes()).is_none());
    }

    #[test]
    fn what_can_not_be_used_is_told_by_file_and_line_and_without_the_secret() {
        let long = "x".repeat(MOST + 1);
        let many: Vec<_> = (0..=MAX_TOKENS).map(|n| format!("{n:020}")).collect();
        let many = many.join("\n");
        let huge = "#".repeat(usize::try_from(MAX_FILE).unwrap() + 1);
        for (text, fault) in [
            ("", "/tokens holds no token"),
            ("# nothing\n", "/tokens holds no token"),
            ("short", "/tokens line 1 is no token"),
            ("\n0123456789abcde\u{e4}", "/tokens line 2 is no token"),
            ("a b 0123456789abcdef", "/tokens line 1 is no token"),
            ("0123456789abcdef #billing-production", "/tokens line 1 is no token"),
            ("0123456789abcdef0123456789abcdef billing-production", "/tokens line 1 is no token"),
            (&long, "/tokens line 1 is no token"),
            ("0123456789abcdef\nx 0123456789abcdef", "/tokens line 2: token is listed twice"),
            (&many, "/tokens: there are more than 256 tokens"),
            (&huge, "/tokens is larger than 65536 bytes"),
        ] {
            let said = parsed(text.as_bytes()).unwrap_err();
            assert!(said.starts_with(fault), "{said}");
            assert!(!said.contains("cde"), "{said}");
        }
        assert_eq!(parsed(b"\xff\xfe").unwrap_err(), "/tokens is not UTF-8");
    }

    #[test]
    fn all_files_that_are_not_there_or_no_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let errors = Tokens::read([missing.as_path(), directory.path()]).0.unwrap_err();
        let [first, second] = &errors[..] else { panic!("{errors:?}") };
        assert!(first.to_string().contains("missing can't be read: No such file"), "{first}");
        assert!(matches!(second, TokenError::NoFile(_)), "{second}");
    }

    #[test]
    fn a_file_that_everybody_may_read_is_mentioned() {
        let directory = tempfile::tempdir().unwrap();
        let open = file(&directory, "open", 0o600, FIRST.as_bytes());
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
        let (tokens, exposed) = Tokens::read([open.as_path()]);
        assert_eq!((tokens.unwrap().len(), exposed.len()), (1, 1));
        assert!(exposed[0].contains("open can be read or written by every user"), "{exposed:?}");
        assert!(exposed[0].contains("644"), "{exposed:?}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let tokens = parsed(format!("ci {FIRST}").as_bytes()).unwrap();
        assert_eq!(format!("{tokens:?}"), r#"["ci"]"#);
        let (id, _) = tokens.find(FIRST.as_bytes()).unwrap();
        assert_eq!(format!("{id:?}"), "TokenId(…)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_tokens_or_a_fault(text: Vec<u8>) {
            if let Ok(tokens) = parsed(&text) {
                prop_assert!(!tokens.is_empty());
            }
        }
    }
}
