//! The token file: who may call on the loopback port.
//!
//! One line a token, `NAME ROLE SHA-256`: the file tells who is known, not how to be them. Only its owner may read
//! it. It is read again when it has changed, so that a token that was removed stops at once; a change that cannot
//! be read is logged and the last good state stays.

use super::Role;
use crate::error::Error;
use crate::shared::random_u128;
use domain::Invalid;
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Tokens of a file, at most; a laboratory has a few dozen.
const MOST: usize = 1000;

/// One token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who it stands for, 1 to 64 characters of a-z, A-Z, 0-9, `-`, `_`, `.`, `@`.
    pub name: String,
    /// What they may do.
    pub role: Role,
    sha256: String,
}

/// A file of tokens. A missing file has none.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    read: Mutex<(Option<Stamp>, Vec<Token>)>,
}

/// What changes when a file is written or replaced: time, length, inode.
type Stamp = (i64, i64, u64, u64);

impl TokenFile {
    /// The file at `path`; refuses one that others may read, or that has a line that is not a token.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = Mutex::new(read(path)?);
        let path = path.to_owned();
        Ok(Self { path, read })
    }

    /// Every token, in the file's order.
    #[must_use]
    pub fn tokens(&self) -> Vec<Token> {
        let mut kept = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp(&self.path) != kept.0 {
            match read(&self.path) {
                Ok(new) => *kept = new,
                Err(error) => {
                    tracing::error!(%error, "the token file has changed and cannot be used");
                    kept.0 = stamp(&self.path);
                }
            }
        }
        kept.1.clone()
    }

    /// Who the secret `token` stands for.
    pub(crate) fn find(&self, token: &str) -> Option<(String, Role)> {
        let wanted = hash(token);
        let found = self.tokens().into_iter().find(|t| t.sha256 == wanted);
        found.map(|token| (token.name, token.role))
    }

    /// Adds a token to the file at `path`, which is made where it is missing. Answers the secret: it is nowhere else.
    pub fn add(path: &Path, name: &str, role: Role) -> Result<String, Error> {
        check_name(name)?;
        let (_, mut tokens) = read(path)?;
        if tokens.iter().any(|token| token.name == name) {
            let allowed = "a name that has no token yet; remove the old one first";
            return Err(Invalid::new("name", format!("{name:?}"), allowed).into());
        }
        if tokens.len() >= MOST {
            let allowed = format!("at most {MOST} tokens");
            return Err(Invalid::new("token_file", tokens.len() + 1, allowed).into());
        }
        let random = || random_u128().map_err(|source| failed(path, source));
        let secret = format!("bw-{:032x}{:032x}", random()?, random()?);
        tokens.push(Token {
            name: name.to_owned(),
            role,
            sha256: hash(&secret),
        });
        write(path, &tokens)?;
        Ok(secret)
    }

    /// Removes the token of `name` from the file at `path`; false if there is none.
    pub fn remove(path: &Path, name: &str) -> Result<bool, Error> {
        let (_, mut tokens) = read(path)?;
        let before = tokens.len();
        tokens.retain(|token| token.name != name);
        if tokens.len() == before {
            return Ok(false);
        }
        write(path, &tokens).map(|()| true)
    }
}

fn hash(token: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, token.as_bytes()).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn check_name(name: &str) -> Result<(), Invalid> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    let allowed = "1 to 64 characters of a-z, A-Z, 0-9, -, _, ., @";
    Err(Invalid::new("name", format!("{name:?}"), allowed))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<(Option<Stamp>, Vec<Token>), Error> {
    // The stamp is taken first: what is written after it is seen the next time.
    let stamp = stamp(path);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, Vec::new())),
        Err(source) => return Err(failed(path, source)),
    };
    let mode = std::fs::metadata(path).map_err(|e| failed(path, e))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let value = format!("{} with mode {mode:04o}", path.display());
        let allowed = "a file that only its owner may read (chmod 600)";
        return Err(Invalid::new("access.token_file", value, allowed).into());
    }
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let token = parse(line).ok_or_else(|| {
            let value = format!("line {} of {}", index + 1, path.display());
            Invalid::new("access.token_file", value, "NAME ROLE SHA-256")
        })?;
        tokens.push(token);
    }
    Ok((stamp, tokens))
}

fn parse(line: &str) -> Option<Token> {
    let mut words = line.split_whitespace();
    let (name, role, sha256) = (words.next()?, words.next()?, words.next()?);
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    if words.next().is_some() || check_name(name).is_err() || !is_hash {
        return None;
    }
    Some(Token {
        name: name.to_owned(),
        role: role.parse().ok()?,
        sha256: sha256.to_ascii_lowercase(),
    })
}

/// Replaces the file in one step: a service that reads it sees the old one or the new one.
fn write(path: &Path, tokens: &[Token]) -> Result<(), Error> {
    let mut text = String::from("# Tokens of Beamwright: name, role, SHA-256 of the token\n");
    for token in tokens {
        let _ = writeln!(text, "{} {} {}", token.name, token.role, token.sha256);
    }
    let new = path.with_extension("new");
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || {
        // Before the service has run for the first time.
        std::fs::create_dir_all(directory)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // The service may run as another user than the one who edits as root.
        if let Ok(old) = std::fs::metadata(path).or_else(|_| std::fs::metadata(directory)) {
            let _ = std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid()));
        }
        std::fs::rename(&new, path)
    };
    write().map_err(|source| failed(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_is_removed_and_its_secret_is_not_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        // The directory is the service's, which has not run yet.
        let path = directory.path().join("data/tokens");
        let file = TokenFile::open(&path).unwrap();
        assert!(file.tokens().is_empty());
        let ana = TokenFile::add(&path, "ana", Role::Operator).unwrap();
        let ben = TokenFile::add(&path, "ben@lab", Role::Admin).unwrap();
        assert_eq!(file.find(&ana), Some(("ana".into(), Role::Operator)));
        assert_eq!(file.find(&ben), Some(("ben@lab".into(), Role::Admin)));
        assert_eq!(file.find(&format!("{ana}0")), None);
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&ana));
        assert!(TokenFile::add(&path, "ana", Role::Admin).is_err());
        assert!(TokenFile::remove(&path, "ana").unwrap());
        assert!(!TokenFile::remove(&path, "ana").unwrap());
        assert_eq!((file.find(&ana), file.tokens().len()), (None, 1));
    }

    #[test]
    fn files_that_others_may_read_and_lines_that_are_no_token_are_refused_by_name() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        TokenFile::add(&path, "ana", Role::Observer).unwrap();
        let refused = || TokenFile::open(&path).unwrap_err().to_string();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode(0o640)).unwrap();
        assert!(refused().contains("access.token_file") && refused().contains("0640"));
        std::fs::set_permissions(&path, mode(0o600)).unwrap();
        let good = "0".repeat(64);
        let lines = [
            format!("ana boss {good}"),
            format!("ana admin {good} x"),
            "ana admin".to_owned(),
            "ana admin 0123".to_owned(),
            format!("a/b admin {good}"),
        ];
        for line in lines {
            std::fs::write(&path, format!("# tokens\n\n{line}\n")).unwrap();
            assert!(refused().contains("line 3"), "{line}");
        }
    }

    #[test]
    fn a_change_that_cannot_be_read_leaves_the_last_good_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let ana = TokenFile::add(&path, "ana", Role::Observer).unwrap();
        let file = TokenFile::open(&path).unwrap();
        std::fs::write(&path, "no token at all, and longer").unwrap();
        assert!(file.find(&ana).is_some());
    }
}
