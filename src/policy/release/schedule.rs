//! `schedule` of a release: the times at which its weights change.

use super::version::{self, Version};
use crate::policy::reader::Value;
use crate::policy::spelling::nearest;
use crate::value::date::Date;
use crate::weights::schedule::WeightChange;

/// Reads `schedule`. The steps must be in ascending order, and each must begin after the one before has ended.
///
/// `versions` come with the index of the default one. They are `None` if they could not be read, which is reported already. Then every name of a version is accepted.
pub fn read(
    value: &Value<'_>,
    versions: Option<(&[Version], usize)>,
    starts_at: Option<Date>,
) -> Option<Vec<WeightChange>> {
    let items = value.list()?;
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
                "{} is before startsAt, and until then all requests get the default version. Use {start} or later.",
                step.at
            ));
        }
        if let Some(last) = steps.last()
            && (step.at < last.at + last.over || step.at == last.at)
        {
            let end = last.at + last.over;
            let least = if last.over.is_zero() { "a time after" } else { "at least" };
            item.problem::<()>(format!("{} is before the step above has ended. Use {least} {end}.", step.at));
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
    let fields = value.object()?;
    let at = fields.get("at").and_then(Value::date);
    let over = fields.duration("over").and_then(|over| match at {
        Some(at) if at + over > Date::LAST => fields.get("over")?.problem(format_args!(
            "the step begins at {at} and would end after the year 9999. Use an earlier at, or a shorter over."
        )),
        _ => Some(over),
    });
    let by_name = fields.get("weights")?;
    let mut weights: Vec<Option<u32>> = vec![None; versions.map_or(0, <[_]>::len)];
    let mut values: Vec<Option<Value<'_>>> = vec![None; weights.len()];
    let mut is_valid = true;
    for (name, weight) in by_name.entries()? {
        let number = weight.whole();
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
                weight.at_key().problem::<()>(match nearest(name, &names) {
                    Some(near) => format!("not a version of this release; did you mean {near:?}?"),
                    None => {
                        format!("not a version of this release; allowed: {}", names.join(", "))
                    }
                });
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
            "{} is missing, but has weight until then. List every version, with 0 for no weight.",
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
