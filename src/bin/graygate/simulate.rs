//! `graygate simulate` prints what a change of weights does to users, before the change is made.
//!
//! It hashes the keys of users as the filter does, and counts for each step which version each bucket's users get.

mod drawing;
mod page;
mod raster;
mod step;
mod table;
mod times;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use graygate::policy::Policy;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::value::hash;
use graygate::weights::layout::Layout;

use crate::failure::Failure;
use crate::input;
use crate::number;
use crate::policy_argument::{PolicyArgument, unknown};
use crate::progress::Progress;
use crate::source::display_name;
use step::PlannedStep;
use table::Simulation;
use times::Offset;

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate simulate policy.yaml
  graygate simulate policy.yaml --weights v2=0,10,30,100 --svg moves.svg
  graygate simulate policy.yaml --keys user-ids.txt --weights v2=10,20";

/// The arguments of `simulate`.
#[derive(Args)]
#[command(after_help = EXAMPLES, override_usage = "graygate simulate [OPTIONS] <FILE>")]
pub struct SimulateArguments {
    #[command(flatten)]
    policy: PolicyArgument,
    /// The release, by name; may be left out where the policy has one
    #[arg(long)]
    release: Option<String>,
    /// How many users: user-0, user-1 and so on
    #[arg(long, default_value_t = 100_000, value_parser = number::within(1..=10_000_000_u32))]
    users: u32,
    /// Users by their own keys instead, one per line; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "users")]
    keys: Option<PathBuf>,
    /// A version's shares in percent, step by step; may be repeated for others. The default version has the rest,
    /// and those that are not named have none. Without it, the steps are the policy's own: its weights, then its
    /// schedule
    #[arg(long, value_name = "VERSION=SHARE,SHARE…", value_parser = parse_shares)]
    weights: Vec<(String, Vec<u32>)>,
    /// Take the steps of --weights as steps of a schedule, each laid out from the one before, and not as the
    /// weights of one policy after another
    #[arg(long, requires = "weights")]
    as_schedule: bool,
    /// Draw it into this file, too. It can be read on light and dark pages, and by screen readers. "-" is standard
    /// output, which then has no table
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw it into this file, too, with the fonts of this machine
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Write a page with the picture and the table into this file, too. It needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show the times of a schedule with this offset from UTC, such as +01:00
    #[arg(long, value_name = "OFFSET", default_value = "+00:00", allow_hyphen_values = true)]
    utc_offset: Offset,
    /// Print one JSON object per step
    #[arg(long)]
    json: bool,
}

/// Parses a version and its shares, such as `v2=0,10,30`. Returns the shares in hundredths of a percent.
fn parse_shares(text: &str) -> Result<(String, Vec<u32>), String> {
    let allowed = "allowed: VERSION=SHARE,SHARE… in percent, with two digits behind the point at most, such as v2=0,0.5,10,100";
    let (name, list) = text.split_once('=').ok_or(allowed)?;
    let parse_share = |text: &str| {
        let hundredths = text.trim().parse::<f64>().ok()? * 100.0;
        let is_whole = (hundredths - hundredths.round()).abs() < 1e-6;
        (is_whole && (0.0..=10_000.0).contains(&hundredths)).then(|| hundredths.round() as u32)
    };
    let shares: Option<Vec<u32>> = list.split(',').map(parse_share).collect();
    Ok((name.to_owned(), shares.ok_or(allowed)?))
}

/// Simulates a release and prints the steps. Also draws them if the arguments name a file.
pub fn run(arguments: &SimulateArguments) -> Result<(), Failure> {
    let draws_to_stdout = draws_to_stdout(arguments)?;
    let set = arguments.policy.read()?;
    let release = find_release(&set.policies, arguments.release.as_deref())?;
    let plan = plan(release, arguments)?;
    let users_by_bucket = step::count_by_bucket(&hashes(release, arguments)?);
    let simulation = Simulation {
        release: &release.name,
        names: release.versions.iter().map(|version| version.name.as_str()).collect(),
        users: users_by_bucket.iter().sum(),
        steps: step::simulate(&plan, release.versions.len(), release.default, &users_by_bucket),
        offset: arguments.utc_offset,
    };
    // Draws first, as the reader of the output may leave early.
    write_files(&simulation, arguments)?;
    if draws_to_stdout {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let written = match arguments.json {
        true => simulation.write_json(&mut out),
        false => simulation.write_table(&mut out),
    };
    written.map_err(|error| Failure::output(&error))
}

/// Returns whether the picture or the page goes to standard output, which then has no table.
fn draws_to_stdout(arguments: &SimulateArguments) -> Result<bool, Failure> {
    let files = [&arguments.svg, &arguments.png, &arguments.html];
    let dashes = files.into_iter().flatten().filter(|file| is_stdout(file)).count();
    match dashes {
        0 => Ok(false),
        1 if !arguments.json => Ok(true),
        _ => Err(Failure::Usage(
            "\"-\" is standard output, which takes one output. Give each of the others a file, and leave out --json."
                .to_owned(),
        )),
    }
}

fn is_stdout(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Writes the picture and the page into the files that the arguments name.
fn write_files(simulation: &Simulation<'_>, arguments: &SimulateArguments) -> Result<(), Failure> {
    if arguments.svg.is_none() && arguments.png.is_none() && arguments.html.is_none() {
        return Ok(());
    }
    let save = |file: &Option<PathBuf>, content: &[u8]| match file {
        Some(file) if is_stdout(file) => {
            std::io::stdout().write_all(content).map_err(|error| Failure::output(&error))
        }
        Some(file) => std::fs::write(file, content).map_err(|error| Failure::io(file.display(), &error)),
        None => Ok(()),
    };
    let picture = drawing::draw(simulation).to_string();
    save(&arguments.svg, picture.as_bytes())?;
    save(&arguments.html, page::page(simulation, &picture).as_bytes())?;
    if let Some(file) = &arguments.png {
        let png =
            raster::png(&picture).map_err(|problem| Failure::Io(format!("{}: {problem}", file.display())))?;
        save(&arguments.png, &png)?;
    }
    Ok(())
}

/// Returns the release with this name, or the only release of the policies.
fn find_release<'p>(policies: &'p [Policy], name: Option<&str>) -> Result<&'p Release, Failure> {
    let releases = || policies.iter().flat_map(|policy| &policy.releases);
    let names: Vec<&str> = releases().map(|release| release.name.as_str()).collect();
    let mut found = releases().filter(|release| name.is_none_or(|name| release.name == name));
    let release = match (found.next(), found.next()) {
        (Some(_), Some(_)) if name.is_some() => {
            let of: Vec<&str> = policies
                .iter()
                .filter(|policy| policy.releases.iter().any(|release| name == Some(release.name.as_str())))
                .map(|policy| policy.name.as_str())
                .collect();
            return Err(Failure::Usage(format!(
                "--release {}: several policies have a release of this name. Name the policy with --policy-name: {}",
                name.unwrap_or_default(),
                of.join(", ")
            )));
        }
        (found, None) => found,
        _ => None,
    };
    let Some(release) = release else {
        return Err(match name {
            Some(name) => unknown("--release", name, "release", &names),
            None if names.is_empty() => Failure::Usage("the policy has no release to simulate".to_owned()),
            None => Failure::Usage(format!(
                "the policy has several releases. Name one of them with --release: {}",
                names.join(", ")
            )),
        });
    };
    if let Steer::RandomValueHeader(_) = release.steer {
        return Err(Failure::Usage(format!(
            "release {} steers by randomValueHeader: the weights are the route's. Choose another release.",
            release.name
        )));
    }
    Ok(release)
}

/// Returns the layout of each step, from `--weights` or from the schedule of the release.
fn plan(release: &Release, arguments: &SimulateArguments) -> Result<Vec<PlannedStep>, Failure> {
    if arguments.weights.is_empty() {
        return Ok(step::scheduled(release));
    }
    let mut columns: Vec<Option<&[u32]>> = vec![None; release.versions.len()];
    for (name, shares) in &arguments.weights {
        let index = release.versions.iter().position(|version| version.name == *name);
        let column = index.filter(|index| *index != release.default).and_then(|index| columns.get_mut(index));
        let Some(column) = column else {
            let others = other_versions(release);
            return Err(match index {
                Some(_) => Failure::Usage(format!(
                    "--weights: {name:?} is the default version, which gets the rest; allowed: {}",
                    others.join(", ")
                )),
                None => unknown("--weights", name, "version", &others),
            });
        };
        if column.replace(shares).is_some() {
            return Err(Failure::Usage(format!("--weights {name}: given twice. Give each version once.")));
        }
    }
    let count = columns.iter().flatten().map(|shares| shares.len()).max().unwrap_or_default();
    if columns.iter().flatten().any(|shares| shares.len() != count) {
        return Err(Failure::Usage("--weights: allowed: as many shares for each version".to_owned()));
    }
    let mut layouts: Vec<Layout> = Vec::new();
    for step in 0..count {
        let share =
            |column: &Option<&[u32]>| column.and_then(|shares| shares.get(step)).copied().unwrap_or(0);
        let mut weights: Vec<u32> = columns.iter().map(share).collect();
        let sum: u32 = weights.iter().sum();
        let Some(rest) = u32::from(hash::BUCKETS).checked_sub(sum) else {
            return Err(Failure::Usage(format!(
                "--weights: step {} makes {} %; allowed: at most 100 % in all",
                step + 1,
                f64::from(sum) / 100.0
            )));
        };
        if let Some(weight) = weights.get_mut(release.default) {
            *weight = rest;
        }
        let layout = match layouts.last().filter(|_| arguments.as_schedule) {
            Some(last) => last.stepped(&weights, release.default),
            None => Layout::of(&weights, release.default),
        };
        layouts.push(layout);
    }
    Ok(layouts.into_iter().map(PlannedStep::at_once).collect())
}

/// Returns the names of all versions but the default one.
fn other_versions(release: &Release) -> Vec<&str> {
    let versions = release.versions.iter().enumerate().filter(|(index, _)| *index != release.default);
    versions.map(|(_, version)| version.name.as_str()).collect()
}

/// Returns the hash of each user's key.
fn hashes(release: &Release, arguments: &SimulateArguments) -> Result<Vec<u64>, Failure> {
    let Some(file) = &arguments.keys else {
        let mut progress = Progress::new("users", Some(arguments.users.into()));
        let hashes = (0..arguments.users).map(|number| {
            progress.advance();
            hash::key(release.seed, format!("user-{number}").as_bytes())
        });
        return Ok(hashes.collect());
    };
    let mut progress = Progress::new("keys", None);
    let mut hashes = Vec::new();
    // Splits bytes rather than text, as a key need not be UTF-8.
    for line in std::io::BufReader::new(input::open(file)?).split(b'\n') {
        let line = line.map_err(|error| Failure::io(file.display(), &error))?;
        let key = line.strip_suffix(b"\r").unwrap_or(&line);
        progress.advance();
        if !key.is_empty() {
            hashes.push(hash::key(release.seed, key));
        }
    }
    if hashes.is_empty() {
        return Err(Failure::Usage(format!("{}: no keys. Write one per line.", display_name(file))));
    }
    Ok(hashes)
}
