//! The types of the options of `render`, and how their values are parsed. Comments on variants are the text of
//! `--help`.

use core::net::IpAddr;

use clap::ValueEnum;

use super::manifest::TargetKind;

/// What adds the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ManifestKind {
    /// A WasmPlugin, for any version of Istio
    Wasmplugin,
    /// A TrafficExtension, for Istio 1.30 and later
    Trafficextension,
    /// An EnvoyFilter, for a VM of its own and a place before all other filters
    Envoyfilter,
    /// An EnvoyExtensionPolicy, its HTTPRoutes and an EnvoyProxy with the labels of metrics, for Envoy Gateway
    Envoyextensionpolicy,
    /// Parts of an Envoy configuration, or a whole bootstrap, for Envoy without Istio
    Envoy,
    /// Rules by which the API server refuses mistakes in the resources for Istio. Takes no FILE
    Validatingadmissionpolicy,
}

impl ManifestKind {
    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ManifestKind::Wasmplugin => "wasmplugin",
            ManifestKind::Trafficextension => "trafficextension",
            ManifestKind::Envoyfilter => "envoyfilter",
            ManifestKind::Envoyextensionpolicy => "envoyextensionpolicy",
            ManifestKind::Envoy => "envoy",
            ManifestKind::Validatingadmissionpolicy => "validatingadmissionpolicy",
        }
    }

    /// Explains when to use the kind, for the comment above the manifest.
    pub fn use_for(self) -> &'static str {
        match self {
            ManifestKind::Wasmplugin => {
                "Every version of Istio reads a WasmPlugin. Do not apply it with a TrafficExtension or EnvoyFilter for the same proxies, because the filter would run twice."
            }
            ManifestKind::Trafficextension => {
                "A TrafficExtension replaces the WasmPlugin since Istio 1.30. Do not apply both for the same proxies, because the filter would run twice."
            }
            ManifestKind::Envoyfilter => {
                "An EnvoyFilter can set what a WasmPlugin cannot: a VM id of its own, and a place before all other filters. It depends on how Istio builds listeners, so test it with each new version. Do not apply it with a WasmPlugin or TrafficExtension for the same proxies, because the filter would run twice."
            }
            // These have no manifest with the filter, or comments of their own.
            ManifestKind::Envoyextensionpolicy
            | ManifestKind::Envoy
            | ManifestKind::Validatingadmissionpolicy => "",
        }
    }
}

/// The value of `--scope`: the proxies that a resource applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamespaceScope {
    /// The proxies of Pods with the labels of --selector
    Workload,
    /// All proxies of the namespace
    Namespace,
    /// All proxies of the mesh, if the namespace is its root namespace
    Mesh,
}

impl NamespaceScope {
    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            NamespaceScope::Workload => "workload",
            NamespaceScope::Namespace => "namespace",
            NamespaceScope::Mesh => "mesh",
        }
    }
}

/// An object that a resource is attached to, by kind and name.
pub type Target = (TargetKind, String);

/// Parses an IP address.
pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "write an IP address, such as 0.0.0.0 or ::".to_owned())
}

/// Parses the name of a Kubernetes object.
pub fn parse_name(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(is_allowed) && !part.starts_with('-') && !part.ends_with('-')
    };
    if text.len() <= 200 && text.split('.').all(is_part) {
        return Ok(text.to_owned());
    }
    Err("allowed: up to 200 lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends"
        .to_owned())
}

/// Parses the name of a namespace or revision. It becomes one part of a DNS name, or a label.
pub fn parse_short_name(text: &str) -> Result<String, String> {
    if text.len() <= 63 && !text.contains('.') {
        return parse_name(text).map_err(|_| SHORT_NAME.to_owned());
    }
    Err(SHORT_NAME.to_owned())
}

const SHORT_NAME: &str =
    "allowed: up to 63 lower-case letters, digits and \"-\", with a letter or digit at both ends";

/// Turns a name in a policy into the name of a Kubernetes object, which allows fewer characters.
pub fn to_name(text: &str) -> String {
    text.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Parses a label by the rules of Kubernetes.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(LABEL)?;
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let has_valid_prefix = prefix.is_none_or(|prefix| parse_name(prefix).is_ok());
    if has_valid_prefix && !name.is_empty() && is_label(name) && is_label(value) {
        return Ok((key.to_owned(), value.to_owned()));
    }
    Err(LABEL.to_owned())
}

const LABEL: &str = "allowed: KEY=VALUE, such as app=reviews; each up to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends; the key may have a prefix DOMAIN/";

fn is_label(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_valid_end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(is_allowed)
        && is_valid_end(bytes.first())
        && is_valid_end(bytes.last())
}

/// Parses the value of `--target`.
pub fn parse_target(text: &str) -> Result<Target, String> {
    let with_kind = |kind, name: &str| parse_name(name).map(|name| (kind, name));
    match text.split_once('/') {
        Some(("Gateway", name)) => with_kind(TargetKind::Gateway, name),
        Some(("Service", name)) => with_kind(TargetKind::Service, name),
        Some(("HTTPRoute", name)) => with_kind(TargetKind::HttpRoute, name),
        _ => Err("allowed: Gateway/NAME or Service/NAME, and for Envoy Gateway HTTPRoute/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_rules_of_kubernetes() {
        let long = format!("app={}", "x".repeat(63));
        for text in ["app=reviews", "app=", "a.b/C_d=1.0-x_Y", long.as_str()] {
            assert!(parse_label(text).is_ok(), "{text}");
        }
        let longer = format!("{long}x");
        for text in
            ["app", "=a", "a/b/c=d", "/a=b", "a/=b", "A/b=c", "app=-x", "app=x.", "-a=b", "a=b/c", &longer]
        {
            assert!(parse_label(text).is_err(), "{text}");
        }
    }

    #[test]
    fn namespaces_and_revisions_are_single_parts_of_dns_names() {
        let long = "x".repeat(63);
        for text in ["shop", "1-30", "a--b", long.as_str()] {
            assert!(parse_short_name(text).is_ok(), "{text}");
        }
        let longer = format!("{long}x");
        for text in ["", "a.b", "-a", "a-", "A", "a_b", &longer] {
            assert!(parse_short_name(text).is_err(), "{text}");
        }
    }
}
