//! Where proxies get the module, and by what they verify it.

use clap::ValueEnum;
use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::module::ModuleKind;
use graygate::policy::problem::Problem;

/// What `check --istio --allow` lets pass. The comments on its variants are the text of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Allowed {
    /// The name of an image or a digest that stands for your own
    Placeholder,
    /// A module without a digest
    Unpinned,
    /// The strategy by which no request passes while the filter is not there
    FailClose,
}

/// The module that a filter names.
#[derive(Debug)]
pub struct ModuleSource {
    /// The path to the URL.
    pub path: String,
    /// The URL. A file in the proxy begins with `file://`.
    pub url: String,
    /// The path to the digest.
    pub digest_path: String,
    /// The digest, if it has a field.
    pub digest: Option<Node>,
}

impl ModuleSource {
    /// Returns whether the module is a file in the proxy.
    pub fn is_file(&self) -> bool {
        self.url.starts_with("file://")
    }

    /// Returns a problem for each key of the policy that needs another module.
    pub fn unserved(&self, policy: &Policy) -> Vec<Problem> {
        let Some(module) = kind_of(&self.url) else {
            return Vec::new();
        };
        let message = format!(
            "needs {full}, and {} has {}, which acts on the headers of requests alone. Use {full} there, or remove the key.",
            self.path,
            module.file(),
            full = ModuleKind::Full.file(),
        );
        let missing = module.missing(policy).into_iter();
        missing.map(|path| Problem { path, message: message.clone() }).collect()
    }

    /// Returns the problems of the module.
    pub fn problems(&self, allowed: &[Allowed]) -> Vec<String> {
        let mut problems = Vec::new();
        if self.is_file() {
            return problems;
        }
        let ModuleSource { path, url, digest_path, .. } = self;
        let allows_placeholder = allowed.contains(&Allowed::Placeholder);
        if is_placeholder(url) && !allows_placeholder {
            problems.push(format!(
                "{path}: {url:?} is a placeholder, so proxies get no module. Write the address that you pushed your image to. --allow placeholder lets it pass."
            ));
        }
        let in_url = url.rsplit_once("@sha256:").map(|(_, digest)| digest);
        let digest = match &self.digest {
            Some(Node::Text(text)) if !text.is_empty() => Some(text.as_str()),
            Some(Node::Integer(0)) => Some("0"),
            _ => in_url,
        };
        match digest {
            None if !allowed.contains(&Allowed::Unpinned) => problems.push(format!(
                "{digest_path}: missing, so proxies take whatever {url} is at the time. Add the digest that `make image` prints, 64 digits from 0 to f. --allow unpinned lets it pass."
            )),
            Some(digest) if digest.bytes().all(|byte| byte == b'0') && !allows_placeholder => {
                problems.push(format!(
                    "{digest_path}: {digest:?} is a placeholder, so proxies refuse the module. Write the digest that `make image` prints, 64 digits from 0 to f. --allow placeholder lets it pass."
                ));
            }
            _ => {}
        }
        problems
    }
}

/// Returns the module that the last part of a URL or path names, with or without a tag, a digest or `.wasm`. Returns `None` for
/// a name of the user's own.
pub fn kind_of(url: &str) -> Option<ModuleKind> {
    let name = url.rsplit('/').next().unwrap_or_default();
    let name = name.split(['@', ':', '?']).next().unwrap_or_default();
    let name = name.strip_suffix(".wasm").unwrap_or(name);
    [ModuleKind::Full, ModuleKind::Requests].into_iter().find(|module| module.name() == name)
}

/// Returns whether nobody can have an image of this name: its domain is one of those for examples, or its host is in
/// capital letters.
fn is_placeholder(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let is_domain = |domain: &str| {
        host.strip_suffix(domain).is_some_and(|start| start.is_empty() || start.ends_with('.'))
    };
    ["example.com", "example.org", "example.net", "invalid"].into_iter().any(is_domain)
        || host.bytes().any(|byte| byte.is_ascii_uppercase() || b"<>$".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_the_last_part_of_its_url() {
        for (url, module) in [
            ("oci://r:5000/graygate-requests:0.1.0", Some(ModuleKind::Requests)),
            ("oci://r/a/graygate-requests@sha256:0123", Some(ModuleKind::Requests)),
            ("oci://r/graygate-requests:0.1.0@sha256:0123", Some(ModuleKind::Requests)),
            ("https://r/graygate-requests.wasm", Some(ModuleKind::Requests)),
            ("file:///etc/graygate-requests.wasm", Some(ModuleKind::Requests)),
            ("graygate-requests", Some(ModuleKind::Requests)),
            ("dist/graygate.wasm", Some(ModuleKind::Full)),
            ("oci://r/graygate", Some(ModuleKind::Full)),
            ("oci://r/graygate-requests/mine:1", None),
            ("oci://r/graygate-requests-of-mine:1", None),
        ] {
            assert_eq!(kind_of(url), module, "{url}");
        }
    }

    #[test]
    fn names_that_nobody_has_are_placeholders() {
        for url in [
            "oci://registry.example.com/graygate:0.1.0",
            "registry.example.com/graygate:0.1.0",
            "https://example.org/graygate.wasm",
            "oci://REGISTRY/graygate:0.1.0",
            "oci://a.invalid:5000/graygate",
        ] {
            assert!(is_placeholder(url), "{url}");
        }
        for url in
            ["oci://ghcr.io/Team/graygate:1", "oci://myexample.com/graygate:1", "oci://r:5000/graygate"]
        {
            assert!(!is_placeholder(url), "{url}");
        }
    }
}
