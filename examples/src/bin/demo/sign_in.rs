//! Who may see the dashboard: the user `admin`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use axum_taskflow::TaskAdmin;
use uuid::Uuid;

/// The password of `admin`, and what sessions are signed with.
///
/// Both are kept in files if they are made here: nobody should have to sign in again because the demo was killed.
pub(crate) struct SignIn {
    pub(crate) password: String,
    secret: String,
}

impl SignIn {
    /// With the password from the environment, or else one that is made once.
    pub(crate) fn new(given: Option<String>, folder: &Path) -> io::Result<Self> {
        let password = match given {
            Some(password) => password,
            // 60 random bits: enough behind a door that slows down who guesses.
            None => kept(&folder.join("password"), || random()[..16].to_owned())?,
        };
        let secret = kept(&folder.join("secret"), || random() + &random())?;
        Ok(Self { password, secret })
    }

    /// Closes the routes to everybody else.
    pub(crate) fn guard(&self, admin: TaskAdmin) -> TaskAdmin {
        admin
            .auth("admin", &self.password)
            .secret(self.secret.as_bytes())
    }
}

fn random() -> String {
    Uuid::new_v4().simple().to_string()
}

/// What the file holds; if there is none or nothing in it, it is made, for nobody else to read.
fn kept(path: &Path, make: impl FnOnce() -> String) -> io::Result<String> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot use {}: {error}", path.display()),
        )
    };
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(named(error)),
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let made = make();
    options
        .open(path)
        .and_then(|mut file| writeln!(file, "{made}"))
        .map_err(named)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_found_again_and_read_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();

        let first = SignIn::new(None, folder.path()).unwrap();
        let second = SignIn::new(None, folder.path()).unwrap();

        assert_eq!(first.password.len(), 16);
        assert_eq!(first.secret.len(), 64);
        assert_eq!(
            (first.password, first.secret),
            (second.password, second.secret)
        );
        #[cfg(unix)]
        for name in ["password", "secret"] {
            let mode = std::os::unix::fs::MetadataExt::mode(
                &fs::metadata(folder.path().join(name)).unwrap(),
            );
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_given_password_is_not_written_anywhere() {
        let folder = tempfile::tempdir().unwrap();

        let sign_in = SignIn::new(Some("given".to_owned()), folder.path()).unwrap();

        assert_eq!(sign_in.password, "given");
        assert!(!folder.path().join("password").exists());
    }

    #[test]
    fn a_file_that_a_kill_left_empty_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "").unwrap();

        assert_eq!(SignIn::new(None, folder.path()).unwrap().secret.len(), 64);
    }
}
