//! What the environment says.

use std::{ffi::OsString, path::PathBuf};

/// How the demo is to run.
#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    /// The SQLite file; nothing for tasks that live in memory.
    pub(crate) database: Option<PathBuf>,
    /// Where uploads, mails, thumbnails and contacts go.
    pub(crate) folder: PathBuf,
    /// Zero lets the system pick one.
    pub(crate) port: u16,
    /// Of the dashboard's user `admin`; nothing: one is made.
    pub(crate) password: Option<String>,
    /// Whether webhooks may leave this machine.
    pub(crate) any_host: bool,
}

impl Settings {
    /// From variables as `read` finds them.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub(crate) fn from_env(read: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let mut complaints = Vec::new();
        let mut text = |name: &str| match read(name).map(OsString::into_string) {
            None => None,
            Some(Ok(text)) => Some(text),
            Some(Err(bytes)) => {
                complaints.push(format!("{name} is not valid UTF-8: {bytes:?}"));
                None
            }
        };
        let (port, password, any_host) =
            (text("PORT"), text("PASSWORD"), text("DEMO_ALLOW_ANY_HOST"));

        let port = match port.map(|port| (port.trim().parse(), port)) {
            None => 8000,
            Some((Ok(port), _)) => port,
            Some((Err(_), port)) => {
                complaints.push(format!(
                    "PORT must be a number from 0 to 65535, not {port:?}"
                ));
                0
            }
        };
        if password.as_deref() == Some("") {
            complaints.push("PASSWORD must not be empty; leave it out, and one is made".to_owned());
        }
        let any_host = match any_host.as_deref() {
            None | Some("" | "0") => false,
            Some("1") => true,
            Some(other) => {
                complaints.push(format!("DEMO_ALLOW_ANY_HOST must be 0 or 1, not {other:?}"));
                false
            }
        };
        // A path need not be UTF-8.
        let database = read("DATABASE").unwrap_or_else(|| "demo.db".into());
        let folder = read("DATA").unwrap_or_else(|| "demo-data".into());
        for (name, path) in [("DATABASE", &database), ("DATA", &folder)] {
            if path.is_empty() {
                complaints.push(format!(
                    "{name} must not be empty; leave it out for the default"
                ));
            }
        }

        if !complaints.is_empty() {
            return Err(complaints.join("\n"));
        }
        Ok(Self {
            database: (database != "memory").then(|| database.into()),
            folder: folder.into(),
            port,
            password,
            any_host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::from_env(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn nothing_set_is_a_database_in_the_current_folder_and_port_8000() {
        let settings = settings(&[]).unwrap();

        assert_eq!(settings.database, Some(PathBuf::from("demo.db")));
        assert_eq!(settings.folder, PathBuf::from("demo-data"));
        assert_eq!(settings.port, 8000);
        assert_eq!(settings.password, None);
        assert!(!settings.any_host);
    }

    #[test]
    fn the_word_memory_is_no_file() {
        assert_eq!(settings(&[("DATABASE", "memory")]).unwrap().database, None);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let complaints = settings(&[
            ("PORT", "80000"),
            ("PASSWORD", ""),
            ("DEMO_ALLOW_ANY_HOST", "yes"),
            ("DATABASE", ""),
        ])
        .unwrap_err();

        for name in ["PORT", "PASSWORD", "DEMO_ALLOW_ANY_HOST", "DATABASE"] {
            assert!(
                complaints.contains(name),
                "{name} is missing in: {complaints}"
            );
        }
    }
}
