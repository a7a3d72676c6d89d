//! Examples of all log lines for the reference page, each as the filter writes it.

use strum::IntoEnumIterator;

use super::{Event, EventVariant};
use crate::policy::Policy;
use crate::policy::problem::Problem;
use crate::policy::upstream::UpstreamId;
use crate::proxy::{Level, NotSent};
use crate::readiness::check::CheckFailure;
use crate::readiness::{Transition, UpstreamReason};
use crate::rollback::{BadCount, RollbackCause, RollbackFinding};
use crate::worker::metric::LifecycleChange;

/// One kind of log line.
pub struct LogLine {
    /// What the lines are about.
    pub title: &'static str,
    /// When the filter writes such a line.
    pub when: &'static str,
    /// What to do about it. Empty if nothing is to do.
    pub remedy: &'static str,
    /// Examples with their levels.
    pub examples: Vec<(Level, String)>,
}

/// The policy of the examples.
const POLICY: &str = r#"{
    "name": "shop",
    "upstreams": {
        "cart": {"cluster": "cart", "readinessProbe": {"httpGet": {"path": "/healthz"}}},
        "shop-v1": {"cluster": "shop-v1"},
        "shop-v2": {"cluster": "shop-v2", "circuitBreaker": {}}
    },
    "probes": {"readiness": {"path": "/readyz", "passThrough": {"cacheSeconds": 1, "upstream": "cart"}}},
    "releases": [{
        "name": "web",
        "steer": {"header": "x-gray-version"},
        "hashOn": [{"httpHeaderName": "x-user-id"}],
        "versions": [
            {"name": "v1", "upstream": "shop-v1", "weight": 90, "default": true},
            {"name": "v2", "upstream": "shop-v2", "weight": 10}
        ],
        "startsAt": "2026-12-01T09:00:00Z",
        "schedule": [{"at": "2026-12-01T10:00:00Z", "weights": {"v1": 50, "v2": 50}}],
        "rollback": {"failurePercent": 5, "latency": {"percentile": 99, "above": "300ms"}}
    }],
    "gates": [{"match": [{"uri": {"prefix": "/cart"}}], "upstream": "cart", "whenAllNotReady": "forward"}]
}"#;

/// Returns the title of a kind of line, when it is written, and what to do. `None` if the event is not logged.
fn describe(variant: EventVariant) -> Option<[&'static str; 3]> {
    Some(match variant {
        EventVariant::Problem => [
            "A problem of a policy",
            "A document is wrong. The filter writes one line for each problem.",
            "Mend the document. `graygate check` prints the same problems with file and line.",
        ],
        EventVariant::MoreProblems => [
            "More problems",
            "A wrong document has more problems than the filter logs.",
            "Use `graygate check` to see all of them.",
        ],
        EventVariant::Instead => [
            "What replaces a wrong policy",
            "A document with `onWrongPolicy: lastGood` is wrong.",
            "Mend the document. `graygate_policy_refused` stays 1 until a good one is in use.",
        ],
        EventVariant::PolicyLoaded => [
            "A policy is in use",
            "The first worker of a proxy has loaded a document that is new to the proxy.",
            "",
        ],
        EventVariant::Transition => [
            "An upstream changes its phase",
            "An upstream has entered another phase. It is a warning if the upstream stops or begins to serve.",
            "Look up the reason in [reasons](reasons.md#readiness-of-an-upstream).",
        ],
        EventVariant::ScheduleStep => {
            ["A step of a schedule", "A release has reached `startsAt` or a step of its `schedule`.", ""]
        }
        EventVariant::RolledBack => [
            "A rollback",
            "A version was worse than its limit and than the default version. It holds no users by weight until the release changes in the policy. `match` and `allow` still lead to it.",
            "Find out what is wrong with the version. Any change of the release in the policy ends the rollback.",
        ],
        EventVariant::Misrouted => [
            "Requests of a version go elsewhere",
            "The routes send the requests of a version to another cluster or to none.",
            "Add or move the route that the line names, or name the route's own cluster in the policy.",
        ],
        EventVariant::Unreached => [
            "Nothing is known of an upstream",
            "Requests that need an upstream without a check all went to other clusters, so no response tells of it.",
            "Name the cluster of the route in the policy, or give the upstream a `readinessProbe`.",
        ],
        EventVariant::FailsOpen => [
            "A gate begins to fail open",
            "A gate lets requests through although its upstream is not ready.",
            "Look up the reason in [reasons](reasons.md#gates-that-fail-open).",
        ],
        EventVariant::NoLongerFailsOpen => {
            ["A gate no longer fails open", "The upstream is ready again, or its gate is closed again.", ""]
        }
        EventVariant::Lifecycle => [
            "Start and drain",
            "The proxy has started, begins to drain, or stops draining.",
            "If nobody should have ordered a drain, restrict `probes.drain.from`. If an upstream is named, it says that it drains.",
        ],
        EventVariant::CheckNotSent => [
            "A check was not sent",
            "Envoy did not accept a check, after one that it accepted. The line comes once until a check is sent again.",
            "Compare `cluster` in the policy with Envoy's `/clusters`, and see whether the cluster has a host.",
        ],
        EventVariant::ReplyRefused => [
            "A reply was not accepted",
            "Envoy did not accept a reply of the filter, so the request went on.",
            "Report it with the line and Envoy's version.",
        ],
        EventVariant::AppNotCalled => [
            "A probe cannot be passed through",
            "Envoy did not accept a call of the app for `passThrough`. Each probe is then forwarded on its own.",
            "Set `passThrough.upstream` to an upstream whose cluster has a host of its own.",
        ],
        EventVariant::VmDied => [
            "A VM has died",
            "A VM of the plugin has given no sign of life for 20 seconds, so a panic has ended it.",
            "Restart the proxy, unless Envoy makes a new VM by `FAIL_RELOAD`. Report the line of Envoy's log with the stack.",
        ],
        EventVariant::AnswerNotShared => [
            "A response of the app is not kept",
            "The app's response to a probe could not be written to the state that workers share.",
            "If it comes often, report it.",
        ],
        EventVariant::CheckResult => return None,
    })
}

/// Returns examples of all events.
fn events<'e>(policy: &'e Policy, problem: &'e Problem) -> Vec<Event<'e>> {
    let upstream = UpstreamId(0);
    let (release, version) = (0, 1);
    let change = |from, to, reason| Event::Transition {
        policy,
        upstream,
        transition: Transition { from, to, reason },
    };
    let finding = |cause, limit, bad| RollbackFinding {
        version,
        cause,
        limit,
        counts: BadCount { all: 400, bad },
        default: BadCount { all: 3_600, bad: 12 },
    };
    vec![
        Event::Problem(problem),
        Event::MoreProblems(7),
        Event::Instead { whose: "shop", is_last_good: true },
        Event::Instead { whose: "shop", is_last_good: false },
        Event::PolicyLoaded { policy },
        change("ready", "not-ready", UpstreamReason::CheckFailed(CheckFailure::Status(503))),
        change("ready", "not-ready", UpstreamReason::ConsecutiveFailures(5)),
        change("not-ready", "trial", UpstreamReason::WaitOver),
        change("trial", "ready", UpstreamReason::TrialPassed),
        Event::ScheduleStep { policy, release, begun: 1 },
        Event::ScheduleStep { policy, release, begun: 2 },
        Event::RolledBack { policy, release, finding: finding(RollbackCause::Failures, 5, 52) },
        Event::RolledBack { policy, release, finding: finding(RollbackCause::Latency, 1, 31) },
        Event::Misrouted { policy, release, version, to: Some("shop-v1") },
        Event::Misrouted { policy, release, version, to: None },
        Event::Unreached { policy, upstream, requests: 20, to: "cart-all" },
        Event::FailsOpen { policy, upstream: "cart", why: "all-not-ready" },
        Event::NoLongerFailsOpen { policy, upstream: "cart" },
        Event::Lifecycle { policy, change: LifecycleChange::Started, upstream: None },
        Event::Lifecycle { policy, change: LifecycleChange::Draining, upstream: None },
        Event::Lifecycle { policy, change: LifecycleChange::Draining, upstream: Some(upstream) },
        Event::Lifecycle { policy, change: LifecycleChange::NotDraining, upstream: None },
        Event::CheckResult { policy, upstream, passed: true },
        Event::CheckNotSent { policy, upstream, why: NotSent::NoCluster, is_first: true },
        Event::CheckNotSent { policy, upstream, why: NotSent::NoHost, is_first: true },
        Event::ReplyRefused { policy, details: "graygate_probe{shop|readiness}" },
        Event::AppNotCalled { policy, endpoint: 0, cluster: "cart", why: NotSent::NoHost },
        Event::VmDied { plugin: "graygate" },
        Event::AnswerNotShared { policy },
    ]
}

/// Returns all kinds of log lines, in the order in which [`Event`] has them. Empty if the policy of the examples is wrong,
/// which a test rules out.
pub fn log_lines() -> Vec<LogLine> {
    let Ok(policy) = Policy::from_json(POLICY.as_bytes()) else {
        return Vec::new();
    };
    let wrong = POLICY.replace("\"failurePercent\"", "\"failurePrecent\"");
    let problems = Policy::from_json(wrong.as_bytes()).err();
    let Some(problem) = problems.as_ref().and_then(|problems| problems.iter().next()) else {
        return Vec::new();
    };
    let events = events(&policy, problem);
    EventVariant::iter()
        .filter_map(|variant| {
            let [title, when, remedy] = describe(variant)?;
            let own = events.iter().filter(|event| EventVariant::from(*event) == variant);
            Some(LogLine { title, when, remedy, examples: own.filter_map(Event::line).collect() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_event_has_an_example() {
        let lines = log_lines();
        let described = EventVariant::iter().filter(|variant| describe(*variant).is_some());
        assert_eq!(lines.len(), described.count());
        for line in lines {
            assert!(!line.examples.is_empty(), "{}", line.title);
        }
    }

    #[test]
    fn each_event_without_a_description_has_no_line() {
        let policy = Policy::from_json(POLICY.as_bytes()).unwrap();
        let problem = Problem { path: String::new(), message: String::new() };
        for event in events(&policy, &problem) {
            let is_described = describe(EventVariant::from(&event)).is_some();
            assert_eq!(is_described, event.line().is_some());
        }
    }
}
