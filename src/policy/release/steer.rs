//! `steer`: how the proxy's routes learn which version a request gets.

use super::key::Key;
use super::version::Version;
use crate::policy::reader::{Fields, Value};

/// One way of telling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Steer {
    /// `header`, in lower case: its value is the version's name.
    Header(String),
    /// `clusterHeader`, in lower case: its value is the name of the version's cluster, for a route with
    /// `cluster_header`.
    ClusterHeader(String),
    /// `randomValueHeader`, in lower case: its value is a number from 0 to 2^64 - 1, the same for the same key,
    /// for a route with `weighted_clusters.header_name`. The route's weights decide.
    RandomValueHeader(String),
    /// `filterState`: no header at all; the value of this object is the version's name, for a route with a match
    /// on `filter_state`.
    FilterState(String),
}

impl Steer {
    /// Reads `steer`.
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["header", "clusterHeader", "randomValueHeader", "filterState"])?;
        let header = |key: &str, make: fn(String) -> Steer| {
            fields.read(key, None, |value| value.header_name(true).map(make).map(Some))
        };
        let steers = [
            header("header", Steer::Header)?,
            header("clusterHeader", Steer::ClusterHeader)?,
            header("randomValueHeader", Steer::RandomValueHeader)?,
            // The proxy takes no other object from a filter like this one that a route can match on.
            fields.read("filterState", None, |value| {
                value.choice(&[("envoy.string", ())])?;
                Some(Some(Steer::FilterState("envoy.string".to_owned())))
            })?,
        ];
        let mut steers = steers.into_iter().flatten();
        match (steers.next(), steers.next()) {
            (Some(steer), None) => Some(steer),
            _ => value.refuse("one of header, clusterHeader, randomValueHeader, filterState"),
        }
    }

    /// The header that it writes.
    pub fn header(&self) -> Option<&str> {
        match self {
            Steer::Header(name) | Steer::ClusterHeader(name) | Steer::RandomValueHeader(name) => Some(name),
            Steer::FilterState(_) => None,
        }
    }

    /// What stands for the version where the route does not pick it by itself.
    pub fn value<'v>(&self, version: &'v Version) -> Option<&'v str> {
        match self {
            Steer::Header(_) | Steer::FilterState(_) => Some(&version.name),
            Steer::ClusterHeader(_) => Some(&version.cluster),
            Steer::RandomValueHeader(_) => None,
        }
    }

    /// Notes what of the rest of the release can't be done with this.
    pub(super) fn judge(
        &self,
        fields: &Fields<'_>,
        keys: &[Key],
        trusts: bool,
        versions: &[Version],
        default: usize,
    ) {
        let Some(steer) = fields.get("steer") else {
            return;
        };
        // Steering would overwrite the key, or the cookies it is one of.
        let is_key = |name: &str| keys.iter().any(|key| matches!(key, Key::Header(key) if key == name));
        if let Some(name) = self.header().filter(|name| *name == "cookie" || is_key(name)) {
            let allowed = "a header that carries nothing else, such as x-gray-version";
            steer.problem::<()>(format!("{name:?} carries something else; allowed: {allowed}"));
        }
        match self {
            Steer::Header(_) => {}
            Steer::ClusterHeader(_) => {
                for (index, version) in versions.iter().enumerate() {
                    if trusts && versions.iter().take(index).any(|other| other.cluster == version.cluster) {
                        fields.contradiction(
                            "trustIncoming",
                            "two versions have the same cluster, so the header does not tell which is meant; allowed: false, or a cluster for each",
                        );
                        break;
                    }
                }
            }
            Steer::FilterState(_) if trusts => {
                fields.contradiction(
                    "trustIncoming",
                    "no header carries the version; allowed: false, or steer by a header",
                );
            }
            Steer::FilterState(_) => {}
            Steer::RandomValueHeader(_) => {
                let message = "the route's weights decide, which the filter can't change; allowed: steer by header, clusterHeader or filterState";
                for key in ["startsAt", "schedule", "rollback"] {
                    fields.contradiction(key, message);
                }
                if trusts {
                    fields.contradiction(
                        "trustIncoming",
                        "a number names no version; allowed: false, or steer by header or clusterHeader",
                    );
                }
                // The default one takes who is denied, and who falls back.
                let forced = |(index, version): (usize, &Version)| {
                    version.weight == 0 && (version.is_overridden() || index == default)
                };
                if versions.iter().enumerate().any(forced) {
                    fields.contradiction(
                        "versions",
                        "no number leads to a version of weight 0, so it can be neither the default nor have match or allow; allowed: a weight above 0",
                    );
                }
                if versions.is_empty() {
                    fields.contradiction(
                        "responseHeader",
                        "which version the route picks is not known without versions; allowed: versions as the route has them",
                    );
                }
            }
        }
    }
}
