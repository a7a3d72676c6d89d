//! Where the module is.

/// A module and how to know it.
pub struct Module {
    /// `oci://`, `https://` or `file:///`.
    pub url: String,
    /// The digest of the image's manifest, or of the file.
    pub sha256: Option<String>,
    /// The secret with the registry's login.
    pub secret: Option<String>,
}

impl Module {
    /// An image that nobody has; its name says so.
    pub fn placeholder() -> String {
        concat!("oci://registry.example.com/graygate:", env!("CARGO_PKG_VERSION")).to_owned()
    }

    /// The path in the proxy's own files, if it is there.
    pub fn path(&self) -> Option<&str> {
        self.url.strip_prefix("file://")
    }
}

/// Reads `--module`.
pub fn url(text: &str) -> Result<String, String> {
    let named = |scheme: &str| {
        text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    };
    let clean = text.bytes().all(|byte| byte.is_ascii_graphic());
    let local = text.strip_prefix("file:///").is_some_and(|path| !path.is_empty());
    if clean && (named("oci://") || named("https://") || local) {
        return Ok(text.to_owned());
    }
    Err("allowed: oci://REGISTRY/NAME:TAG, https://HOST/PATH or file:///PATH".to_owned())
}

/// Reads `--sha256`, also with the prefix that registries' tools print.
pub fn sha256(text: &str) -> Result<String, String> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let hex =
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if hex { Ok(text.to_owned()) } else { Err("allowed: 64 digits from 0 to f, in lower case".to_owned()) }
}
