//! A simulation in words: as a table, as JSON, and in sentences.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::step::SimulationStep;
use super::times::{Offset, short};

/// The widest table. If it would be wider, each step has a paragraph instead.
const MAX_WIDTH: usize = 120;

/// A release, and what its steps do to users.
pub struct Simulation<'a> {
    pub release: &'a str,
    /// The names of the versions.
    pub names: Vec<&'a str>,
    /// The number of all users.
    pub users: u64,
    pub steps: Vec<SimulationStep>,
    /// How times are shown.
    pub offset: Offset,
}

impl Simulation<'_> {
    /// Returns the name of a version.
    pub fn name(&self, version: usize) -> &str {
        self.names.get(version).copied().unwrap_or_default()
    }

    /// Returns whether any step has a time.
    pub fn has_times(&self) -> bool {
        self.steps.iter().any(|step| step.at.is_some())
    }

    /// Returns when a step begins, in words.
    pub fn when(&self, number: usize) -> String {
        match self.steps.get(number).and_then(|step| step.at) {
            Some(at) => self.offset.whole(at),
            None if self.has_times() => "at first".to_owned(),
            None => format!("step {}", number + 1),
        }
    }

    /// Returns what the steps move in all.
    pub fn summary(&self) -> String {
        let sum = |of: fn(&SimulationStep) -> u64| self.steps.iter().map(of).sum::<u64>();
        let (moved, must) = (sum(SimulationStep::moved), sum(|step| step.must_move));
        let back = sum(|step| step.moved_back);
        let needed = match moved == must {
            true => "no more than the weights need".to_owned(),
            false => format!("of which the weights need {}", grouped(must)),
        };
        format!("{} moves between versions, {needed}, and {} moved back", grouped(moved), grouped(back))
    }

    /// Returns a sentence on a step, for people who do not see the picture.
    pub fn sentence(&self, number: usize) -> String {
        let Some(step) = self.steps.get(number) else {
            return String::new();
        };
        let shares = step.weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let shares: Vec<String> =
            shares.map(|(version, weight)| format!("{} {}", self.name(version), share(*weight))).collect();
        let over = match step.over {
            Duration::ZERO => String::new(),
            over => format!(", gradually over {}", short(over)),
        };
        let when = self.when(number);
        let begin = format!("{}{over}: {}.", capitalized(&when), shares.join(", "));
        if step.flows.is_empty() {
            return begin;
        }
        let [moved, must] = [step.moved(), step.must_move].map(|users| percent(users, self.users));
        format!("{begin} {moved} of the users moved, {must} had to, {} moved back.", grouped(step.moved_back))
    }

    /// Writes one line per step: the shares, the users who moved, those who had to, and those who moved back.
    pub fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "release {}, {} users", self.release, self.users)?;
        let width = self.names.iter().map(|name| name.len()).max().unwrap_or_default().max(8);
        let labels: Vec<String> = (0..self.steps.len()).map(|number| self.label(number)).collect();
        let label_width = labels.iter().map(String::len).max().unwrap_or_default().max(4);
        if label_width + (width + 2) * self.names.len() > MAX_WIDTH {
            self.write_paragraphs(&labels, out)?;
        } else {
            let columns: String = self.names.iter().map(|name| format!("  {name:>width$}")).collect();
            writeln!(out, "{:<label_width$}{columns}     moved      must      back  who", "step")?;
            for (step, label) in self.steps.iter().zip(&labels) {
                let shares: String = step
                    .users
                    .iter()
                    .map(|users| format!("  {:>width$}", percent(*users, self.users)))
                    .collect();
                write!(out, "{label:<label_width$}{shares}")?;
                if !step.flows.is_empty() {
                    let [moved, must, back] = self.moves_of(step);
                    write!(out, "  {moved:>8}  {must:>8}  {back:>8}  {}", self.who(step))?;
                }
                writeln!(out)?;
            }
        }
        if self.steps.len() > 1 {
            writeln!(out, "in all: {}", self.summary())?;
        }
        Ok(())
    }

    /// Writes a paragraph per step, with a line for each version that has users or had some.
    fn write_paragraphs(&self, labels: &[String], out: &mut impl Write) -> io::Result<()> {
        let mut before: Option<&SimulationStep> = None;
        for (step, label) in self.steps.iter().zip(labels) {
            writeln!(out, "\n{label}")?;
            for (version, users) in step.users.iter().enumerate() {
                let had = before.and_then(|before| before.users.get(version)).is_some_and(|users| *users > 0);
                if *users > 0 || had {
                    writeln!(out, "  {:>8}  {}", percent(*users, self.users), self.name(version))?;
                }
            }
            if !step.flows.is_empty() {
                let [moved, must, back] = self.moves_of(step);
                writeln!(out, "  moved {moved}, must {must}, back {back}")?;
                writeln!(out, "  {}", self.who(step))?;
            }
            before = Some(step);
        }
        writeln!(out)
    }

    /// Returns the shares of the users who moved, who had to, and who moved back.
    fn moves_of(&self, step: &SimulationStep) -> [String; 3] {
        [step.moved(), step.must_move, step.moved_back].map(|users| percent(users, self.users))
    }

    /// Returns the number of a step, and its time if there is one.
    fn label(&self, number: usize) -> String {
        if !self.has_times() {
            return format!("{:>4}", number + 1);
        }
        let over = self.steps.get(number).map(|step| step.over).filter(|over| !over.is_zero());
        let over = over.map(|over| format!(", over {}", short(over))).unwrap_or_default();
        format!("{:>4}  {}{over}", number + 1, self.when(number))
    }

    /// Returns the moves between versions, in words.
    pub fn who(&self, step: &SimulationStep) -> String {
        let moves = step.moves();
        let one = |(from, to, users): &(usize, usize, u64)| {
            format!("{} -> {}: {users}", self.name(*from), self.name(*to))
        };
        if moves.is_empty() {
            "nobody".to_owned()
        } else {
            moves.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }

    /// Writes one JSON object per step.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        for step in &self.steps {
            let by_name = |numbers: Vec<u64>| -> Value {
                self.names
                    .iter()
                    .zip(numbers)
                    .map(|(name, number)| ((*name).to_owned(), json!(number)))
                    .collect()
            };
            let shares = self.names.iter().zip(&step.weights);
            let shares = shares.map(|(name, weight)| ((*name).to_owned(), json!(f64::from(*weight) / 100.0)));
            let moves = step.moves();
            let moves = moves.iter().map(
                |(from, to, count)| json!({"from": self.name(*from), "to": self.name(*to), "users": count}),
            );
            let object = json!({
                "at": step.at.map(|at| at.to_string()),
                "overSeconds": step.over.as_secs_f64(),
                "sharesPercent": shares.collect::<Value>(),
                "users": by_name(step.users.clone()),
                "movedUsers": step.moved(),
                "moves": moves.collect::<Vec<_>>(),
                "movedBackUsers": step.moved_back,
                "mustMoveUsers": step.must_move,
                "mustMovePercent": f64::from(step.must_move_buckets) / 100.0,
            });
            writeln!(out, "{object}")?;
        }
        Ok(())
    }
}

/// Formats a share in percent, with two decimal places.
pub fn percent(part: u64, all: u64) -> String {
    format!("{:.2} %", part as f64 * 100.0 / all.max(1) as f64)
}

/// Formats hundredths of a percent with no more decimal places than needed.
pub fn share(hundredths: u32) -> String {
    format!("{} %", f64::from(hundredths) / 100.0)
}

/// Returns a number with a comma after each thousand.
pub fn grouped(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1_000), number % 1_000),
    }
}

fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}
