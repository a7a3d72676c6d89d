//! What all parts of a picture have in common: margins, texts and numbers.

use svg::node::element::Text;

/// The space left of the first column, for the names of the rows.
pub const LEFT: f64 = 96.0;
/// The space at the other edges.
pub const MARGIN: f64 = 24.0;
/// The width of a letter, in terms of the font's size. Estimated on the large side.
pub const LETTER: f64 = 0.6;

/// Rounds to tenths of a pixel, which keeps the file small and the same on every machine.
pub fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Returns a text at this place.
pub fn text(x: f64, y: f64, content: String) -> Text {
    Text::new(content).set("x", rounded(x)).set("y", rounded(y))
}

/// Returns the width of a text of this size, estimated on the large side.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * LETTER
}
