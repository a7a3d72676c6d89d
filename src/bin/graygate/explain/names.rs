//! What both forms of an explanation call things.

use graygate::decision::Assignment;
use graygate::policy::Policy;
use graygate::policy::release::key::Key;

/// The names in an assignment: release, version wanted, version got.
pub fn names<'p>(policy: &'p Policy, assignment: &Assignment<'_>) -> [&'p str; 3] {
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

/// Where a key was found, in words.
pub fn key(key: &Key) -> String {
    match key {
        Key::Header(name) => format!("header {name}"),
        Key::Cookie(cookie) => format!("cookie {}", cookie.name),
        Key::QueryParameter(name) => format!("query parameter {name}"),
        Key::SourceIp => "source address".to_owned(),
    }
}
