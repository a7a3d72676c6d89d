//! A difference as Markdown, for a change request.

use std::io::{self, Write};

use super::difference::{DocumentDifference, PolicyDifference};
use super::text::{describe_fate, describe_shares};

/// Writes the difference.
pub fn write(difference: &DocumentDifference, out: &mut impl Write) -> io::Result<()> {
    let DocumentDifference { old, new, at, .. } = difference;
    writeln!(out, "# graygate: `{old}` to `{new}`, at {at}")?;
    for policy in &difference.policies {
        writeln!(out, "\n## Policy `{}`: {}", policy.name, describe_fate(policy))?;
        write_policy(policy, difference.sampled_users, out)?;
    }
    if !difference.same.is_empty() {
        writeln!(out, "\nNo difference: {}.", difference.same.join(", "))?;
    }
    Ok(())
}

fn write_policy(policy: &PolicyDifference, users: u32, out: &mut impl Write) -> io::Result<()> {
    let consequences = &policy.consequences;
    let warnings = consequences.warnings.iter().map(|warning| format!("**Warning:** {}", escape(warning)));
    let effects = consequences.effects.iter().map(|effect| escape(effect));
    write_list(warnings.chain(effects), out)?;
    if !policy.changes.is_empty() {
        writeln!(out, "\n### Settings\n\n| setting | before | after |\n|---|---|---|")?;
        for change in &policy.changes {
            let cell = |value: &Option<String>| value.as_deref().map(code).unwrap_or_default();
            writeln!(out, "| {} | {} | {} |", code(&change.path), cell(&change.before), cell(&change.after))?;
        }
    }
    for release in &policy.releases {
        writeln!(out, "\n### Users of release `{}`", release.release)?;
        write_list(release.notes.iter().map(|note| escape(note)), out)?;
        if !release.moments.is_empty() {
            writeln!(
                out,
                "\n| at | share of keys | move, of {users} | have to | move back |\n|---|---|---|---|---|"
            )?;
        }
        for moment in &release.moments {
            let shares: Vec<String> = moment.versions.iter().map(describe_shares).collect();
            let shares = escape(&shares.join(", "));
            match &moment.moved {
                Some(moved) => writeln!(
                    out,
                    "| {} | {shares} | {} ({} %) | {} % | {} |",
                    moment.at,
                    moved.users,
                    moved.users_percent,
                    moved.must_move_percent,
                    moved.moved_back_users
                )?,
                None => writeln!(out, "| {} | {shares} | unknown | unknown | unknown |", moment.at)?,
            }
        }
    }
    if !consequences.readiness_kept.is_empty() || !consequences.readiness_lost.is_empty() {
        writeln!(out, "\n### Readiness")?;
    }
    let kept = consequences.readiness_kept.iter().map(|name| format!("{} keeps its state", code(name)));
    let lost = consequences.readiness_lost.iter();
    let lost = lost.map(|lost| format!("{} begins again: {}", code(&lost.upstream), escape(&lost.reason)));
    write_list(kept.chain(lost), out)
}

fn write_list(lines: impl Iterator<Item = String>, out: &mut impl Write) -> io::Result<()> {
    for (index, line) in lines.enumerate() {
        let start = if index == 0 { "\n" } else { "" };
        writeln!(out, "{start}- {line}")?;
    }
    Ok(())
}

/// Writes a value as code. A pipe would end the cell of a table, and a backtick the code.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'").replace('|', "\\|").replace(['\r', '\n'], " "))
}

/// Escapes what Markdown would take for markup.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('*', "\\*")
        .replace('<', "&lt;")
        .replace('_', "\\_")
}
