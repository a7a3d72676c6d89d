//! `schedule` of a release: at which times its weights change.

use core::time::Duration;

use super::version::{self, Version};
use crate::policy::reader::Value;
use crate::value::time::Time;
use crate::weights::schedule::WeightChange;

/// The most steps of a schedule.
const STEPS: usize = 100;

/// The longest ramp.
const RAMP: Duration = Duration::from_secs(366 * 86_400);

/// Reads `schedule`. Times are in RFC 3339 and in UTC, and rise; where the versions could not be read, that has
/// been noted, and any name will do.
pub fn read(
    value: &Value<'_>,
    versions: Option<&[Version]>,
    starts_at: Option<Time>,
) -> Option<Vec<WeightChange>> {
    let items = value.list()?;
    if items.len() > STEPS {
        return value.problem(format!("{} steps; allowed: at most {STEPS}", items.len()));
    }
    let mut before: Option<Vec<u32>> =
        versions.map(|versions| versions.iter().map(|version| version.weight).collect());
    let mut steps: Vec<WeightChange> = Vec::new();
    let mut sound = true;
    for item in &items {
        let Some(step) = read_step(item, versions, before.as_deref()) else {
            sound = false;
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
            let (end, than) = (last.at + last.over, if last.over.is_zero() { "later than" } else { "from" });
            item.problem::<()>(format!(
                "{} is before the step above has ended; allowed: {than} {end}",
                step.at
            ));
        }
        before = versions.map(|_| step.weights.clone());
        steps.push(step);
    }
    sound.then_some(steps)
}

fn read_step(
    value: &Value<'_>,
    versions: Option<&[Version]>,
    before: Option<&[u32]>,
) -> Option<WeightChange> {
    let fields = value.object(&["at", "over", "weights"])?;
    let at = fields.require("at", "a time such as 2026-12-01T10:00:00Z").and_then(Value::time);
    let over = fields.read("over", Duration::ZERO, |value| value.duration(Duration::ZERO..=RAMP));
    let named = fields.require("weights", "an object such as {v1: 70, v2: 30}")?;
    let mut weights: Vec<Option<u32>> = vec![None; versions.map_or(0, <[_]>::len)];
    let mut values: Vec<Option<Value<'_>>> = vec![None; weights.len()];
    let mut sound = true;
    for (name, weight) in named.entries()?.iter() {
        let number = weight.integer(0..=u32::MAX);
        sound &= number.is_some();
        let Some(versions) = versions else {
            continue;
        };
        let index = versions.iter().position(|version| version.name == name);
        let slots = index.and_then(|index| Some((weights.get_mut(index)?, values.get_mut(index)?)));
        match slots {
            Some((slot, value)) => (*slot, *value) = (number, Some(weight.clone())),
            None => {
                sound = false;
                let names: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
                weight.problem::<()>(format!("no version of this release; allowed: {}", names.join(", ")));
            }
        }
    }
    // Whoever has no weight yet need not be named. Of the others it is not to be guessed.
    let missing = |(index, weight): &(usize, &Option<u32>)| {
        weight.is_none() && before.and_then(|before| before.get(*index)) != Some(&0)
    };
    let mut missing = weights.iter().enumerate().filter(missing);
    let forgotten = missing.next().and_then(|(index, _)| versions?.get(index));
    if let Some(version) = forgotten.filter(|_| sound) {
        return named.problem(format!(
            "{} is missing, which has weight until then; allowed: all versions, with 0 for none",
            version.name
        ));
    }
    let weights: Vec<u32> = weights.into_iter().map(Option::unwrap_or_default).collect();
    if sound && versions.is_some() {
        version::judge_weights(named, &weights, |index| values.get(index).cloned().flatten())?;
    }
    Some(WeightChange { at: at?, over: over?, weights: sound.then_some(weights)? })
}
