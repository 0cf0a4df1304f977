//! A certificate for servers on this machine, signed by itself.

use std::{fs, path::Path};

use crate::HOST;

pub(crate) const CERTIFICATE: &str = "certificate.pem";
pub(crate) const KEY: &str = "key.pem";

/// Writes a new certificate and its key into a folder, and returns the certificate as PEM.
pub(crate) fn make(folder: &Path) -> String {
    let names = [HOST.to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("the names are valid");
    let certificate = made.cert.pem();
    fs::write(folder.join(CERTIFICATE), &certificate)
        .and_then(|()| fs::write(folder.join(KEY), made.signing_key.serialize_pem()))
        .unwrap_or_else(|error| panic!("cannot write a certificate into {folder:?}: {error}"));
    certificate
}
