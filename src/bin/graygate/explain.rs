//! `graygate explain` prints what the filter would decide for a request, and why.
//!
//! It calls the filter's own decision with a request from the command line and an assumed state of the upstreams.

mod json;
mod names;
mod sample;
mod text;

use core::cell::Cell;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use clap::Args;
use graygate::decision;
use graygate::decision::release::split::Split;
use graygate::policy::Policy;
use graygate::policy::upstream::UpstreamId;
use graygate::readiness::{Admission, Permit, Readiness, UpstreamReason, UpstreamStatus};
use graygate::value::date::Date;
use graygate::value::lifecycle::Lifecycle;
use graygate::value::time::Time;

use crate::failure::Failure;
use crate::input;
use crate::policy_argument::{PolicyArgument, unknown};
use sample::SampleRequest;

/// The arguments of `explain`.
#[derive(Args)]
pub struct ExplainArguments {
    #[command(flatten)]
    policy: PolicyArgument,
    /// The request's path, with its query
    #[arg(long, default_value = "/")]
    path: String,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's host
    #[arg(long, default_value = "localhost")]
    authority: String,
    /// The request's scheme; that of a header x-forwarded-proto or else http, where it is not given
    #[arg(long)]
    scheme: Option<String>,
    /// A request header, as NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Where the request comes from, as ADDRESS:PORT; the port is 0 where the proxy takes the address from a
    /// header
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50000")]
    source: SocketAddr,
    /// The cluster that the request's route leads to before the filter edits headers, "" for none; where it is not given,
    /// that of the upstream of each gate without a match
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// An upstream that is not Ready; may be repeated. The others are as the policy assumes them.
    #[arg(long, value_name = "UPSTREAM")]
    not_ready: Vec<String>,
    /// The time, in RFC 3339 and UTC; now, where it is not given
    #[arg(long, value_name = "TIME", value_parser = crate::clock::date)]
    at: Option<Date>,
    /// A version that has been rolled back; may be repeated
    #[arg(long, value_name = "RELEASE/VERSION")]
    rolled_back: Vec<String>,
    /// Explain each of these requests instead, one JSON object per line:
    /// {"method", "path", "authority", "scheme", "source", "cluster", "headers": {NAME: VALUE or a
    /// list of values}}; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["path", "method", "authority", "scheme", "source", "cluster", "headers"])]
    requests: Option<PathBuf>,
    /// Print one JSON object per request
    #[arg(long)]
    json: bool,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("allowed: NAME=VALUE, such as x-user-id=alice")?;
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// The state of the upstreams that `explain` assumes: as forced or assumed by the policy, save for those in
/// `not_ready`.
struct AssumedReadiness<'p> {
    policy: &'p Policy,
    not_ready: &'p [String],
    date: Date,
}

/// The time of the request. It is the last of all, so the effect of a rollback before it is complete.
const NOW: Time = Time::from_millis(u64::MAX);

impl AssumedReadiness<'_> {
    /// Returns the admission of a request to this upstream. An operator's `force` takes precedence over `--not-ready`.
    fn assumed_admission(&self, id: UpstreamId) -> Admission {
        let Some(upstream) = self.policy.upstream(id) else {
            return Admission::Ready;
        };
        match upstream.force {
            Some(true) => Admission::Ready,
            Some(false) => Admission::NotReady(UpstreamReason::Forced),
            None if !upstream.assume_ready || self.not_ready.contains(&upstream.name) => {
                Admission::NotReady(UpstreamReason::Assumed)
            }
            None => Admission::Ready,
        }
    }
}

impl Readiness for AssumedReadiness<'_> {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        self.assumed_admission(id)
    }

    fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn status(&self, id: UpstreamId) -> UpstreamStatus {
        // Assumes that each upstream that is ready was checked just now, and that no other was checked yet.
        let admission = self.assumed_admission(id);
        let ready = admission == Admission::Ready;
        let held_back_since = (!ready).then_some(NOW);
        UpstreamStatus {
            admission,
            held_back_since,
            until: None,
            last_result_at: ready.then_some(NOW),
            verified: ready,
        }
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { started: true, draining: false }
    }

    fn now(&self) -> Time {
        NOW
    }

    fn date(&self) -> Date {
        self.date
    }

    fn random(&mut self) -> u64 {
        0
    }
}

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
            None if arguments.json => writeln!(out, "{}", json::unmanaged()),
            None => text::write_unmanaged(request, &mut out),
            Some((policy, splits)) => {
                let mut readiness = AssumedReadiness { policy, not_ready: &arguments.not_ready, date };
                let decision = decision::decide(policy, request, &mut readiness, splits);
                if arguments.json {
                    writeln!(out, "{}", json::value(policy, request, &decision))
                } else {
                    text::write(policy, shows_policy, splits, request, &decision, &mut out)
                }
            }
        };
        written.map_err(|error| Failure::output(&error))
    };
    match &arguments.requests {
        None => explain(SampleRequest {
            method: arguments.method.clone(),
            path: arguments.path.clone(),
            authority: arguments.authority.clone(),
            scheme: arguments.scheme.clone(),
            source: arguments.source,
            cluster: arguments.cluster.clone(),
            headers: first_values(&arguments.headers),
            needs_route: Cell::default(),
        })?,
        Some(file) => {
            let input_error = |line: usize, error: &dyn core::fmt::Display| {
                Failure::Usage(format!("{}, line {}: {error}", file.display(), line + 1))
            };
            for (number, line) in BufReader::new(input::open(file)?).lines().enumerate() {
                let line = line.map_err(|error| Failure::io(file.display(), &error))?;
                explain(serde_json::from_str(&line).map_err(|error| input_error(number, &error))?)?;
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
        return Err(unknown("--rolled-back", name, "version that can be rolled back,", &names));
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

/// Returns the first value of each header, as the proxy shows the filter only that one of a repeated header.
fn first_values(headers: &[(String, String)]) -> BTreeMap<String, String> {
    let mut first_values = BTreeMap::new();
    for (name, value) in headers {
        first_values.entry(name.clone()).or_insert_with(|| value.clone());
    }
    first_values
}
