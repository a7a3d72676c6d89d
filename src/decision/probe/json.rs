//! An answer in the health+json form (draft-inadarei-api-health-check).

use serde::ser::{Serialize, Serializer};

use super::result::{ComponentHealth, ComponentResult, ProbeResult, ProbeStatus};
use crate::policy::Policy;
use crate::value::time::millis;

/// The media type to answer in, where `accept` asks for JSON: the form's own, if it is among those.
pub fn media_type(accept: &[u8]) -> Option<&'static str> {
    let accepts = |name: &str| {
        accept.split(|byte| *byte == b',').any(|range| {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let named = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(name.as_bytes()));
            // With the weight 0 it is the one thing that is not wanted.
            named
                && !parts.any(|part| {
                    part.to_ascii_lowercase().starts_with(b"q=0")
                        && part.iter().skip(2).all(|c| b"0.".contains(c))
                })
        })
    };
    ["application/health+json", "application/json"].into_iter().find(|name| accepts(name))
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

/// The checks by name, in the policy's order. The form has a list for each, as there might be several of a
/// kind.
struct JsonChecks<'a>(&'a [ComponentResult<'a>]);

impl Serialize for JsonChecks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|component| (component.name, [JsonCheck::of(component)])))
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
    fn of(component: &ComponentResult<'_>) -> Self {
        let (status, output) = match component.health {
            ComponentHealth::Ok => ("pass", None),
            ComponentHealth::Excluded => ("pass", Some("excluded".to_owned())),
            ComponentHealth::Doubtful(doubt) => ("warn", Some(doubt.to_string())),
            ComponentHealth::Failed(fault) => ("fail", Some(fault.to_string())),
        };
        JsonCheck {
            status,
            output,
            time: component.last_result.map(|(last_result_at, _)| last_result_at.to_string()),
            age_milliseconds: component.last_result.map(|(_, age)| millis(age)),
            weight: Some(component.part.weight).filter(|weight| *weight > 0),
            required: component.part.required,
        }
    }
}

/// The body that says the verdict on `name`, and, with `lists`, what it rests on.
pub fn body(policy: &Policy, name: &str, result: &ProbeResult<'_>, lists: bool) -> Vec<u8> {
    let held = result.held.iter().map(|(_, reason)| (*reason).to_owned());
    let reasons: Vec<String> = held.chain(result.score.map(|score| score.to_string())).collect();
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
        checks: lists.then_some(JsonChecks(&result.components)),
    };
    // Texts and numbers alone: there is nothing in it that could not be written.
    serde_json::to_vec(&document).unwrap_or_default()
}
