//! The Wasm module: which one policies need, where proxies get it, and how they verify it.

use graygate::policy::Policy;
use graygate::policy::module::ModuleKind;
use graygate::policy::problem::Problem;

use super::arguments::RenderArguments;
use super::options::ManifestKind;
use crate::istio::module_source::{ModuleSource, kind_of};

/// What `--module` has in place of the name of the module.
const NAME: &str = "{module}";

/// An image that does not exist, with a name that says so.
const PLACEHOLDER: &str = concat!("oci://registry.example.com/{module}:", env!("CARGO_PKG_VERSION"));

/// The path of the module in an Envoy without Istio.
const PATH: &str = "/etc/envoy/{module}.wasm";

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
    module: Option<ModuleKind>,
    /// The 64 digits.
    sha256: String,
}

impl Module {
    /// Returns the path, if the module is in the proxy's own files.
    pub fn path(&self) -> Option<&str> {
        self.url.strip_prefix("file://")
    }
}

impl RenderArguments {
    /// Returns the module for the policies of one document. `is_list` is whether the document has the form for several.
    pub fn module_for(&self, policies: &[&Policy], is_list: bool) -> Module {
        let needed = needed(policies);
        let template = self.module.as_deref().unwrap_or(match self.kind {
            ManifestKind::Envoy => PATH,
            _ => PLACEHOLDER,
        });
        let url = template.replace(NAME, needed.name());
        let named = if template.contains(NAME) { Some(needed) } else { kind_of(&url) };
        let kind = named.unwrap_or(needed);
        let about = about(named, policies, is_list);
        let secret = self.pull_secret.clone();
        Module { url, sha256: self.digest_of(kind).map(str::to_owned), secret, kind, about }
    }

    fn digest_of(&self, kind: ModuleKind) -> Option<&str> {
        let fits = |digest: &&ModuleDigest| digest.module.is_none_or(|module| module == kind);
        self.sha256.iter().find(fits).map(|digest| digest.sha256.as_str())
    }

    /// Returns a problem for each key of the policy that the module of `--module` cannot serve.
    pub fn unserved(&self, policy: &Policy) -> Vec<Problem> {
        let Some(url) = self.module.clone().filter(|url| !url.contains(NAME)) else {
            return Vec::new();
        };
        let path = "--module".to_owned();
        ModuleSource { path, url, digest_path: String::new(), digest: None }.unserved(policy)
    }

    /// Returns the problem of the values of `--sha256`. `needed` are the modules that the manifests need.
    pub fn digest_problem(&self, needed: &[ModuleKind]) -> Option<Problem> {
        let problem = |message: &str| Problem { path: "--sha256".to_owned(), message: message.to_owned() };
        let given = |module| self.sha256.iter().filter(|digest| digest.module == module).count();
        let [bare, full, requests] = [None, Some(ModuleKind::Full), Some(ModuleKind::Requests)].map(given);
        let is_chosen = self.module.as_ref().is_none_or(|url| url.contains(NAME));
        let needs_two = needed.iter().any(|one| needed.iter().any(|two| one != two));
        if bare > 1 || full > 1 || requests > 1 {
            Some(problem("given twice for the same module. Remove one"))
        } else if bare > 0 && full + requests > 0 {
            Some(problem(
                "one names its module, and another does not. Write graygate=HEX and graygate-requests=HEX",
            ))
        } else if bare > 0 && is_chosen && needs_two {
            Some(problem(
                "the manifests need two modules, and each has a SHA-256 of its own. Write graygate=HEX and graygate-requests=HEX",
            ))
        } else {
            None
        }
    }
}

/// Returns the module that the policies of one document need.
pub fn needed(policies: &[&Policy]) -> ModuleKind {
    let mut kinds = policies.iter().map(|policy| ModuleKind::of(policy));
    kinds.find(|kind| *kind == ModuleKind::Full).unwrap_or(ModuleKind::Requests)
}

/// Says which module it is and why. `named` is the one that the URL names, if it is known.
fn about(named: Option<ModuleKind>, policies: &[&Policy], is_list: bool) -> String {
    let first_key = policies.iter().enumerate().find_map(|(index, policy)| {
        let key = ModuleKind::Requests.missing(policy).into_iter().next()?;
        Some(if is_list { format!("policies[{index}].{key}") } else { key })
    });
    let full = ModuleKind::Full.file();
    let requests = ModuleKind::Requests.file();
    match (named, first_key) {
        (Some(_), Some(key)) => format!("The module is {full}, because {key} needs it."),
        (None, Some(key)) => format!("The module must be {full}, because {key} needs it."),
        (Some(ModuleKind::Full), None) => {
            format!("The module is {full}. {requests} would do, at a lower cost per request.")
        }
        (Some(ModuleKind::Requests), None) => {
            format!(
                "The module is {requests}. It has all that is needed, at a lower cost per request than {full}."
            )
        }
        (None, None) => format!("The module may be {requests}, which costs less per request than {full}."),
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
