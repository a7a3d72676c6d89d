//! `graygate diff` prints what a new policy changes: settings, users' versions, and the state that proxies keep.

mod changes;
mod consequences;
mod difference;
mod markdown;
mod moves;
mod text;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::set::{self, PolicySet};
use graygate::value::date::Date;

use crate::document;
use crate::failure::Failure;
use crate::number;
use crate::policy_argument::unknown;
use crate::source::display_name;
use crate::wording::describe_date;
use consequences::Consequences;
use difference::{DocumentDifference, PolicyDifference, PolicyFate};

/// The end of the help text.
const EXAMPLES: &str = "The exit code is 0 whether or not there is a difference.

Examples:
  graygate diff policy.yaml new-policy.yaml
  graygate diff policy.yaml new-policy.yaml --at 2026-12-01T11:00:00+01:00 --format markdown
  git show HEAD:policy.yaml | graygate diff - policy.yaml";

/// The arguments of `diff`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct DiffArguments {
    /// The policy that is in use, as YAML or JSON; "-" is standard input
    old: PathBuf,
    /// The policy that is to replace it; "-" is standard input
    new: PathBuf,
    /// Compare only the policies with this name, if the documents have several
    #[arg(long, value_name = "NAME")]
    policy_name: Option<String>,
    /// When the new policy takes over. The later steps of the schedules are compared, too [default: now]
    #[arg(long, value_name = "TIME", value_parser = crate::clock::date)]
    at: Option<Date>,
    /// How many users to sample: user-0, user-1 and so on
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 100_000,
        value_parser = number::within(1..=10_000_000_u32)
    )]
    users: u32,
    /// The form of the output
    #[arg(long, value_enum, default_value = "text")]
    format: DiffFormat,
}

/// The value of `--format`. The comments on its variants are the text of `--help`.
#[derive(Clone, Copy, ValueEnum)]
enum DiffFormat {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
    /// Headings, lists and tables, for a change request
    Markdown,
}

/// One policy of a document.
struct PolicySide<'d> {
    policy: &'d Policy,
    document: &'d Node,
}

/// Compares the policies and prints the difference.
pub fn run(arguments: &DiffArguments) -> Result<(), Failure> {
    let (old_document, old) = document::with_policies(&arguments.old)?;
    let (new_document, new) = document::with_policies(&arguments.new)?;
    if let Some(name) = &arguments.policy_name {
        let names: Vec<&str> =
            old.policies.iter().chain(&new.policies).map(|policy| policy.name.as_str()).collect();
        if !names.contains(&name.as_str()) {
            return Err(unknown("--policy-name", name, "policy", &names));
        }
    }
    let is_wanted =
        |side: &PolicySide<'_>| arguments.policy_name.as_ref().is_none_or(|name| side.policy.name == *name);
    let now = || Date::from_millis(crate::clock::today().as_millis() / 1_000 * 1_000);
    let date = arguments.at.unwrap_or_else(now);
    let old = sides(&old_document, &old).into_iter().filter(is_wanted).collect::<Vec<_>>();
    let new = sides(&new_document, &new).into_iter().filter(is_wanted).collect::<Vec<_>>();
    let mut difference = DocumentDifference {
        old: display_name(&arguments.old),
        new: display_name(&arguments.new),
        at: describe_date(date),
        sampled_users: arguments.users,
        policies: Vec::new(),
        same: Vec::new(),
    };
    for (old, new) in pairs(&old, &new) {
        match compare(old, new, date, arguments.users) {
            Some(policy) => difference.policies.push(policy),
            None => difference.same.extend(new.map(|side| side.policy.name.clone())),
        }
    }
    let mut out = std::io::stdout().lock();
    let written = match arguments.format {
        DiffFormat::Text => text::write(&difference, &mut out),
        DiffFormat::Markdown => markdown::write(&difference, &mut out),
        DiffFormat::Json => {
            let json = serde_json::to_string_pretty(&difference);
            let json = json.map_err(|error| Failure::Io(format!("the difference is not JSON: {error}")))?;
            writeln!(out, "{json}")
        }
    };
    written.map_err(|error| Failure::output(&error))
}

fn sides<'d>(document: &'d Node, set: &'d PolicySet) -> Vec<PolicySide<'d>> {
    let documents = set::documents(document).into_iter().map(|(_, document)| document);
    set.policies.iter().zip(documents).map(|(policy, document)| PolicySide { policy, document }).collect()
}

type Pair<'s, 'd> = (Option<&'s PolicySide<'d>>, Option<&'s PolicySide<'d>>);

/// Pairs the policies by name. If one of each document is left over, they are a pair too, as a rename.
fn pairs<'s, 'd>(old: &'s [PolicySide<'d>], new: &'s [PolicySide<'d>]) -> Vec<Pair<'s, 'd>> {
    let find = |sides: &'s [PolicySide<'d>], name: &str| sides.iter().find(|side| side.policy.name == name);
    let mut removed: Vec<&PolicySide<'_>> =
        old.iter().filter(|side| find(new, &side.policy.name).is_none()).collect();
    let added = new.iter().filter(|side| find(old, &side.policy.name).is_none()).count();
    let renamed = (removed.len() == 1 && added == 1).then(|| removed.pop()).flatten();
    let new = new.iter().map(|side| (find(old, &side.policy.name).or(renamed), Some(side)));
    new.chain(removed.into_iter().map(|side| (Some(side), None))).collect()
}

/// Returns what changes for one policy, or `None` if nothing does.
fn compare(
    old: Option<&PolicySide<'_>>,
    new: Option<&PolicySide<'_>>,
    date: Date,
    users: u32,
) -> Option<PolicyDifference> {
    let changes = match (old, new) {
        (Some(old), Some(new)) => changes::of(old.document, new.document),
        _ => Vec::new(),
    };
    let fate = match (old, new) {
        (Some(old), Some(new)) if old.policy.name != new.policy.name => PolicyFate::Renamed,
        // The document's own mode may have changed, which is beside the policies.
        (Some(old), Some(new)) if changes.is_empty() && old.policy == new.policy => return None,
        (Some(_), Some(_)) => PolicyFate::Changed,
        (None, Some(_)) => PolicyFate::New,
        (Some(_), None) => PolicyFate::Removed,
        (None, None) => return None,
    };
    let policies = (old.map(|side| side.policy), new.map(|side| side.policy));
    let releases = match policies {
        (Some(old), Some(new)) => moves::of(old, new, date, users),
        _ => Vec::new(),
    };
    let mut consequences = Consequences::of(policies.0, policies.1);
    for release in releases.iter().filter(|release| release.moves_back()) {
        consequences.warnings.push(format!(
            "Release {}: some users leave a version whose share does not fall. They move although the shares do not need it.",
            release.release
        ));
    }
    Some(PolicyDifference {
        name: policies.1.or(policies.0).map_or(String::new(), |policy| policy.name.clone()),
        fate,
        changes,
        consequences,
        releases,
    })
}
