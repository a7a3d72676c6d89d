//! What the value of a key may be, as types and patterns of CEL.

use graygate::policy::keys::spec::Shape;

/// Returns the name under which the rendered rule lists the types of CEL that a value of this shape has.
pub fn type_name(shape: &Shape) -> &'static str {
    match shape {
        Shape::Object(_) | Shape::Map(_) => "object",
        Shape::List(_) => "list",
        Shape::Text(_) | Shape::Duration(_) | Shape::Choice(_) | Shape::Upstream => "text",
        Shape::Boolean | Shape::True => "flag",
        Shape::Whole(..) | Shape::Seconds(_) => "number",
        Shape::Either(_) => "any",
        Shape::Null | Shape::Refused(_) => "none",
    }
}

/// Returns milliseconds as seconds.
pub fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}
