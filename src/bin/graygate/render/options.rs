//! The options of `render`: how each is read.

use clap::ValueEnum;

use super::manifest::TargetKind;

/// The kind of resource that puts the filter where it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ManifestKind {
    /// For any release of Istio
    Wasmplugin,
    /// For Istio 1.30 and later
    Trafficextension,
    /// For what the others have no field for
    Envoyfilter,
}

impl ManifestKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            ManifestKind::Wasmplugin => "wasmplugin",
            ManifestKind::Trafficextension => "trafficextension",
            ManifestKind::Envoyfilter => "envoyfilter",
        }
    }

    /// When to use it, for the head of the manifest.
    pub fn use_for(self) -> &'static str {
        match self {
            ManifestKind::Wasmplugin => {
                "A WasmPlugin is what every release of Istio reads. Never beside a TrafficExtension or EnvoyFilter for the same proxies: the filter would be there twice."
            }
            ManifestKind::Trafficextension => {
                "A TrafficExtension takes the place of the WasmPlugin from Istio 1.30 on. Never beside one for the same proxies: the filter would be there twice."
            }
            ManifestKind::Envoyfilter => {
                "An EnvoyFilter has what a WasmPlugin has no field for: a VM id of graygate's own, and a place before all other filters. It is tied to how Istio builds listeners: try it with each new release. Never beside a WasmPlugin or TrafficExtension for the same proxies: the filter would be there twice."
            }
        }
    }
}

/// Which proxies a resource is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamespaceScope {
    /// Those of the Pods with the labels of --selector
    Workload,
    /// All of the namespace
    Namespace,
    /// All, by the root namespace
    Mesh,
}

impl NamespaceScope {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            NamespaceScope::Workload => "workload",
            NamespaceScope::Namespace => "namespace",
            NamespaceScope::Mesh => "mesh",
        }
    }
}

/// What a resource is attached to.
pub type Target = (TargetKind, String);

/// Reads a name of a Kubernetes object.
pub fn name(text: &str) -> Result<String, String> {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if text.len() <= 200 && text.split('.').all(part) {
        return Ok(text.to_owned());
    }
    Err("allowed: up to 200 lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends"
        .to_owned())
}

/// Reads a namespace's or a revision's name, which ends up as one part of a DNS name or as a label.
pub fn short_name(text: &str) -> Result<String, String> {
    if text.len() <= 63 && !text.contains('.') {
        return name(text).map_err(|_| SHORT.to_owned());
    }
    Err(SHORT.to_owned())
}

const SHORT: &str =
    "allowed: up to 63 lower-case letters, digits and \"-\", with a letter or digit at both ends";

/// A name with whatever else one in a policy may have.
pub fn as_name(text: &str) -> String {
    text.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Reads a label, as Kubernetes takes one.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(LABEL)?;
    let (prefix, word) = key.rsplit_once('/').map_or((None, key), |(prefix, word)| (Some(prefix), word));
    let good = prefix.is_none_or(|prefix| name(prefix).is_ok()) && !word.is_empty();
    if good && is_label(word) && is_label(value) {
        return Ok((key.to_owned(), value.to_owned()));
    }
    Err(LABEL.to_owned())
}

const LABEL: &str = "allowed: KEY=VALUE, such as app=reviews; each up to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends, and the key after DOMAIN/, if it has one";

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last())
}

/// Reads a target.
pub fn target(text: &str) -> Result<Target, String> {
    let read = |kind, rest: &str| name(rest).map(|name| (kind, name));
    match text.split_once('/') {
        Some(("Gateway", rest)) => read(TargetKind::Gateway, rest),
        Some(("Service", rest)) => read(TargetKind::Service, rest),
        _ => Err("allowed: Gateway/NAME or Service/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_kubernetes_takes() {
        let long = format!("app={}", "x".repeat(63));
        for text in ["app=reviews", "app=", "a.b/C_d=1.0-x_Y", long.as_str()] {
            assert!(label(text).is_ok(), "{text}");
        }
        let longer = format!("{long}x");
        for text in
            ["app", "=a", "a/b/c=d", "/a=b", "a/=b", "A/b=c", "app=-x", "app=x.", "-a=b", "a=b/c", &longer]
        {
            assert!(label(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_namespace_or_revision_is_one_part_of_a_name() {
        let long = "x".repeat(63);
        for text in ["shop", "1-30", "a--b", long.as_str()] {
            assert!(short_name(text).is_ok(), "{text}");
        }
        let longer = format!("{long}x");
        for text in ["", "a.b", "-a", "a-", "A", "a_b", &longer] {
            assert!(short_name(text).is_err(), "{text}");
        }
    }
}
