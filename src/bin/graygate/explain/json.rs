//! Explanations in JSON, for programs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use graygate::decision::action::{Action, ForwardEdits, HeaderChange, HeaderEdit};
use graygate::decision::reply::Reply;
use graygate::decision::{Assignment, Decision};
use graygate::policy::release::steer::Steer;
use graygate::value::date::Date;
use graygate::value::hash;
use serde_json::{Value, json};

use super::circumstances::Circumstances;
use super::names::{assignment_names, describe_key};
use super::sample::SampleRequest;
use crate::wording::describe_date;

/// Returns the explanation of one request as an object.
pub fn value(circumstances: &Circumstances<'_>, request: &SampleRequest, decision: &Decision<'_>) -> Value {
    let policy = circumstances.policy;
    let assignments: Vec<Value> =
        decision.assignments.iter().map(|assignment| assignment_value(circumstances, assignment)).collect();
    let mut explanation = match &decision.action {
        Action::Forward(edits) => forward_value(edits),
        Action::PassThrough { .. } => action_value("pass through", &[]),
        Action::Status => action_value("status page", &[]),
        Action::GrpcCheck { edits, .. } => action_value("grpc health check", edits),
        Action::Reply(reply) => reply_value("reply", reply),
        Action::Drain { draining: true, reply } => reply_value("drain", reply),
        Action::Drain { draining: false, reply } => reply_value("stop draining", reply),
    };
    if let Value::Object(fields) = &mut explanation {
        fields.insert("assignments".to_owned(), Value::Array(assignments));
        let gates: Vec<String> = decision.bypasses.iter().map(|bypass| bypass.describe(policy)).collect();
        fields.insert("gates".to_owned(), json!(gates));
        fields.insert("routeAssumed".to_owned(), json!(request.assumes_route()));
        fields.insert("policy".to_owned(), json!(policy.name));
        fields.insert("time".to_owned(), json!(describe_date(circumstances.state.date)));
        fields.insert("notReadyUpstreams".to_owned(), json!(circumstances.state.not_ready_names()));
    }
    explanation
}

/// Returns the explanation of a request that is for no policy.
pub fn unmanaged(date: Date) -> Value {
    let mut explanation = forward_value(&ForwardEdits::default());
    if let Value::Object(fields) = &mut explanation {
        fields.insert("assignments".to_owned(), json!([]));
        fields.insert("gates".to_owned(), json!([]));
        fields.insert("policy".to_owned(), Value::Null);
        fields.insert("time".to_owned(), json!(describe_date(date)));
        fields.insert("notReadyUpstreams".to_owned(), json!([]));
        fields.insert("routeAssumed".to_owned(), json!(false));
    }
    explanation
}

fn assignment_value(circumstances: &Circumstances<'_>, assignment: &Assignment<'_>) -> Value {
    let policy = circumstances.policy;
    let [release, wanted, version] = assignment_names(policy, assignment);
    let choice = &assignment.choice;
    let found = policy.releases.get(assignment.release);
    let steer = found.map(|release| &release.steer);
    let cluster = found.and_then(|release| release.versions.get(assignment.version));
    let shares = circumstances.shares(assignment.release).into_iter();
    let shares: BTreeMap<&str, f64> =
        shares.map(|(version, share)| (version, f64::from(share) / 100.0)).collect();
    let steers_by_number = matches!(steer, Some(Steer::RandomValueHeader(_)));
    json!({
        "release": release,
        "version": version,
        "cluster": cluster.map(|version| &version.cluster),
        "reason": assignment.reason.code(),
        "sharesPercent": shares,
        "rolledBack": circumstances.rolled_back_of(assignment.release),
        "wanted": {"version": wanted, "reason": choice.reason.code()},
        "key": choice.key.map(|(source, _)| describe_key(source)),
        "bucket": choice.key.filter(|_| !steers_by_number).map(|(_, hash)| hash::bucket(hash)),
        "issued": choice.issued.as_ref().map(|issued| &issued.key),
    })
}

fn forward_value(edits: &ForwardEdits<'_>) -> Value {
    let mut forward = action_value("forward", &edits.request);
    if let Value::Object(fields) = &mut forward {
        let filter_state: BTreeMap<_, _> = edits.filter_state.iter().copied().collect();
        fields.insert("response".to_owned(), edits_value(&edits.response));
        fields.insert("filterState".to_owned(), json!(filter_state));
    }
    forward
}

fn action_value(name: &str, edits: &[HeaderEdit<'_>]) -> Value {
    let mut action = edits_value(edits);
    if let Value::Object(fields) = &mut action {
        fields.insert("action".to_owned(), json!(name));
    }
    action
}

fn edits_value(edits: &[HeaderEdit<'_>]) -> Value {
    let mut set = BTreeMap::new();
    let mut add = Vec::new();
    let mut remove = Vec::new();
    for HeaderEdit { header, change } in edits {
        match change {
            HeaderChange::Set(value) => {
                set.insert(header, Cow::Borrowed(value.as_ref()));
            }
            HeaderChange::SetBytes(value) => {
                set.insert(header, String::from_utf8_lossy(value));
            }
            HeaderChange::Add(value) => add.push([header, value]),
            HeaderChange::Remove => remove.push(header),
        }
    }
    json!({"set": set, "add": add, "remove": remove})
}

fn reply_value(action: &str, reply: &Reply) -> Value {
    let headers: BTreeMap<_, _> = reply.headers.iter().map(|(name, value)| (name, value)).collect();
    let body = String::from_utf8_lossy(&reply.body);
    // Without a grpcStatus of its own, a gRPC request gets the one that the proxy maps the status to.
    json!({
        "action": action, "status": reply.status, "grpcStatus": reply.grpc_status, "headers": headers,
        "body": body, "details": reply.details,
    })
}
