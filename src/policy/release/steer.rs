//! `steer`: how the filter tells the proxy's routes which version a request gets.

use super::key::Key;
use super::version::Version;
use crate::policy::reader::{Fields, Value};
use crate::value::baggage;

/// A way to tell the proxy's routes the version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Steer {
    /// `header`: a header whose value is the version's name. The name of the header is in lower case.
    Header(String),
    /// `clusterHeader`: a header whose value is the name of the version's cluster. A route with `cluster_header` reads
    /// it. The name of the header is in lower case.
    ClusterHeader(String),
    /// `randomValueHeader`: a header whose value is a number from 0 to 2^64 - 1, the same for the same key. A route
    /// with `weighted_clusters.header_name` reads it, and the route's weights decide. The name of the header is in
    /// lower case.
    RandomValueHeader(String),
    /// `filterState`: a filter state object whose value is the version's name. A route with a match on `filter_state`
    /// reads it. There is no header.
    FilterState(String),
    /// `baggage`: a member of the header `baggage`, with this key, whose value is the version's name. All other members stay.
    Baggage(String),
}

impl Steer {
    /// Reads `steer`.
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let read_header = |key: &str, make: fn(String) -> Steer| {
            fields.optional(key, |value| value.header_name().map(make))
        };
        let steers = [
            read_header("header", Steer::Header)?,
            read_header("clusterHeader", Steer::ClusterHeader)?,
            read_header("randomValueHeader", Steer::RandomValueHeader)?,
            fields.optional("filterState", |value| Some(Steer::FilterState(value.word()?.to_owned())))?,
            fields.optional("baggage", |value| Some(Steer::Baggage(value.text()?.to_owned())))?,
        ];
        // The table's rule reports none and more than one.
        let mut steers = steers.into_iter().flatten();
        steers.next().filter(|_| steers.next().is_none())
    }

    /// Returns the header that the filter writes as a whole, if this way uses one.
    pub fn header(&self) -> Option<&str> {
        match self {
            Steer::Header(name) | Steer::ClusterHeader(name) | Steer::RandomValueHeader(name) => Some(name),
            Steer::FilterState(_) | Steer::Baggage(_) => None,
        }
    }

    /// Returns the header that the filter writes as a whole or in part, if this way uses one.
    pub fn written_header(&self) -> Option<&str> {
        match self {
            Steer::Baggage(_) => Some(baggage::HEADER),
            steer => steer.header(),
        }
    }

    /// Returns the key of the member of `baggage` that the filter writes, if this way uses one.
    pub fn member(&self) -> Option<&str> {
        match self {
            Steer::Baggage(key) => Some(key),
            _ => None,
        }
    }

    /// Returns whether both write the same place, so that only one of two releases can steer a request.
    pub fn writes_as(&self, other: &Steer) -> bool {
        self.header() == other.header() && self.member() == other.member()
    }

    /// Returns the value that names the version. Returns `None` if the route picks the version itself.
    pub fn value<'v>(&self, version: &'v Version) -> Option<&'v str> {
        match self {
            Steer::Header(_) | Steer::FilterState(_) | Steer::Baggage(_) => Some(&version.name),
            Steer::ClusterHeader(_) => Some(&version.cluster),
            Steer::RandomValueHeader(_) => None,
        }
    }

    /// Describes the route that the requests of a version need.
    pub fn describe(&self, version: &Version) -> String {
        let Version { name, cluster, .. } = version;
        let matching = match self {
            Steer::Header(header) => format!("matches {header}: {name}"),
            Steer::FilterState(object) => format!("matches filter state {object} with the value {name}"),
            Steer::Baggage(key) => format!("matches {key}={name} in the header baggage"),
            Steer::ClusterHeader(header) => {
                return format!("a route takes its cluster from the header {header}");
            }
            Steer::RandomValueHeader(header) => {
                return format!(
                    "a route has weighted_clusters with header_name {header} and the policy's weights"
                );
            }
        };
        format!("a route {matching} and leads to {cluster}")
    }

    /// Returns whether steering by this header would replace what others keep in it.
    fn replaces_others(&self, name: &str) -> bool {
        self.header() == Some(name) && ["cookie", baggage::HEADER].contains(&name)
    }

    /// Reports settings of the release that do not work with this way to steer.
    pub(super) fn validate(
        &self,
        fields: &Fields<'_>,
        keys: &[Key],
        trust_incoming: bool,
        versions: &[Version],
        default: usize,
    ) {
        let Some(steer) = fields.get("steer") else {
            return;
        };
        // Steering would overwrite the sticky key, all cookies, or all baggage.
        let mut parts = keys.iter().flat_map(Key::parts);
        let mut is_key = |name: &str| parts.any(|key| matches!(key, Key::Header(key) if key == name));
        if let Some(name) = self.written_header().filter(|name| is_key(name) || self.replaces_others(name)) {
            steer.problem::<()>(format!(
                "{name:?} carries something else; use a header that carries nothing else, such as x-gray-version"
            ));
        }
        if let Some(name) = self.member()
            && keys.iter().flat_map(Key::parts).any(|key| matches!(key, Key::Baggage(key) if key == name))
        {
            steer.problem::<()>(format!("{name:?} holds the key of hashOn; use another member"));
        }
        match self {
            Steer::Header(_) | Steer::Baggage(_) => {}
            Steer::ClusterHeader(_) => {
                for (index, version) in versions.iter().enumerate() {
                    if trust_incoming
                        && versions.iter().take(index).any(|other| other.cluster == version.cluster)
                    {
                        fields.contradiction(
                            "trustIncoming",
                            "two versions have the same cluster, so the header does not tell which is meant. Use false, or a cluster for each.",
                        );
                        break;
                    }
                }
            }
            Steer::FilterState(_) if trust_incoming => {
                fields.contradiction(
                    "trustIncoming",
                    "no header carries the version. Use false, or steer by a header.",
                );
            }
            Steer::FilterState(_) => {}
            Steer::RandomValueHeader(_) => {
                let message = "has no effect: the route's weights decide, and the filter cannot change them. Remove it, or steer by header, clusterHeader, filterState or baggage.";
                for key in ["startsAt", "schedule", "rollback"] {
                    fields.contradiction(key, message);
                }
                if trust_incoming {
                    fields.contradiction(
                        "trustIncoming",
                        "the number in the header does not name a version. Use false, or steer by header or clusterHeader.",
                    );
                }
                // The default version also gets denied keys and fallbacks, so it needs a weight.
                let must_be_reachable = |(index, version): (usize, &Version)| {
                    version.weight == 0 && (version.is_overridden() || index == default)
                };
                if versions.iter().enumerate().any(must_be_reachable) {
                    fields.contradiction(
                        "versions",
                        "no number leads to a version of weight 0, so it cannot be the default, nor have match or allow. Use a weight above 0.",
                    );
                }
                if versions.is_empty() {
                    fields.contradiction(
                        "responseHeader",
                        "without versions, the filter does not know which one the route picks. Add the versions that the route has.",
                    );
                }
            }
        }
    }
}
