//! Explanations as text, for people.

use std::io::{self, Write};

use graygate::decision::action::{Action, HeaderChange, HeaderEdit};
use graygate::decision::release::AssignmentReason;
use graygate::decision::release::split::Split;
use graygate::decision::reply::{Reply, ReplyCause};
use graygate::decision::{Assignment, Decision};
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::policy::{Mode, Policy};
use graygate::value::hash;

use super::circumstances::Circumstances;
use super::names::{assignment_names, describe_key};
use super::sample::SampleRequest;
use crate::wording::{describe_date, percent};

/// Writes the explanation of a request that is for no policy.
pub fn write_unmanaged(request: &SampleRequest, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "request   {} {} for {}", request.method, request.path, request.authority)?;
    writeln!(out, "policy    none has this host")?;
    writeln!(out, "decision  forward")
}

/// Writes the explanation of one request.
pub fn write(
    circumstances: &Circumstances<'_>,
    request: &SampleRequest,
    decision: &Decision<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "request   {} {} for {}", request.method, request.path, request.authority)?;
    let Circumstances { policy, splits, state, .. } = circumstances;
    if circumstances.shows_policy {
        writeln!(out, "policy    {}", policy.name)?;
    }
    if circumstances.shows_time() {
        let now = if circumstances.is_time_given { "" } else { " (now)" };
        writeln!(out, "time      {}{now}", describe_date(state.date))?;
    }
    if !policy.upstreams.is_empty() {
        writeln!(out, "upstreams {}", state.describe())?;
    }
    let is_carried_out = match policy.mode {
        Mode::Enforce => true,
        Mode::Shadow => decision.action.is_for_probe(),
        Mode::Off => false,
    };
    if !is_carried_out {
        writeln!(out, "mode      {}: nothing of this is done", policy.mode.name())?;
    }
    for assignment in &decision.assignments {
        let release = policy.releases.get(assignment.release);
        let split = splits.get(assignment.release);
        if let (Some(release), Some(split)) = (release, split) {
            write_assignment(circumstances, release, split, assignment, out)?;
        }
    }
    for id in &decision.ignored {
        writeln!(out, "evidence  none against {}: not recorded", policy.name_of(*id))?;
    }
    for bypass in &decision.bypasses {
        writeln!(out, "gate      {}", bypass.describe(policy))?;
    }
    if request.assumes_route() {
        let cluster = "the cluster of each gate without a match; --cluster says where it really leads";
        writeln!(out, "route     assumed to lead to {cluster}")?;
    }
    let (description, edits, reply) = match &decision.action {
        Action::Forward(edits) => ("forward".to_owned(), edits.request.as_slice(), None),
        Action::PassThrough { .. } => {
            ("answer with the response of the app, which the filter calls".to_owned(), &[][..], None)
        }
        Action::GrpcCheck { edits, .. } => {
            ("forward, and answer as gRPC health check".to_owned(), edits.as_slice(), None)
        }
        Action::Status => ("reply 200: the status page, in JSON".to_owned(), &[][..], None),
        Action::Reply(reply) => {
            (format!("reply {}: {}", reply.status, describe_cause(policy, reply)), &[][..], Some(&**reply))
        }
        Action::Drain { draining, reply } => {
            let order = if *draining { "drain" } else { "stop draining" };
            (format!("{order}, then reply {}", reply.status), &[][..], Some(reply))
        }
    };
    writeln!(out, "decision  {description}")?;
    write_edits(edits, out)?;
    if let Action::Forward(edits) = &decision.action {
        for (object, value) in &edits.filter_state {
            writeln!(out, "          with filter state {object}: {value}")?;
        }
        for assignment in &decision.assignments {
            write_needed_route(policy, assignment, out)?;
        }
        if !edits.response.is_empty() {
            writeln!(out, "response")?;
            write_edits(&edits.response, out)?;
        }
    }
    if let Some(reply) = reply {
        for (name, value) in &reply.headers {
            writeln!(out, "          {name}: {value}")?;
        }
        for line in String::from_utf8_lossy(&reply.body).lines() {
            writeln!(out, "          {line}")?;
        }
    }
    Ok(())
}

/// Writes which cluster the request should reach. The filter does not choose it.
fn write_needed_route(policy: &Policy, assignment: &Assignment<'_>, out: &mut impl Write) -> io::Result<()> {
    let release = policy.releases.get(assignment.release);
    let found = release.and_then(|release| Some((release, release.versions.get(assignment.version)?)));
    let Some((release, version)) = found.filter(|_| assignment.reason != AssignmentReason::NoSuchVersion)
    else {
        return Ok(());
    };
    let (name, cluster, needed) = (&version.name, &version.cluster, release.steer.describe(version));
    writeln!(out, "route     decides: {name} is reached at cluster {cluster} only if {needed}")
}

/// Writes the assigned version, then each reason in order of precedence, up to the one that applies.
fn write_assignment(
    circumstances: &Circumstances<'_>,
    release: &Release,
    split: &Split,
    assignment: &Assignment<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    let [name, wanted, version] = assignment_names(circumstances.policy, assignment);
    let cluster = release.versions.get(assignment.version).map(|version| version.cluster.as_str());
    let cluster = cluster.map(|cluster| format!(", cluster {cluster}")).unwrap_or_default();
    writeln!(out, "release   {name}: {version} ({}){cluster}", assignment.reason.code())?;
    let shares = circumstances.shares(assignment.release);
    let holders = shares.iter().filter(|(_, share)| *share > 0).enumerate();
    let holders: Vec<String> = holders
        .map(|(index, (version, share))| {
            let (verb, keys) = if index == 0 { (" holds", " of keys") } else { ("", "") };
            format!("{version}{verb} {}{keys}", percent(*share))
        })
        .collect();
    if !holders.is_empty() {
        writeln!(out, "          {:<17} {}", "shares", holders.join(", "))?;
    }
    let rolled_back = circumstances.rolled_back_of(assignment.release);
    if !rolled_back.is_empty() {
        let default = release.versions.get(release.default).map_or("", |version| version.name.as_str());
        let (names, verb) = (rolled_back.join(", "), if rolled_back.len() == 1 { "is" } else { "are" });
        let words = format!("{names} {verb} rolled back; {default} has taken over the keys");
        writeln!(out, "          {:<17} {words}", "rollback")?;
    }
    for (reason, explanation) in reasons(release, split, assignment, wanted) {
        writeln!(out, "          {reason:<17} {explanation}")?;
    }
    if assignment.reason == AssignmentReason::Fallback {
        writeln!(out, "          {:<17} the upstream of {wanted} is not ready: {version}", "fallback")?;
    }
    if assignment.reason == AssignmentReason::NotCarried {
        let words = format!("baggage has no room for {wanted}, or is not UTF-8: {version}");
        writeln!(out, "          {:<17} {words}", assignment.reason.code())?;
    }
    Ok(())
}

/// Explains each reason in order of precedence: why those before the last did not apply, and why the last did.
fn reasons(
    release: &Release,
    split: &Split,
    assignment: &Assignment<'_>,
    wanted: &str,
) -> Vec<(&'static str, String)> {
    let choice = &assignment.choice;
    let applied = choice.reason;
    let mut reasons = Vec::new();
    let mut add = |reason: AssignmentReason, explanation: String| reasons.push((reason.code(), explanation));

    let header = match release.steer.member() {
        Some(key) => format!("{key} in baggage"),
        None => release.steer.header().unwrap_or_default().to_owned(),
    };
    match applied {
        AssignmentReason::Incoming => add(applied, format!("{header} of the request names {wanted}")),
        AssignmentReason::NoSuchVersion => {
            let kept = match release.steer {
                Steer::Header(_) | Steer::Baggage(_) => ", and stays as it is for the next hop",
                _ => "",
            };
            add(applied, format!("{header} of the request names none of these versions{kept}: {wanted}"));
        }
        _ if release.trust_incoming => {
            add(AssignmentReason::Incoming, format!("no: the request has no {header}"))
        }
        _ => add(AssignmentReason::Incoming, "no: not trusted".to_owned()),
    }
    if matches!(applied, AssignmentReason::Incoming | AssignmentReason::NoSuchVersion) {
        return reasons;
    }
    if applied == AssignmentReason::Match {
        add(applied, format!("the request meets that of {wanted}"));
        return reasons;
    }
    let has_match = release.versions.iter().any(|version| !version.overrides.is_empty());
    add(
        AssignmentReason::Match,
        if has_match { "no: none is met" } else { "no: no version has one" }.to_owned(),
    );

    let Some((source, hash)) = choice.key else {
        let keys: Vec<String> = release.keys.iter().map(describe_key).collect();
        let missing =
            if keys.is_empty() { "hashOn is empty".to_owned() } else { format!("no {}", keys.join(", no ")) };
        add(AssignmentReason::Sticky, format!("no: {missing}"));
        let issued = choice
            .issued
            .as_ref()
            .map(|issued| format!(", who gets a key of that version's: {}", issued.key))
            .unwrap_or_default();
        add(applied, format!("the next in turn: {wanted}{issued}"));
        return reasons;
    };
    let source = describe_key(source);
    if applied == AssignmentReason::Allowed {
        add(applied, format!("{source} is on the list of {wanted}"));
        return reasons;
    }
    if release.versions.iter().any(|version| !version.allow.is_empty()) {
        add(AssignmentReason::Allowed, format!("no: {source} is on no list"));
    }
    if applied == AssignmentReason::ExistingSession {
        add(applied, format!("{source} was issued before startsAt: {wanted}"));
        return reasons;
    }
    if release.starts_at.is_some() {
        add(AssignmentReason::ExistingSession, format!("no: {source} was not issued before startsAt"));
    }
    let found = match release.steer {
        Steer::RandomValueHeader(_) => format!("{source} is the number {hash}"),
        _ => format!("{source} is in bucket {}", hash::bucket(hash)),
    };
    match applied {
        AssignmentReason::Denied => {
            add(applied, format!("{found}, of a version whose list denies it: {wanted}"))
        }
        _ => add(applied, format!("{found}; {wanted} holds {}", describe_buckets(split, choice.version))),
    }
    reasons
}

/// Describes the ranges of buckets that a version holds.
fn describe_buckets(split: &Split, version: usize) -> String {
    let ranges = split.layout().ranges().filter(|(_, holder)| *holder == version);
    let ranges: Vec<String> =
        ranges.map(|(range, _)| format!("{} to {}", range.start, range.end.saturating_sub(1))).collect();
    if ranges.is_empty() { "none".to_owned() } else { ranges.join(", ") }
}

fn write_edits(edits: &[HeaderEdit<'_>], out: &mut impl Write) -> io::Result<()> {
    for HeaderEdit { header, change } in edits {
        match change {
            HeaderChange::Set(value) => writeln!(out, "          with {header}: {value}")?,
            HeaderChange::SetBytes(value) => {
                writeln!(out, "          with {header}: {}", String::from_utf8_lossy(value))?;
            }
            HeaderChange::Add(value) => writeln!(out, "          with one more {header}: {value}")?,
            HeaderChange::Remove => writeln!(out, "          without {header}")?,
        }
    }
    Ok(())
}

/// Describes what a reply answers.
fn describe_cause(policy: &Policy, reply: &Reply) -> String {
    match reply.cause {
        ReplyCause::Probe { asked, .. } => format!("the {} probe", asked.name(policy)),
        ReplyCause::Gate { upstream, reason } => {
            let name = policy.name_of(upstream);
            format!("the gate on upstream {name}, which is not ready: {reason}")
        }
    }
}
