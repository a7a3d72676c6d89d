//! The page of reasons: all codes in metrics, logs, replies and access logs.

use core::time::Duration;

use graygate::decision::gate::GateAction;
use graygate::decision::gate::fail_open::FailOpen;
use graygate::decision::probe::UNKNOWN;
use graygate::decision::probe::drain::DrainReply;
use graygate::decision::probe::health::call::HealthResponse;
use graygate::decision::probe::result::{Doubt, DrainReason, Fault, HeldBack, ProbeStatus};
use graygate::decision::probe::status::StatusReply;
use graygate::decision::release::AssignmentReason;
use graygate::readiness::check::CheckFailure;
use graygate::readiness::{Phase, UpstreamReason};
use graygate::rollback::RollbackCause;
use graygate::value::code::CodeSpec;
use graygate::worker::metric::{CheckCount, LifecycleChange, ResponseCount};
use strum::IntoEnumIterator;

use super::markdown::{code, head, table};

const INTRO: &str = "\
A code is a fixed word in a metric, a log line, a reply or an access log. Each kind of code has a table here.

In Envoy's access log, `%RESPONSE_CODE_DETAILS%` marks the filter's own replies:

| details | reply of |
|---|---|
| `graygate_gate{POLICY\\|UPSTREAM\\|REASON}` | a gate, with the reason for which its upstream is not ready |
| `graygate_probe{POLICY\\|PROBE}` | a probe, the drain switch (`drain`), the status page (`status`) or the gRPC health service (`grpc`) |

`%FILTER_STATE(wasm.graygate:PLAIN)%` is the label of a request that the filter acts on: `RELEASE=VERSION REASON`, or the
details of a reply. Requests have it in `mode: shadow`, for what the filter would have done, and with `requestLabel: always`.
[Access logs and traces](../how-to/access-logs-and-traces.md#the-label) has every form of it.
";

struct Family {
    title: &'static str,
    about: &'static str,
    codes: Vec<CodeSpec>,
}

fn families() -> Vec<Family> {
    let family = |title, about, codes| Family { title, about, codes };
    vec![
        family(
            "Phases of an upstream",
            "An upstream is in one of four phases, which all workers of a proxy share.",
            Phase::iter().map(|phase| phase.spec()).collect(),
        ),
        family(
            "Readiness of an upstream",
            "The reason for which an upstream is in its phase. *Transitions* are the log line of the upstream and `reason` of \
             `graygate_transitions_total`. *Gates* are `{reason}` in a gate's `body`, `reason` of \
             `graygate_gated_requests_total`, `x-graygate-gate`, and the access log. *Probes* are the bodies of probes.",
            UpstreamReason::iter().map(UpstreamReason::spec).collect(),
        ),
        family(
            "Versions of a release",
            "The reason for which a request got its version. The first one that applies counts, in this order. `fallback` \
             comes last and replaces the one before it.",
            AssignmentReason::iter().map(AssignmentReason::spec).collect(),
        ),
        family(
            "Gates that fail open",
            "The reason for which a gate lets a request through although its upstream is not ready.",
            FailOpen::iter().map(FailOpen::spec).collect(),
        ),
        family(
            "Gates that did not reply",
            "What a closed gate did with a request instead of replying. With `details: never` the header has this word alone.",
            vec![GateAction::FailOpen(FailOpen::AllNotReady).spec(), GateAction::Answer.spec()],
        ),
        family(
            "Rollbacks",
            "The limit that a version exceeded.",
            RollbackCause::iter().map(RollbackCause::spec).collect(),
        ),
        family(
            "Responses of a version",
            "How a response counts in a release with `rollback`.",
            ResponseCount::iter().map(ResponseCount::spec).collect(),
        ),
        family(
            "Checks",
            "The result of an active check.",
            CheckCount::iter().map(CheckCount::spec).collect(),
        ),
        family(
            "Probes",
            "The verdict of a probe. A response that is passed through is `passed` below the status 400, and otherwise `failed`.",
            ProbeStatus::iter().map(ProbeStatus::spec).chain([UNKNOWN]).collect(),
        ),
        family("Drain", "What the drain switch replied.", DrainReply::iter().map(DrainReply::spec).collect()),
        family(
            "Status page",
            "What the status page replied.",
            StatusReply::iter().map(StatusReply::spec).collect(),
        ),
        family(
            "gRPC health",
            "What `grpc.health.v1.Health` replied.",
            HealthResponse::iter().map(HealthResponse::spec).collect(),
        ),
        family(
            "Lifecycle",
            "Changes of the whole proxy.",
            LifecycleChange::iter().map(LifecycleChange::spec).collect(),
        ),
    ]
}

/// Returns the page.
pub fn page() -> String {
    let mut page = head("Reasons", INTRO);
    for Family { title, about, codes } in families() {
        page += &format!("\n## {title}\n\n{about}\n\n");
        // Places that are the same for the whole family are said once.
        let places = codes.first().map_or("", |spec| spec.places);
        if codes.iter().all(|spec| spec.places == places) {
            page += &format!("They appear in: {places}.\n\n");
            let row = |spec: &CodeSpec| [code(spec.code), spec.meaning.to_owned(), remedy(spec)];
            page += &table(["code", "meaning", "what to do"], codes.iter().map(row));
        } else {
            let row = |spec: &CodeSpec| {
                [code(spec.code), spec.places.to_owned(), spec.meaning.to_owned(), remedy(spec)]
            };
            page += &table(["code", "in", "meaning", "what to do"], codes.iter().map(row));
        }
    }
    page += &failures();
    page += &probe_lines();
    page
}

fn remedy(spec: &CodeSpec) -> String {
    if spec.remedy.is_empty() { "nothing".to_owned() } else { spec.remedy.to_owned() }
}

/// Returns the texts that follow the code `check-failed`.
fn failures() -> String {
    let about = "The log and the bodies of probes say after `check-failed` how the last check failed. Numbers are examples.";
    let example = |failure| match failure {
        CheckFailure::Status(_) => CheckFailure::Status(503),
        CheckFailure::GrpcStatus(_) => CheckFailure::GrpcStatus(14),
        CheckFailure::NotServing(_) => CheckFailure::NotServing(2),
        failure => failure,
    };
    let meaning = |failure: CheckFailure| match failure {
        CheckFailure::Status(_) => "The response had this status.",
        CheckFailure::Unreachable => "There was no connection, or it ended before a response.",
        CheckFailure::TimedOut => "There was no response within `timeoutSeconds`.",
        CheckFailure::Broken => "The response broke off, was malformed, or was larger than Envoy buffers.",
        CheckFailure::Redirected => {
            "The check was redirected more often than a kubelet follows, or to an invalid address."
        }
        CheckFailure::GrpcStatus(_) => "The gRPC call ended with this grpc-status.",
        CheckFailure::NotServing(_) => "The gRPC service reported this status, which is not SERVING.",
    };
    let rows = CheckFailure::iter()
        .map(|failure| [code(&example(failure).to_string()), meaning(failure).to_owned()]);
    format!("\n## How a check failed\n\n{about}\n\n{}", table(["text", "meaning"], rows))
}

/// Returns the texts in the lines of a probe's body.
fn probe_lines() -> String {
    let about = "A probe's body has a line for each check, with `[+]` if it passes and `[-]` if it fails. JSON has the same texts in \
                 `output`, and `pass`, `warn` or `fail` as `status`.";
    let doubt = |doubt: Doubt| {
        let meaning = match doubt {
            Doubt::OnTrial => "The upstream is on trial. It counts as ready, or no trial would ever end.",
            Doubt::Stale(_) => {
                "No check has a result for longer than `staleAfterSeconds`. Look for checks that are not sent."
            }
            Doubt::NotChecked => {
                "No check has a result yet. For startup, and with `assume: notReady`, the check fails until then."
            }
        };
        let example =
            if matches!(doubt, Doubt::Stale(_)) { Doubt::Stale(Duration::from_secs(40)) } else { doubt };
        [code(&example.to_string()), meaning.to_owned()]
    };
    let few = Fault::Unverified { answered: true };
    let draining = |reason: DrainReason<'_>| HeldBack::Draining(reason).to_string();
    let fixed = [
        (few.to_string(), "Fewer checks than `successThreshold` have passed since the start."),
        (
            HeldBack::NotStarted.to_string(),
            "The checks of startup have not all passed yet. It holds readiness back, too.",
        ),
        (draining(DrainReason::Ordered), "Someone ordered the proxy to drain."),
        (draining(DrainReason::Upstream("envoy")), "The upstream of `drain.alsoWhen` says that it drains."),
        (draining(DrainReason::Both("envoy")), "Both."),
    ];
    let rows = Doubt::iter().map(doubt).chain(fixed.map(|(text, meaning)| [code(&text), meaning.to_owned()]));
    format!("\n## Lines of a probe\n\n{about}\n\n{}", table(["text", "meaning"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_code_is_explained_once_in_its_family() {
        for Family { title, codes, .. } in families() {
            let names: BTreeSet<_> = codes.iter().map(|spec| spec.code).collect();
            assert_eq!(names.len(), codes.len(), "{title}");
            for spec in codes {
                assert!(!spec.code.is_empty() && !spec.places.is_empty(), "{title}: {}", spec.code);
                assert!(spec.meaning.ends_with('.'), "{title}: {}", spec.code);
            }
        }
    }
}
