//! The Wasm module: where proxies get it, and how they verify it.

use graygate::policy::module::ModuleKind;

/// The placeholder in `--module` for the name of the module.
pub const NAME: &str = "{module}";

/// The module that a resource names.
pub struct Module {
    /// The URL. Its scheme is `oci`, `https` or `file`. A path in an Envoy without Istio has none.
    pub url: String,
    /// The SHA-256 of the image's manifest, or of the file.
    pub sha256: Option<String>,
    /// The name of the secret with the registry's login.
    pub secret: Option<String>,
    /// Which module it is. If the URL has a name of the user's own, the one that the policies need.
    pub kind: ModuleKind,
    /// Which module it is and why, for the comment above the manifest.
    pub about: String,
}

/// A value of `--sha256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleDigest {
    /// The module that must have it. If absent, the one of all manifests.
    pub module: Option<ModuleKind>,
    /// The 64 digits.
    pub sha256: String,
}

impl Module {
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
    if text.replace(NAME, "").replace("{{", "").contains('{') {
        return Err(format!("allowed in braces: {NAME}, which is replaced by graygate or graygate-requests"));
    }
    if is_visible_ascii && (has_host("oci://") || has_host("https://") || is_local || is_path) {
        return Ok(text.to_owned());
    }
    Err("allowed: oci://REGISTRY/NAME:TAG, https://HOST/PATH or file:///PATH, and for Envoy a path"
        .to_owned())
}

/// Parses the value of `--sha256`. Accepts the prefix `sha256:`, which tools of registries print.
pub fn parse_sha256(text: &str) -> Result<ModuleDigest, String> {
    let (module, digits) = match text.split_once('=') {
        Some((name, digits)) => {
            let known =
                [ModuleKind::Full, ModuleKind::Requests].into_iter().find(|module| module.name() == name);
            (Some(known.ok_or("allowed before =: graygate, graygate-requests")?), digits)
        }
        None => (None, text),
    };
    let digits = digits.strip_prefix("sha256:").unwrap_or(digits);
    let is_hex = digits.len() == 64
        && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if is_hex {
        return Ok(ModuleDigest { module, sha256: digits.to_owned() });
    }
    Err("allowed: 64 digits from 0 to f, in lower case".to_owned())
}
