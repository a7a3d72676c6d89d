//! One row of steps: the times, the bars with the bands between them, and the numbers of each step.

use std::ops::Range;

use svg::Document;
use svg::node::element::path::Data;
use svg::node::element::{Line, Path as Shape, Rectangle, Title};

use super::palette;
use super::sheet::{LEFT, MARGIN, rounded, text, text_width};
use crate::simulate::step::SimulationStep;
use crate::simulate::table::{Simulation, share};
use crate::simulate::times::short;

/// The opacity of a band of users who stay.
pub const PALE: f64 = 0.22;
/// The opacity of a band of users who move.
pub const STRONG: f64 = 0.85;

/// The height of a bar.
const HEIGHT: f64 = 320.0;
/// The space above the bars, for the times.
const HEAD: f64 = 52.0;
/// The height of a line of numbers.
const LINE: f64 = 19.0;
/// The size of the numbers.
const SIZE: f64 = 11.0;
/// The height from which a part of a bar has its share written on it.
const LABELLED: f64 = 12.0;
/// The lines of numbers under the bars. The first is left out if no step takes time.
const ROWS: [&str; 4] = ["over", "moved", "had to move", "moved back"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Returns the width of a bar.
fn bar(pitch: f64) -> f64 {
    (pitch * 0.45).clamp(26.0, 60.0)
}

/// Returns whether a text fits beside a bar.
pub fn fits_beside(words: &str, pitch: f64) -> bool {
    text_width(words, SIZE) <= pitch - bar(pitch) - 6.0
}

/// A row of steps whose bars begin below `top`. `pitch` is from one bar to the next.
pub struct Row<'a> {
    pub simulation: &'a Simulation<'a>,
    pub steps: Range<usize>,
    pub top: f64,
    pub pitch: f64,
    /// Whether the legend has a number for each version, as the names do not fit beside the bars.
    pub is_numbered: bool,
}

impl Row<'_> {
    /// Adds the row. Returns the picture and where the row ends.
    pub fn add(&self, mut picture: Document) -> (Document, f64) {
        // Draws bands first, so that the bars and their text are on top.
        for number in self.steps.clone().skip(1) {
            picture = self.add_bands(picture, number);
        }
        for number in self.steps.clone() {
            picture = self.add_bar(self.add_times(picture, number), number);
        }
        let y = self.bars_top() + 12.0;
        if self.is_narrow() && !self.simulation.has_times() {
            let heading = text(MARGIN, self.bars_top() - 10.0, "step".to_owned());
            picture = picture.add(heading.set("font-size", SIZE).set("class", "faint"));
        }
        if self.is_narrow() {
            picture = picture
                .add(text(MARGIN, y, "users in %".to_owned()).set("font-size", SIZE).set("class", "faint"));
        }
        if self.simulation.steps.len() < 2 {
            return (picture, self.bars_top() + HEIGHT);
        }
        self.add_numbers(picture)
    }

    fn bar(&self) -> f64 {
        bar(self.pitch)
    }

    /// Returns the left edge of a step's bar.
    fn x(&self, number: usize) -> f64 {
        LEFT + self.pitch * (number - self.steps.start) as f64
    }

    fn middle(&self, number: usize) -> f64 {
        self.x(number) + self.bar() / 2.0
    }

    fn bars_top(&self) -> f64 {
        self.top + HEAD
    }

    fn step(&self, number: usize) -> Option<&SimulationStep> {
        self.simulation.steps.get(number)
    }

    /// Returns the height of this many users.
    fn height(&self, users: u64) -> f64 {
        HEIGHT * users as f64 / self.simulation.users.max(1) as f64
    }

    /// Adds the date and the time of a step above its bar, or its number.
    fn add_times(&self, picture: Document, number: usize) -> Document {
        let column = |y: f64, words: String| {
            text(self.middle(number), y, words).set("text-anchor", "middle").set("font-size", SIZE)
        };
        let y = self.bars_top() - 10.0;
        let Some(at) = self.step(number).and_then(|step| step.at) else {
            let words = match self.is_narrow() && !self.simulation.has_times() {
                true => (number + 1).to_string(),
                false => self.simulation.when(number),
            };
            return picture.add(column(y, words).set("class", "bold"));
        };
        let time = self.simulation.offset.time(at);
        let (year, day) =
            if self.pitch >= 84.0 { (String::new(), time.date) } else { short_date(&time.date) };
        // A year stands above the first day of the row, and where it changes.
        let year_before = number.checked_sub(1).and_then(|before| self.step(before)?.at);
        let year_before = year_before.map(|at| short_date(&self.simulation.offset.time(at).date).0);
        if !year.is_empty() && (number == self.steps.start || year_before.as_ref() != Some(&year)) {
            picture.add(column(y - 26.0, year).set("class", "faint"))
        } else {
            picture
        }
        .add(column(y - 13.0, day))
        .add(column(y, time.clock).set("class", "bold"))
    }

    fn add_bar(&self, mut picture: Document, number: usize) -> Document {
        let Some(step) = self.step(number) else {
            return picture;
        };
        let (x, bar) = (self.x(number), self.bar());
        let mut y = self.bars_top();
        let mut labelled_to = f64::MIN;
        for ((version, users), weight) in step.users.iter().enumerate().zip(&step.weights) {
            let part = self.height(*users);
            if part <= 0.0 {
                continue;
            }
            let rectangle = Rectangle::new()
                .set("x", rounded(x))
                .set("y", rounded(y))
                .set("width", rounded(bar))
                .set("height", rounded(part.max(0.5)));
            let name = self.simulation.name(version);
            let tip = Title::new(format!("{name}: {}, {users} users", share(*weight)));
            picture = picture.add(rectangle.set("fill", palette::fill(version)).add(tip));
            let weight = self.weight(*weight);
            let is_labelled = part >= LABELLED;
            let middle = y + part / 2.0 + 4.0;
            if is_labelled {
                if palette::is_patterned(version) {
                    let width = text_width(&weight, SIZE);
                    let plate = Rectangle::new()
                        .set("x", rounded(x + (bar - width) / 2.0))
                        .set("y", rounded(middle - 10.0));
                    picture = picture.add(
                        plate
                            .set("width", rounded(width))
                            .set("height", 12)
                            .set("rx", 3)
                            .set("fill", "#ffffff"),
                    );
                }
                let label =
                    text(x + bar / 2.0, middle, weight.clone()).set("class", palette::text_class(version));
                picture = picture.add(label.set("text-anchor", "middle").set("font-size", SIZE));
            }
            // Beside the bar: the name, or the number of the legend for all versions, and a share that is not on it.
            // A bare number would be read as one of the legend.
            let bare = if weight.ends_with('%') { weight.clone() } else { format!("{weight}%") };
            let beside = match (is_labelled, self.is_numbered) {
                (true, true) => vec![(version + 1).to_string()],
                (true, false) => vec![name.to_owned()],
                (false, true) => vec![format!("{}: {weight}", version + 1), bare],
                (false, false) => vec![format!("{name} {weight}"), weight],
            };
            let fitting = beside.into_iter().find(|words| fits_beside(words, self.pitch));
            if let Some(words) = fitting.filter(|_| middle - labelled_to >= SIZE) {
                picture = picture
                    .add(text(x + bar + 4.0, middle, words).set("font-size", SIZE).set("class", "halo"));
                labelled_to = middle;
            }
            y += part;
        }
        picture
    }

    /// Returns a weight, short enough for a bar. Narrow bars have no room for the sign.
    fn weight(&self, weight: u32) -> String {
        let whole = share(weight);
        if !self.is_narrow() {
            return whole;
        }
        let number = whole.trim_end_matches(" %");
        if number.len() <= 4 { number.to_owned() } else { format!("{:.1}", f64::from(weight) / 100.0) }
    }

    fn is_narrow(&self) -> bool {
        self.pitch < 84.0
    }

    /// Adds the bands to a bar. The bands at each version are in the order of the versions on the other side.
    fn add_bands(&self, mut picture: Document, number: usize) -> Document {
        let (Some(step), Some(before)) = (self.step(number), self.step(number - 1)) else {
            return picture;
        };
        let tops = |users: &[u64]| -> Vec<f64> {
            let mut y = self.bars_top();
            let next = |users: &u64| {
                let top = y;
                y += self.height(*users);
                top
            };
            users.iter().map(next).collect()
        };
        let (left, right) = (self.x(number - 1) + self.bar(), self.x(number));
        let (mut starts, mut ends) = (tops(&before.users), tops(&step.users));
        // Bands of users who move lie on top of those of users who stay.
        let mut moving = Vec::new();
        for ((from, to), users) in &step.flows {
            let (Some(start), Some(end)) = (starts.get_mut(*from), ends.get_mut(*to)) else {
                continue;
            };
            let part = self.height(*users);
            let (fill, opacity) = match (from == to, step.over.is_zero()) {
                (true, _) => (palette::fill(*from), PALE),
                (false, true) => (palette::fill(*from), STRONG),
                (false, false) => (palette::hatch(*from), 1.0),
            };
            let tip =
                format!("{} to {}: {users} users", self.simulation.name(*from), self.simulation.name(*to));
            let band = Shape::new().set("d", outline(left, right, *start, *end, part)).set("fill", fill);
            let band = band.set("fill-opacity", opacity).add(Title::new(tip));
            if from == to {
                picture = picture.add(band);
            } else {
                moving.push(band);
            }
            *start += part;
            *end += part;
        }
        moving.into_iter().fold(picture, Document::add)
    }

    /// Adds the numbers of each step under its bar. Returns the picture and where they end.
    fn add_numbers(&self, mut picture: Document) -> (Document, f64) {
        let mut y = self.bars_top() + HEIGHT + 8.0;
        let has_ramps = self.simulation.steps.iter().any(|step| !step.over.is_zero());
        let right = self.x(self.steps.end.saturating_sub(1)) + self.bar();
        for (row, name) in ROWS.iter().enumerate().skip(usize::from(!has_ramps)) {
            let line = Line::new().set("x1", MARGIN).set("x2", rounded(right)).set("y1", rounded(y));
            picture = picture
                .add(line.set("y2", rounded(y)).set("class", "line"))
                .add(text(MARGIN, y + 14.0, (*name).to_owned()).set("font-size", SIZE).set("class", "faint"));
            for number in self.steps.clone().skip(1) {
                let Some(step) = self.step(number) else {
                    continue;
                };
                let class = match (row + 1 == ROWS.len(), step.moved_back) {
                    (false, _) => "",
                    (true, 0) => "bold",
                    (true, _) => "bold bad",
                };
                let number_of_row = self.numbers(step).into_iter().nth(row).unwrap_or_default();
                let cell = text(self.middle(number), y + 14.0, number_of_row).set("class", class);
                picture = picture.add(cell.set("text-anchor", "middle").set("font-size", SIZE));
            }
            y += LINE;
        }
        (picture, y)
    }

    /// Returns the numbers of a step, in the order of `ROWS`.
    fn numbers(&self, step: &SimulationStep) -> [String; ROWS.len()] {
        let percent = |users: u64| match users as f64 * 100.0 / self.simulation.users.max(1) as f64 {
            0.0 => "0".to_owned(),
            percent if self.is_narrow() => format!("{percent:.1} %"),
            percent => format!("{percent:.2} %"),
        };
        let over = if step.over.is_zero() { "at once".to_owned() } else { short(step.over) };
        [over, percent(step.moved()), percent(step.must_move), percent(step.moved_back)]
    }
}

/// Returns the outline of a band.
fn outline(left: f64, right: f64, start: f64, end: f64, part: f64) -> Data {
    let middle = rounded((left + right) / 2.0);
    let [left, right, start, end, part] = [left, right, start, end, part].map(rounded);
    Data::new()
        .move_to((left, start))
        .cubic_curve_to((middle, start, middle, end, right, end))
        .line_by((0, part))
        .cubic_curve_to((
            middle,
            rounded(end + part),
            middle,
            rounded(start + part),
            left,
            rounded(start + part),
        ))
        .close()
}

/// Splits a date such as 2026-12-01 into the year and a short day, such as `1 Dec`.
fn short_date(date: &str) -> (String, String) {
    let mut parts = date.split('-');
    let year = parts.next().unwrap_or_default().to_owned();
    let month = parts.next().and_then(|month| MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?));
    match (month, parts.next()) {
        (Some(month), Some(day)) => (year, format!("{} {month}", day.trim_start_matches('0'))),
        _ => (String::new(), date.to_owned()),
    }
}
