//! Replies to probes in the health+json form (draft-inadarei-api-health-check).

use serde::ser::{Serialize, Serializer};

use super::result::{ComponentHealth, ComponentResult, ProbeResult, ProbeStatus};
use crate::policy::Policy;
use crate::value::date::Date;
use crate::value::time::millis;

/// Returns the media type of the reply if `accept` includes JSON. The type of the form itself is preferred.
pub fn media_type(accept: &[u8]) -> Option<&'static str> {
    let is_accepted = |name: &str| {
        accept.split(|byte| *byte == b',').any(|range| {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let is_named = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(name.as_bytes()));
            is_named && !parts.any(is_weight_0)
        })
    };
    ["application/health+json", "application/json"].into_iter().find(|name| is_accepted(name))
}

/// Returns whether a parameter of a media range excludes it.
fn is_weight_0(parameter: &[u8]) -> bool {
    parameter.to_ascii_lowercase().starts_with(b"q=0")
        && parameter.iter().skip(2).all(|byte| b"0.".contains(byte))
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    status: &'static str,
    service_id: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<JsonChecks<'a>>,
}

/// The checks by name, in the policy's order. The form has a list for each name, because there may be several
/// checks of one kind.
struct JsonChecks<'a> {
    components: &'a [ComponentResult<'a>],
    today: Date,
}

impl Serialize for JsonChecks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let components = self.components.iter();
        serializer
            .collect_map(components.map(|component| (component.name, [JsonCheck::of(component, self.today)])))
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonCheck {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    required: bool,
}

impl JsonCheck {
    fn of(component: &ComponentResult<'_>, today: Date) -> Self {
        let (status, output) = match component.health {
            ComponentHealth::Ok => ("pass", None),
            ComponentHealth::Excluded => ("pass", Some("excluded".to_owned())),
            ComponentHealth::Doubtful(doubt) => ("warn", Some(doubt.to_string())),
            ComponentHealth::Failed(fault) => ("fail", Some(fault.to_string())),
        };
        JsonCheck {
            status,
            output,
            time: component.age.map(|age| (today - age).to_string()),
            age_milliseconds: component.age.map(millis),
            weight: Some(component.part.weight).filter(|weight| *weight > 0),
            required: component.part.required,
        }
    }
}

/// Returns the body with the result of the probe `name`. With `lists` it includes the result of each check. Only then it
/// asks for today's date.
pub fn body(
    policy: &Policy,
    name: &str,
    result: &ProbeResult<'_>,
    lists: bool,
    today: impl Fn() -> Date,
) -> Vec<u8> {
    let held_back = result.held.iter().map(ToString::to_string);
    let reasons: Vec<String> = held_back.chain(result.score.map(|score| score.to_string())).collect();
    let notes = result.unknown.iter().map(|name| format!("no check {name:?} to exclude"));
    let document = Document {
        status: match result.status {
            ProbeStatus::Passed => "pass",
            ProbeStatus::Degraded => "warn",
            ProbeStatus::Failed => "fail",
        },
        service_id: &policy.name,
        description: name,
        output: (lists && !reasons.is_empty()).then(|| reasons.join("; ")),
        notes: if lists { notes.collect() } else { Vec::new() },
        checks: lists.then(|| JsonChecks { components: &result.components, today: today() }),
    };
    // Text and numbers can always be serialized.
    serde_json::to_vec(&document).unwrap_or_default()
}
