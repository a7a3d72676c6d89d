//! The Wasm module: where proxies get it, and how they verify it.

/// The module that a resource names.
pub struct Module {
    /// The URL. Its scheme is `oci`, `https` or `file`.
    pub url: String,
    /// The SHA-256 of the image's manifest, or of the file.
    pub sha256: Option<String>,
    /// The name of the secret with the registry's login.
    pub secret: Option<String>,
}

impl Module {
    /// Returns the URL of an image that does not exist, with a name that says so.
    pub fn placeholder() -> String {
        concat!("oci://registry.example.com/graygate:", env!("CARGO_PKG_VERSION")).to_owned()
    }

    /// Returns the path, if the module is in the proxy's own files.
    pub fn path(&self) -> Option<&str> {
        self.url.strip_prefix("file://")
    }
}

/// Parses the value of `--module`. A path is for plain Envoy only, whose kind is not known here.
pub fn parse_url(text: &str) -> Result<String, String> {
    let has_host = |scheme: &str| {
        text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    };
    let is_visible_ascii = text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_local = text.strip_prefix("file:///").is_some_and(|path| !path.is_empty());
    let is_path = !text.is_empty() && !text.contains("://");
    if is_visible_ascii && (has_host("oci://") || has_host("https://") || is_local || is_path) {
        return Ok(text.to_owned());
    }
    Err("allowed: oci://REGISTRY/NAME:TAG, https://HOST/PATH or file:///PATH, and for Envoy a path"
        .to_owned())
}

/// Parses the value of `--sha256`. Accepts the prefix `sha256:`, which tools of registries print.
pub fn parse_sha256(text: &str) -> Result<String, String> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex =
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if is_hex { Ok(text.to_owned()) } else { Err("allowed: 64 digits from 0 to f, in lower case".to_owned()) }
}
