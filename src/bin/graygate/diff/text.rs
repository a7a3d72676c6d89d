//! A difference as lines for people.

use std::io::{self, Write};

use super::difference::{DocumentDifference, PolicyDifference, PolicyFate};
use super::moves::{Moved, ReleaseMoment, VersionShares};

/// Writes the difference.
pub fn write(difference: &DocumentDifference, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} -> {}, at {}", difference.old, difference.new, difference.at)?;
    for policy in &difference.policies {
        writeln!(out, "\npolicy {}: {}", policy.name, describe_fate(policy))?;
        for (heading, lines) in sections(policy, difference.sampled_users) {
            writeln!(out, "\n  {heading}")?;
            for line in lines {
                writeln!(out, "    {line}")?;
            }
        }
    }
    if !difference.same.is_empty() {
        let names = difference.same.join(", ");
        writeln!(out, "\nno difference: {names}")?;
    }
    Ok(())
}

/// Says what happens to a policy.
pub fn describe_fate(policy: &PolicyDifference) -> &'static str {
    match policy.fate {
        PolicyFate::New => "new",
        PolicyFate::Removed => "removed",
        PolicyFate::Renamed => "renamed",
        PolicyFate::Changed if policy.changes.is_empty() => "changed beside the policy itself",
        PolicyFate::Changed => "changed",
    }
}

/// Returns the sections of a policy, each with its lines. Leaves out what has none.
fn sections(policy: &PolicyDifference, users: u32) -> Vec<(String, Vec<String>)> {
    let consequences = &policy.consequences;
    let kept = &consequences.readiness_kept;
    let kept = (!kept.is_empty()).then(|| format!("kept: {}", kept.join(", ")));
    let lost =
        consequences.readiness_lost.iter().map(|lost| format!("lost: {}: {}", lost.upstream, lost.reason));
    let mut sections = vec![
        ("warnings".to_owned(), consequences.warnings.clone()),
        ("effects".to_owned(), consequences.effects.clone()),
        ("settings".to_owned(), policy.changes.iter().map(|change| change.describe()).collect()),
    ];
    for release in &policy.releases {
        let mut lines = release.notes.clone();
        lines.extend(release.moments.iter().flat_map(|moment| describe_moment(moment, users)));
        sections.push((format!("users of release {}", release.release), lines));
    }
    sections.push(("readiness".to_owned(), kept.into_iter().chain(lost).collect()));
    sections.retain(|(_, lines)| !lines.is_empty());
    sections
}

fn describe_moment(moment: &ReleaseMoment, users: u32) -> Vec<String> {
    let shares: Vec<String> = moment.versions.iter().map(describe_shares).collect();
    let mut lines = vec![format!("{}  {}", moment.at, shares.join(", "))];
    lines.extend(moment.moved.iter().map(|moved| format!("  {}", describe_moved(moved, users))));
    lines
}

/// Writes the share of a version before and after.
pub fn describe_shares(shares: &VersionShares) -> String {
    let VersionShares { version, before_percent, after_percent } = shares;
    match before_percent == after_percent {
        true => format!("{version} {after_percent} %"),
        false => format!("{version} {before_percent} % -> {after_percent} %"),
    }
}

/// Writes how many users of the sample move.
pub fn describe_moved(moved: &Moved, users: u32) -> String {
    let Moved { users: count, users_percent, moved_back_users, must_move_percent } = moved;
    format!(
        "{count} of {users} users move ({users_percent} %), {must_move_percent} % have to; {moved_back_users} move back"
    )
}
