//! The policy that `graygate init` writes: its parts, and its text with comments.

use core::fmt::Write;

use graygate::policy::document::Node;

use crate::failure::Failure;
use crate::policy_argument::unknown;
use crate::tree;

/// The parts of a policy.
pub struct Draft {
    /// The path to the JSON Schema.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
    /// The mode.
    pub mode: String,
    /// The upstreams beside those of the versions.
    pub upstreams: Vec<NamedCluster>,
    /// The versions of the release, with the default one first.
    pub versions: Vec<NamedCluster>,
    /// The weights of versions.
    pub weights: Vec<(String, u32)>,
    /// The sources of the sticky key.
    pub keys: Vec<DraftKey>,
    /// The path of each upstream's check.
    pub check: Option<String>,
    /// The path of the readiness probe.
    pub probe: Option<String>,
    /// Whether there is a gate on the first upstream.
    pub has_gate: bool,
}

/// A name with an Envoy cluster.
#[derive(Clone, Debug)]
pub struct NamedCluster {
    /// The name of an upstream or of a version.
    pub name: String,
    /// The cluster.
    pub cluster: String,
}

/// A source of the sticky key, as one line of `hashOn`.
#[derive(Clone, Debug)]
pub struct DraftKey(String);

/// Parses an upstream with or without a cluster.
pub fn parse_upstream(text: &str) -> Result<NamedCluster, String> {
    let (name, cluster) = text.split_once('=').unwrap_or((text, text));
    named(name, cluster).ok_or("write NAME or NAME=CLUSTER, such as app=app-cluster".to_owned())
}

/// Parses a version with its cluster.
pub fn parse_version(text: &str) -> Result<NamedCluster, String> {
    let parts = text.split_once('=').and_then(|(name, cluster)| named(name, cluster));
    parts.ok_or("write VERSION=CLUSTER for each version, such as v1=reviews-v1,v2=reviews-v2".to_owned())
}

fn named(name: &str, cluster: &str) -> Option<NamedCluster> {
    let is_complete = !name.is_empty() && !cluster.is_empty();
    is_complete.then(|| NamedCluster { name: name.to_owned(), cluster: cluster.to_owned() })
}

/// Parses the weight of a version.
pub fn parse_weight(text: &str) -> Result<(String, u32), String> {
    let parts = text.split_once('=').and_then(|(name, weight)| Some((name, weight.parse().ok()?)));
    match parts {
        Some((name, weight @ 0..=100)) => Ok((name.to_owned(), weight)),
        _ => Err("write VERSION=WEIGHT with a whole number from 0 to 100, such as v2=10".to_owned()),
    }
}

/// Parses a source of the sticky key.
pub fn parse_key(text: &str) -> Result<DraftKey, String> {
    let line = match text.split_once(':') {
        Some((_, "")) => None,
        Some(("header", name)) => Some(format!("httpHeaderName: {}", plain(name))),
        Some(("cookie", name)) => Some(format!("httpCookie: {{name: {}}}", plain(name))),
        Some(("query", name)) => Some(format!("httpQueryParameterName: {}", plain(name))),
        None if text == "source-ip" => Some("useSourceIp: true".to_owned()),
        _ => None,
    };
    line.map(DraftKey)
        .ok_or("write header:NAME, cookie:NAME, query:NAME or source-ip, such as header:x-user-id".to_owned())
}

/// Writes a string so that YAML reads it as this string, also inside of braces.
fn plain(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/.".contains(&byte);
    // The writer quotes what YAML would take for another type.
    let needs_no_quotes =
        || tree::write(&Node::Text(text.to_owned())).is_ok_and(|yaml| yaml.trim_end() == text);
    match text.bytes().all(is_plain) && needs_no_quotes() {
        true => text.to_owned(),
        false => Node::Text(text.to_owned()).to_json(),
    }
}

impl Draft {
    /// Refuses weights of unknown versions, and weights beside the default version's that leave nothing for it.
    pub fn check_weights(&self) -> Result<(), Failure> {
        let names: Vec<&str> = self.versions.iter().map(|version| version.name.as_str()).collect();
        if let Some((name, _)) = self.weights.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            return Err(unknown("--weight", name, "version", &names));
        }
        let sum: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        if sum > 100 {
            return Err(Failure::Usage(format!(
                "--weight: the weights make {sum} in all; allowed: at most 100"
            )));
        }
        Ok(())
    }

    /// Refuses parts that need an upstream if there is none, and a policy without any part.
    pub fn check_parts(&self) -> Result<(), Failure> {
        let option = match (self.check.is_some(), self.has_gate, self.probe.is_some()) {
            _ if !self.upstreams.is_empty() || !self.versions.is_empty() => return Ok(()),
            (true, ..) => "--check",
            (_, true, _) => "--gate",
            (.., true) => return Ok(()),
            _ => {
                return Err(Failure::Usage(
                    "the policy would be empty. Add --release, --upstream or --probe.".to_owned(),
                ));
            }
        };
        Err(Failure::Usage(format!(
            "{option}: there is no upstream. Add --upstream NAME=CLUSTER or --release VERSION=CLUSTER."
        )))
    }

    /// Returns the policy with comments.
    pub fn text(&self) -> Result<String, Failure> {
        let mut text = String::new();
        self.write(&mut text).map_err(|_| Failure::Io("the policy cannot be written as text".to_owned()))?;
        Ok(text)
    }

    fn write(&self, out: &mut String) -> core::fmt::Result {
        if let Some(schema) = &self.schema {
            writeln!(out, "# yaml-language-server: $schema={schema}")?;
        }
        writeln!(out, "# The name is in metrics, logs and replies.")?;
        writeln!(out, "name: {}", plain(&self.name))?;
        writeln!(
            out,
            "# With shadow, releases and gates only count and log; probes are answered. enforce makes them act."
        )?;
        writeln!(out, "mode: {}", plain(&self.mode))?;
        let upstreams = self.all_upstreams();
        if !upstreams.is_empty() {
            writeln!(out, "\n# What requests need. Each upstream is a cluster of Envoy.")?;
            writeln!(out, "upstreams:")?;
        }
        for upstream in &upstreams {
            writeln!(out, "  {}:", plain(&upstream.name))?;
            writeln!(out, "    cluster: {}", plain(&upstream.cluster))?;
            if let Some(path) = &self.check {
                writeln!(out, "    # The proxy asks for the upstream's health, as a kubelet does.")?;
                writeln!(out, "    readinessProbe:")?;
                writeln!(out, "      httpGet: {{path: {}}}", plain(path))?;
                writeln!(out, "      periodSeconds: 5")?;
                writeln!(out, "      failureThreshold: 3")?;
            }
        }
        let first = upstreams.first().map(|upstream| plain(&upstream.name));
        if let Some(path) = &self.probe {
            writeln!(out, "\n# What the proxy answers itself. A kubelet asks for it.")?;
            writeln!(out, "probes:")?;
            writeln!(out, "  readiness:")?;
            writeln!(out, "    path: {}", plain(path))?;
            if let Some(first) = &first {
                writeln!(out, "    # The answer is 503 while one of these is not ready.")?;
                writeln!(out, "    checks: [{{upstream: {first}}}]")?;
            }
        }
        if !self.versions.is_empty() {
            self.write_release(out)?;
        }
        if let Some(first) = first.filter(|_| self.has_gate) {
            writeln!(
                out,
                "\n# While the upstream is not ready, requests that are routed to it get 503 at once."
            )?;
            writeln!(out, "gates:")?;
            writeln!(out, "- upstream: {first}")?;
        }
        Ok(())
    }

    fn write_release(&self, out: &mut String) -> core::fmt::Result {
        writeln!(out, "\n# Divides requests among versions. The same user always gets the same version.")?;
        writeln!(out, "releases:")?;
        writeln!(out, "# The name also decides which users come first, so it must stay.")?;
        writeln!(out, "- name: {}", plain(&self.name))?;
        writeln!(out, "  # The proxy's routes read the version from this header.")?;
        writeln!(out, "  steer: {{header: x-gray-version}}")?;
        if !self.keys.is_empty() {
            writeln!(out, "  # What tells users apart. The first one that a request has counts.")?;
            writeln!(out, "  hashOn:")?;
        }
        for DraftKey(key) in &self.keys {
            writeln!(out, "  - {key}")?;
        }
        writeln!(out, "  # Raise a weight to move more users. No user moves back.")?;
        writeln!(out, "  versions:")?;
        let weight_of =
            |name: &str| self.weights.iter().find(|(known, _)| known == name).map(|(_, weight)| *weight);
        let others: u32 = self.versions.iter().skip(1).filter_map(|version| weight_of(&version.name)).sum();
        for (index, version) in self.versions.iter().enumerate() {
            let rest = if index == 0 { 100_u32.saturating_sub(others) } else { 0 };
            let weight = weight_of(&version.name).unwrap_or(rest);
            let default = if index == 0 { ", default: true" } else { "" };
            let upstream = plain(&self.upstream_of(version));
            writeln!(
                out,
                "  - {{name: {}, upstream: {upstream}, weight: {weight}{default}}}",
                plain(&version.name)
            )?;
        }
        Ok(())
    }

    /// Returns the name of a version's upstream: that of its cluster, or one made up if that is not allowed as a name.
    fn upstream_of(&self, version: &NamedCluster) -> String {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match version.cluster.len() <= 63 && version.cluster.bytes().all(is_allowed) {
            true => version.cluster.clone(),
            false => format!("{}-{}", self.name, version.name),
        }
    }

    /// Returns the upstreams of versions and the others, each once.
    fn all_upstreams(&self) -> Vec<NamedCluster> {
        let of_versions = self.versions.iter().map(|version| NamedCluster {
            name: self.upstream_of(version),
            cluster: version.cluster.clone(),
        });
        let mut upstreams: Vec<NamedCluster> = Vec::new();
        for upstream in of_versions.chain(self.upstreams.iter().cloned()) {
            if upstreams.iter().all(|known| known.name != upstream.name) {
                upstreams.push(upstream);
            }
        }
        upstreams
    }
}
