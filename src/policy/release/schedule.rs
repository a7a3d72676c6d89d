//! `schedule` of a release: the times at which its weights change.

use core::time::Duration;

use super::version::{self, Version};
use crate::policy::keys;
use crate::policy::reader::Value;
use crate::value::date::Date;
use crate::weights::schedule::WeightChange;

const MAX_STEPS: usize = 100;

/// The longest time over which a step may change the weights.
const MAX_RAMP: Duration = Duration::from_secs(366 * 86_400);

/// Reads `schedule`. The steps must be in ascending order, and each must begin after the one before has ended.
///
/// `versions` come with the index of the default one. They are `None` if they could not be read, which is reported already. Then every name of a version is accepted.
pub fn read(
    value: &Value<'_>,
    versions: Option<(&[Version], usize)>,
    starts_at: Option<Date>,
) -> Option<Vec<WeightChange>> {
    let items = value.list()?;
    if items.len() > MAX_STEPS {
        return value.problem(format!("{} steps; allowed: at most {MAX_STEPS}", items.len()));
    }
    let mut weights_before: Option<Vec<u32>> =
        versions.map(|(versions, _)| versions.iter().map(|version| version.weight).collect());
    let mut steps: Vec<WeightChange> = Vec::new();
    let mut is_valid = true;
    for item in &items {
        let Some(step) = read_step(item, versions, weights_before.as_deref()) else {
            is_valid = false;
            continue;
        };
        if let Some(start) = starts_at.filter(|start| step.at < *start) {
            item.problem::<()>(format!(
                "{} is before startsAt, until when all have the default version; allowed: from {start} on",
                step.at
            ));
        }
        if let Some(last) = steps.last()
            && (step.at < last.at + last.over || step.at == last.at)
        {
            let end = last.at + last.over;
            let relation = if last.over.is_zero() { "later than" } else { "from" };
            item.problem::<()>(format!(
                "{} is before the step above has ended; allowed: {relation} {end}",
                step.at
            ));
        }
        weights_before = versions.map(|_| step.weights.clone());
        steps.push(step);
    }
    is_valid.then_some(steps)
}

/// Reads one step. `weights_before` are the weights until then.
fn read_step(
    value: &Value<'_>,
    versions: Option<(&[Version], usize)>,
    weights_before: Option<&[u32]>,
) -> Option<WeightChange> {
    let default = versions.map_or(0, |(_, default)| default);
    let versions = versions.map(|(versions, _)| versions);
    let fields = value.object(&keys::STEP)?;
    let at = fields.require("at", "a time such as 2026-12-01T10:00:00Z").and_then(Value::date);
    let over = fields.read("over", Duration::ZERO, |value| {
        let over = value.duration(Duration::ZERO..=MAX_RAMP)?;
        match at {
            Some(at) if at + over > Date::LAST => value.problem(format!(
                "the step begins at {at} and would end after the year 9999; allowed: an earlier at, or a shorter over"
            )),
            _ => Some(over),
        }
    });
    let by_name = fields.require("weights", "an object such as {v1: 70, v2: 30}")?;
    let mut weights: Vec<Option<u32>> = vec![None; versions.map_or(0, <[_]>::len)];
    let mut values: Vec<Option<Value<'_>>> = vec![None; weights.len()];
    let mut is_valid = true;
    for (name, weight) in by_name.entries()?.iter() {
        let number = weight.integer(0..=u32::MAX);
        is_valid &= number.is_some();
        let Some(versions) = versions else {
            continue;
        };
        let index = versions.iter().position(|version| version.name == name);
        let slots = index.and_then(|index| Some((weights.get_mut(index)?, values.get_mut(index)?)));
        match slots {
            Some((number_slot, value_slot)) => {
                *number_slot = number;
                *value_slot = Some(weight.clone());
            }
            None => {
                is_valid = false;
                let names: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
                weight
                    .at_key()
                    .problem::<()>(format!("no version of this release; allowed: {}", names.join(", ")));
            }
        }
    }
    // A version whose weight is 0 until then may be left out. For any other, its new weight would be a guess.
    let is_missing = |(index, weight): &(usize, &Option<u32>)| {
        weight.is_none() && weights_before.and_then(|before| before.get(*index)) != Some(&0)
    };
    let mut missing = weights.iter().enumerate().filter(is_missing);
    let first_missing = missing.next().and_then(|(index, _)| versions?.get(index));
    if let Some(version) = first_missing.filter(|_| is_valid) {
        return by_name.problem(format!(
            "{} is missing, which has weight until then; allowed: all versions, with 0 for none",
            version.name
        ));
    }
    let weights: Vec<u32> = weights.into_iter().map(Option::unwrap_or_default).collect();
    if is_valid && versions.is_some() {
        version::validate_weights(by_name, &weights, default, |index| values.get(index).cloned().flatten())?;
    }
    if !is_valid {
        return None;
    }
    Some(WeightChange { at: at?, over: over?, weights })
}
