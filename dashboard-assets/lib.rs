//! The files that a browser loads for the dashboard: plain CSS, JavaScript and SVG, compiled in.
//!
//! Nobody needs a build step, a package manager or a content delivery network to use the page. A file's name holds
//! a hash of its content, so a browser may keep it for ever and still never runs an old one.
//!
//! ```
//! use axum_taskflow_dashboard_assets::{STYLE, find};
//!
//! let found = find(&STYLE.name()).unwrap();
//!
//! assert_eq!(found.content_type, "text/css; charset=utf-8");
//! assert!(find("app.css").is_none());
//! ```

/// One file.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Asset {
    /// Its name up to the hash: `app`.
    pub stem: &'static str,
    /// Its name after the hash: `css`.
    pub extension: &'static str,
    /// What the browser has to know about it.
    pub content_type: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
    /// A hash of the content; differs whenever the content does, and guards nothing else.
    pub hash: u64,
}

impl Asset {
    const fn new(
        stem: &'static str,
        extension: &'static str,
        content_type: &'static str,
        bytes: &'static [u8],
    ) -> Self {
        Self {
            stem,
            extension,
            content_type,
            bytes,
            hash: hash(bytes),
        }
    }

    /// The name under which it is served: `app.0123456789abcdef.css`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{:016x}.{}", self.stem, self.hash, self.extension)
    }

    /// The value of its `ETag` header, in quotes.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("\"{:016x}\"", self.hash)
    }
}

/// How everything looks.
pub static STYLE: Asset = Asset::new(
    "app",
    "css",
    "text/css; charset=utf-8",
    include_bytes!("css/app.css"),
);

/// What makes the page live: patches rows, keeps times true, listens to keys.
pub static SCRIPT: Asset = Asset::new(
    "app",
    "js",
    "text/javascript; charset=utf-8",
    include_bytes!("js/app.js"),
);

/// One symbol for each state, for `<use href="…#failed">`.
pub static ICONS: Asset = Asset::new(
    "icons",
    "svg",
    "image/svg+xml",
    include_bytes!("icons/icons.svg"),
);

/// The icon of the browser's tab.
pub static FAVICON: Asset = Asset::new(
    "favicon",
    "svg",
    "image/svg+xml",
    include_bytes!("icons/favicon.svg"),
);

/// All files.
#[must_use]
pub fn all() -> [&'static Asset; 4] {
    [&STYLE, &SCRIPT, &ICONS, &FAVICON]
}

/// The file with this name, if its content has not changed since the name was made.
#[must_use]
pub fn find(name: &str) -> Option<&'static Asset> {
    all().into_iter().find(|asset| asset.name() == name)
}

/// One number for all files together: a page that was rendered with another one is out of date.
#[must_use]
pub fn build() -> u64 {
    all().into_iter().fold(OFFSET, |build, asset| {
        (build ^ asset.hash).wrapping_mul(PRIME)
    })
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a (RFC 9923): short, and computed by the compiler.
const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = OFFSET;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(PRIME);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn each_file_is_found_under_its_own_name_only() {
        for asset in all() {
            assert_eq!(find(&asset.name()).unwrap().hash, asset.hash);
            assert!(find(&asset.name().to_uppercase()).is_none());
        }
        assert!(find("").is_none());
        assert!(find("../Cargo.toml").is_none());
    }

    #[test]
    fn nothing_is_loaded_from_a_foreign_host() {
        for asset in all() {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let foreign = text.replace("http://www.w3.org/2000/svg", "");

            assert!(!foreign.contains("://"), "{}", asset.name());
        }
    }

    #[test]
    fn the_script_never_writes_markup_or_code() {
        let script = std::str::from_utf8(SCRIPT.bytes).unwrap();

        for dangerous in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            ".style",
        ] {
            assert!(!script.contains(dangerous), "{dangerous}");
        }
    }

    #[test]
    fn all_files_together_are_small() {
        let bytes: usize = all().iter().map(|asset| asset.bytes.len()).sum();

        assert!(bytes < 40 * 1024, "{bytes} bytes");
    }
}
