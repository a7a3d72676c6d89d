//! The rules by which Envoy turns the labels in a counter's name into tags, and so into labels in Prometheus.

use graygate::policy::document::Node;
use graygate::worker::metric::spec::labels;

use crate::tree::{list, object, text};

/// Returns the value of `stats_config`.
///
/// A label is `<label>=.=<value>;.;` in the name. Envoy removes the first group, and the second is the value. The literal
/// prefix lets Envoy skip every other statistic. The separator before the label keeps `to` from matching at the end of
/// another one.
pub fn config() -> Node {
    let tag = |label: &str| {
        let regex = format!(r"^wasmcustom\.graygate_.*?[.;]({label}=\.=(.*?);\.;)");
        object([("tag_name", text(label)), ("regex", text(regex))])
    };
    object([("stats_tags", list(labels().into_iter().map(tag)))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{get, read_all};

    #[test]
    fn the_shipped_configuration_has_the_same_rules() {
        let shipped = read_all(include_str!("../../../../../envoy/envoy.yaml")).unwrap();
        let tags = |config: &Node| {
            let Some(Node::List(tags)) = get(config, &["stats_tags"]) else {
                panic!("no stats_tags: {config:?}");
            };
            let mut tags: Vec<_> = tags.iter().map(|tag| format!("{tag:?}")).collect();
            tags.sort();
            tags
        };
        assert_eq!(get(&shipped[0], &["stats_config"]).map(tags), Some(tags(&config())));
    }
}
