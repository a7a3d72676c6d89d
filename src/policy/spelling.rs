//! Which known word or key a misspelt one is most likely meant to be.

use super::keys::spec::ObjectSpec;

/// Returns the known word that `word` is most likely a misspelling of. It is at most two edits away, and fewer than
/// half as many as it has bytes. Differences in case are free, as they are the most common mistake.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // A much longer word is no misspelling, and costs time to compare.
    if word.len() > 64 {
        return None;
    }
    let distance =
        |known: &str| strsim::osa_distance(&word.to_ascii_lowercase(), &known.to_ascii_lowercase());
    let (edits, near) =
        known.iter().map(|known| (distance(known), *known)).min_by_key(|(edits, _)| *edits)?;
    (edits <= 2 && edits * 2 < near.len()).then_some(near)
}

/// Names of keys in other tools, and the key here. The Gateway API calls the `uri` of a match its path.
const OTHER_NAMES: [(&str, &str); 1] = [("path", "uri")];

/// Returns the known key that `key` is most likely meant to be. A key in `snake_case`, and a part of a key such as `timeout`
/// for `timeoutSeconds`, are common mistakes as well.
pub fn nearest_key(key: &str, spec: &ObjectSpec) -> Option<&'static str> {
    let names: Vec<&'static str> = spec.keys.iter().map(|spec| spec.name).collect();
    let plain = key.replace(['-', '_'], "");
    let other_name = OTHER_NAMES.iter().find(|(other, name)| *other == plain && names.contains(name));
    let plain = other_name.map_or(plain.as_str(), |(_, name)| name);
    nearest(plain, &names).or_else(|| {
        let plain = plain.to_ascii_lowercase();
        let begins = |long: &str, short: &str| short.len() >= 4 && long.starts_with(short);
        names.into_iter().find(|name| {
            let name = name.to_ascii_lowercase();
            begins(&name, &plain) || begins(&plain, &name)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn only_a_misspelt_word_gets_a_suggestion() {
        let known = ["weight", "default", "match"];
        for (word, near) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("weight_percent", None),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), near, "{word}");
        }
    }

    #[test]
    fn a_key_in_another_style_or_a_part_of_one_gets_a_suggestion() {
        let policy = &crate::policy::keys::POLICY;
        for (key, near) in [
            ("max_gated_percent", Some("maxGatedPercent")),
            ("maxGated", Some("maxGatedPercent")),
            ("upstreamsList", Some("upstreams")),
            ("gat", Some("gates")),
            ("up", None),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest_key(key, policy), near, "{key}");
        }
        assert_eq!(nearest_key("path", &crate::policy::keys::MATCH), Some("uri"));
        assert_eq!(nearest_key("path", policy), None);
    }
}
