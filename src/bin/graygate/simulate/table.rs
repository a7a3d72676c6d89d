//! Writes a simulation as a table or as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::step::SimulationStep;

/// Writes one line per step: the shares, the users who moved, and the least share that had to move.
pub fn write(names: &[&str], steps: &[SimulationStep], out: &mut impl Write) -> io::Result<()> {
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default().max(8);
    let columns: String = names.iter().map(|name| format!("  {name:>width$}")).collect();
    writeln!(out, "step{columns}     moved      must  who")?;
    for (number, step) in (1..).zip(steps) {
        let all: u64 = step.users.iter().sum();
        let shares = step.users.iter().map(|users| format!("  {:>width$}", percent(*users, all)));
        let shares: String = shares.collect();
        if step.flows.is_empty() {
            writeln!(out, "{number:>4}{shares}")?;
            continue;
        }
        let moves = step.moves();
        let name = |index: usize| names.get(index).copied().unwrap_or_default();
        let who: Vec<String> = moves
            .iter()
            .map(|(from, to, count)| format!("{} -> {}: {count}", name(*from), name(*to)))
            .collect();
        let who = if who.is_empty() { "nobody".to_owned() } else { who.join(", ") };
        let moved = percent(step.moved(), all);
        let must = percent(step.least_moved.into(), 10_000);
        writeln!(out, "{number:>4}{shares}  {moved:>8}  {must:>8}  {who}")?;
    }
    Ok(())
}

/// Writes one JSON object per step.
pub fn write_json(names: &[&str], steps: &[SimulationStep], out: &mut impl Write) -> io::Result<()> {
    for step in steps {
        let by_name = |numbers: Vec<u64>| -> Value {
            names.iter().zip(numbers).map(|(name, number)| ((*name).to_owned(), json!(number))).collect()
        };
        let name = |index: usize| names.get(index).copied().unwrap_or_default();
        let moves = step.moves();
        let moves = moves
            .iter()
            .map(|(from, to, count)| json!({"from": name(*from), "to": name(*to), "users": count}));
        let object = json!({
            "buckets": by_name(step.weights.iter().map(|weight| u64::from(*weight)).collect()),
            "users": by_name(step.users.clone()),
            "moved": step.moved(),
            "moves": moves.collect::<Vec<_>>(),
            "mustMoveBuckets": step.least_moved,
        });
        writeln!(out, "{object}")?;
    }
    Ok(())
}

/// Formats a share in percent, with two decimal places.
pub fn percent(part: u64, all: u64) -> String {
    format!("{:.2} %", part as f64 * 100.0 / all.max(1) as f64)
}
