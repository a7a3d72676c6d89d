//! An explanation for programs.

use std::collections::BTreeMap;

use graygate::decision::action::{Action, ForwardEdits, HeaderChange, HeaderEdit};
use graygate::decision::reply::Reply;
use graygate::decision::{Assignment, Decision};
use graygate::policy::Policy;
use graygate::policy::release::steer::Steer;
use graygate::value::hash;
use serde_json::{Value, json};

use super::names::{key, names};

/// One request's explanation.
pub fn value(policy: &Policy, decision: &Decision<'_>) -> Value {
    let assignments = decision.assignments.iter().map(|assignment| assigned(policy, assignment));
    let assignments: Vec<Value> = assignments.collect();
    let mut answer = match &decision.action {
        Action::Forward(edits) => forwarded(edits),
        Action::PassThrough { .. } => edited("pass through", &[]),
        Action::GrpcCheck { edits, .. } => edited("grpc health check", edits),
        Action::Reply(reply) => replied("reply", reply),
        Action::Drain { draining: true, reply } => replied("drain", reply),
        Action::Drain { draining: false, reply } => replied("stop draining", reply),
    };
    if let Value::Object(fields) = &mut answer {
        fields.insert("assignments".to_owned(), Value::Array(assignments));
        let gates: Vec<String> = decision.bypasses.iter().map(|bypass| bypass.describe(policy)).collect();
        fields.insert("gates".to_owned(), json!(gates));
    }
    answer
}

fn assigned(policy: &Policy, assignment: &Assignment<'_>) -> Value {
    let [release, wanted, version] = names(policy, assignment);
    let choice = &assignment.choice;
    let steer = policy.releases.get(assignment.release).map(|release| &release.steer);
    let by_number = matches!(steer, Some(Steer::RandomValueHeader(_)));
    json!({
        "release": release,
        "version": version,
        "reason": assignment.reason.code(),
        "wanted": {"version": wanted, "reason": choice.reason.code()},
        "key": choice.key.map(|(source, _)| key(source)),
        "bucket": choice.key.filter(|_| !by_number).map(|(_, hash)| hash::bucket(hash)),
        "issued": choice.issued.as_ref().map(|issued| &issued.key),
    })
}

fn forwarded(edits: &ForwardEdits<'_>) -> Value {
    let mut answer = edited("forward", &edits.request);
    if let Value::Object(fields) = &mut answer {
        let filter_state: BTreeMap<_, _> = edits.filter_state.iter().copied().collect();
        fields.insert("response".to_owned(), listed(&edits.response));
        fields.insert("filterState".to_owned(), json!(filter_state));
    }
    answer
}

fn edited(action: &str, list: &[HeaderEdit<'_>]) -> Value {
    let mut answer = listed(list);
    if let Value::Object(fields) = &mut answer {
        fields.insert("action".to_owned(), json!(action));
    }
    answer
}

fn listed(edits: &[HeaderEdit<'_>]) -> Value {
    let (mut set, mut add, mut remove) = (BTreeMap::new(), Vec::new(), Vec::new());
    for HeaderEdit { header, change } in edits {
        match change {
            HeaderChange::Set(value) => {
                set.insert(header, value);
            }
            HeaderChange::Add(value) => add.push([header, value]),
            HeaderChange::Remove => remove.push(header),
        }
    }
    json!({"set": set, "add": add, "remove": remove})
}

fn replied(action: &str, reply: &Reply) -> Value {
    let headers: BTreeMap<_, _> = reply.headers.iter().map(|(name, value)| (name, value)).collect();
    let body = String::from_utf8_lossy(&reply.body);
    json!({
        "action": action, "status": reply.status, "headers": headers, "body": body, "details": reply.details,
    })
}
