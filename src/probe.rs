//! Probes: which request is a probe, and what it is told.
//!
//! A probe is a GET or HEAD of a probe's exact path, whatever its query. An upstream on trial counts as
//! ready here: without traffic no trial would end, and a failed readiness keeps the traffic away.

use core::fmt::Write;

use crate::policy::Policy;
use crate::policy::probe::Probe;
use crate::readiness::{Readiness, Standing};
use crate::reply::{Cause, Reply};
use crate::request::{self, Headers, Request};

/// The probe that the request is, if it is one.
pub fn find<'p: 'r, 'r, R: Request>(policy: &'p Policy, request: &mut Headers<'r, R>) -> Option<&'p Probe> {
    if policy.probes.is_empty() {
        return None;
    }
    let path = request::path(request.get(":path")?);
    let probe = policy.probes.iter().find(|probe| probe.path.as_bytes() == path)?;
    matches!(request.get(":method"), Some(b"GET" | b"HEAD")).then_some(probe)
}

/// The answer to a probe: 200 or 503, and a line for each check in the manner of the Kubernetes API server.
pub fn answer(policy: &Policy, probe: &Probe, readiness: &impl Readiness) -> Reply {
    let mut body = String::new();
    let mut passed = true;
    for id in &probe.checks {
        let name = policy.upstream(*id).map_or("", |upstream| upstream.name.as_str());
        // Writing to a String can't fail.
        let _ = match readiness.standing(*id) {
            Standing::Ready => writeln!(body, "[+]{name} ok"),
            Standing::Trial(_) => writeln!(body, "[+]{name} ok: on trial"),
            Standing::NotReady(reason) => {
                passed = false;
                writeln!(body, "[-]{name} failed: {reason}")
            }
        };
    }
    let (status, verdict) = if passed { (200, "passed") } else { (503, "failed") };
    let _ = writeln!(body, "policy {}: {} {verdict}", policy.name, probe.kind.name());
    Reply {
        status,
        headers: [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        body,
        details: format!("graygate_probe{{{}|{}}}", policy.name, probe.kind.name()),
        cause: Cause::Probe { kind: probe.kind, passed },
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::policy::upstream::UpstreamId;
    use crate::readiness::check::CheckFailure;
    use crate::readiness::{Permit, Reason};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct Ask(&'static str, &'static [u8]);

    impl Request for Ask {
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            match name {
                ":method" => Some(Cow::Borrowed(self.0.as_bytes())),
                ":path" => Some(Cow::Borrowed(self.1)),
                _ => None,
            }
        }
    }

    struct Known(Vec<Standing>);

    impl Readiness for Known {
        fn standing(&self, upstream: UpstreamId) -> Standing {
            self.0[upstream.0]
        }

        fn lend(&mut self, _: UpstreamId) -> Option<Permit> {
            panic!("a probe needs no permit")
        }
    }

    fn policy() -> Policy {
        let text = br#"{"name":"shop","upstreams":{"app":{"cluster":"app"},"db":{"cluster":"db"}},
            "probes":{"liveness":{"path":"/livez"},
                "readiness":{"path":"/readyz","checks":[{"upstream":"app"},{"upstream":"db"}]}}}"#;
        Policy::from_json(text).unwrap()
    }

    fn found(method: &'static str, path: &'static [u8]) -> Option<&'static str> {
        let policy = policy();
        find(&policy, &mut Headers::new(&Ask(method, path))).map(|probe| probe.kind.name())
    }

    fn answered(probe: usize, standings: [Standing; 2]) -> (u32, String) {
        let policy = policy();
        let reply = answer(&policy, &policy.probes[probe], &Known(standings.to_vec()));
        (reply.status, reply.body)
    }

    #[test]
    fn a_get_or_head_of_the_exact_path_is_a_probe_whatever_its_query() {
        assert_eq!(found("GET", b"/livez"), Some("liveness"));
        assert_eq!(found("HEAD", b"/readyz"), Some("readiness"));
        assert_eq!(found("GET", b"/readyz?verbose&x=/livez"), Some("readiness"));
        assert_eq!(found("GET", b"/livez?\xff"), Some("liveness"));
    }

    #[test]
    fn any_other_path_or_method_is_not() {
        for path in [&b"/"[..], b"", b"/livez/", b"/livezz", b"/LIVEZ", b"/a?/livez", b"/livez\xff", b"livez"]
        {
            assert_eq!(found("GET", path), None, "{path:?}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", ""] {
            assert_eq!(found(method, b"/livez"), None, "{method}");
        }
    }

    #[test]
    fn liveness_depends_on_nothing() {
        let down = Standing::NotReady(Reason::TrialFailed);
        assert_eq!(answered(0, [down, down]), (200, "policy shop: liveness passed\n".to_owned()));
    }

    #[test]
    fn readiness_passes_while_every_upstream_is_ready_or_on_trial() {
        let body = "[+]app ok\n[+]db ok: on trial\npolicy shop: readiness passed\n";
        assert_eq!(answered(1, [Standing::Ready, Standing::Trial(Reason::WaitOver)]), (200, body.to_owned()));
    }

    #[test]
    fn readiness_fails_with_one_upstream_that_is_not_ready_and_says_why() {
        let down = Standing::NotReady(Reason::CheckFailed(CheckFailure::Status(500)));
        let body = "[+]app ok\n[-]db failed: check-failed: status 500\npolicy shop: readiness failed\n";
        assert_eq!(answered(1, [Standing::Ready, down]), (503, body.to_owned()));
    }

    #[test]
    fn an_answer_is_never_cached_and_names_policy_and_probe_in_its_details() {
        let policy = policy();
        let reply = answer(&policy, &policy.probes[1], &Known(vec![Standing::Ready; 2]));
        assert!(reply.headers.contains(&("cache-control".to_owned(), "no-store".to_owned())));
        assert_eq!(reply.details, "graygate_probe{shop|readiness}");
        assert_eq!(reply.cause, Cause::Probe { kind: policy.probes[1].kind, passed: true });
    }
}
