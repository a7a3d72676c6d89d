//! The names that both output formats of `explain` use.

use graygate::decision::Assignment;
use graygate::policy::Policy;
use graygate::policy::release::key::Key;

/// Returns the names of the release, of the wanted version, and of the assigned version.
pub fn assignment_names<'p>(policy: &'p Policy, assignment: &Assignment<'_>) -> [&'p str; 3] {
    let release = policy.releases.get(assignment.release);
    let version = |index: usize| {
        release.and_then(|release| release.versions.get(index)).map_or("", |version| version.name.as_str())
    };
    [
        release.map_or("", |release| &release.name),
        version(assignment.choice.version),
        version(assignment.version),
    ]
}

/// Describes the source of a sticky key.
pub fn describe_key(key: &Key) -> String {
    match key {
        Key::Header(name) => format!("header {name}"),
        Key::Cookie(cookie) => format!("cookie {}", cookie.name),
        Key::QueryParameter(name) => format!("query parameter {name}"),
        Key::Baggage(key) => format!("baggage {key}"),
        Key::Host => "host".to_owned(),
        Key::SourceIp => "source address".to_owned(),
        Key::Path => "path".to_owned(),
        Key::All(parts) => parts.iter().map(describe_key).collect::<Vec<_>>().join(" with "),
    }
}
