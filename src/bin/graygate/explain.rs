//! `graygate explain` prints what the filter would decide for a request, and why.
//!
//! It calls the filter's own decision with a request from the command line and an assumed state of the upstreams.

mod arguments;
mod assumed;
mod circumstances;
mod json;
mod names;
mod sample;
mod text;

use core::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};

use graygate::decision;
use graygate::decision::release::split::Split;
use graygate::policy::Policy;
use graygate::value::date::Date;
use graygate::value::time::Time;

use crate::failure::Failure;
use crate::input;
use crate::policy_argument::unknown;
use crate::progress::Progress;
use crate::source::display_name;
pub use arguments::ExplainArguments;
use assumed::{AssumedReadiness, NOW};
use circumstances::Circumstances;
use sample::SampleRequest;

/// Explains the request in the arguments, or each request in the file of `--requests`.
pub fn run(arguments: &ExplainArguments) -> Result<(), Failure> {
    let set = arguments.policy.read()?;
    let upstreams = set.policies.iter().flat_map(|policy| &policy.upstreams);
    let upstreams: Vec<&str> = upstreams.map(|upstream| upstream.name.as_str()).collect();
    if let Some(name) = arguments.not_ready.iter().find(|name| !upstreams.contains(&name.as_str())) {
        return Err(unknown("--not-ready", name, "upstream", &upstreams));
    }
    let date = arguments.at.unwrap_or_else(crate::clock::today);
    let mut splits = splits(&set.policies, date, &arguments.rolled_back)?;
    let shows_policy = set.is_list || set.index.needs_authority();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut explain = |mut request: SampleRequest| {
        request.normalize();
        let request = &request;
        let found = set.index.find(Some(request.authority.as_bytes()));
        let found = found.and_then(|index| set.policies.get(index).zip(splits.get_mut(index)));
        let written = match found {
            None if arguments.json => writeln!(out, "{}", json::unmanaged(date)),
            None => text::write_unmanaged(request, &mut out),
            Some((policy, splits)) => {
                let mut readiness = AssumedReadiness { policy, not_ready: &arguments.not_ready, date };
                let decision = decision::decide(policy, request, &mut readiness, splits);
                let circumstances = Circumstances {
                    policy,
                    shows_policy,
                    splits,
                    state: &readiness,
                    is_time_given: arguments.at.is_some(),
                    rolled_back: &arguments.rolled_back,
                };
                if arguments.json {
                    writeln!(out, "{}", json::value(&circumstances, request, &decision))
                } else {
                    text::write(&circumstances, request, &decision, &mut out)
                }
            }
        };
        written.map_err(|error| Failure::output(&error))
    };
    match &arguments.requests {
        None => explain(request(arguments))?,
        Some(file) => {
            let input_error = |line: usize, error: &dyn core::fmt::Display| {
                Failure::Usage(format!("{}, line {}: {error}", display_name(file), line + 1))
            };
            // On a terminal, the explanations themselves show how far the work is.
            let is_hidden = std::io::stdout().is_terminal();
            let mut progress = (!is_hidden).then(|| Progress::new("requests", None));
            for (number, line) in BufReader::new(input::open(file)?).lines().enumerate() {
                let line = line.map_err(|error| Failure::io(file.display(), &error))?;
                if line.trim().is_empty() {
                    continue;
                }
                let request = sample::read(&line);
                explain(request.map_err(|message| input_error(number, &message))?)?;
                progress.as_mut().map(Progress::advance);
            }
        }
    }
    out.flush().map_err(|error| Failure::output(&error))
}

/// Returns how each release of each policy divides its requests on this date. The versions in `rolled_back` have lost all
/// their buckets.
fn splits(policies: &[Policy], date: Date, rolled_back: &[String]) -> Result<Vec<Vec<Split>>, Failure> {
    let is_known = |name: &str| policies.iter().any(|policy| find_version(policy, name).is_some());
    if let Some(name) = rolled_back.iter().find(|name| !is_known(name)) {
        let names = policies.iter().flat_map(|policy| &policy.releases).flat_map(|release| {
            let versions = release.versions.iter().enumerate().filter(|(index, _)| *index != release.default);
            versions.map(|(_, version)| format!("{}/{}", release.name, version.name))
        });
        let names: Vec<String> = names.collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return Err(unknown("--rolled-back", name, "version to roll back,", &names));
    }
    let splits = policies.iter().map(|policy| {
        let is_rolled_back = |index: (usize, usize)| {
            rolled_back.iter().any(|name| find_version(policy, name) == Some(index)).then(Time::default)
        };
        let releases = policy.releases.iter().enumerate().map(|(index, release)| {
            let times: Vec<Option<Time>> =
                (0..release.versions.len()).map(|version| is_rolled_back((index, version))).collect();
            Split::new(release, date, NOW, &times, 0)
        });
        releases.collect()
    });
    Ok(splits.collect())
}

/// Returns the indexes of the release and the version that `name` names, unless it is the default version.
fn find_version(policy: &Policy, name: &str) -> Option<(usize, usize)> {
    let (release, version) = name.split_once('/')?;
    let index = policy.releases.iter().position(|known| known.name == release)?;
    let release = policy.releases.get(index)?;
    let version = release.versions.iter().position(|known| known.name == version)?;
    (release.default != version).then_some((index, version))
}

/// Returns the request in the arguments.
fn request(arguments: &ExplainArguments) -> SampleRequest {
    let mut headers = BTreeMap::new();
    for (name, value) in arguments.headers() {
        sample::add_header(&mut headers, name, value);
    }
    let url = arguments.url.as_ref();
    SampleRequest {
        method: arguments.method.clone(),
        path: url.map_or(&arguments.path, |url| &url.path).clone(),
        authority: url.map_or(&arguments.authority, |url| &url.authority).clone(),
        scheme: url.map(|url| url.scheme.clone()).or_else(|| arguments.scheme.clone()),
        source: arguments.source,
        cluster: arguments.cluster.clone(),
        headers,
        needs_route: Cell::default(),
    }
}
