//! What the value of a key may be, in words for a message and as a type of CEL.

use graygate::policy::keys::spec::{Format, Shape};

/// The pattern of a duration such as `1h30m`.
pub const DURATION: &str = r"^(([0-9]+[.]?[0-9]*|[.][0-9]+)(ms|s|m|h))+$";

/// The pattern of a DNS label.
pub const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";

/// The pattern of a status in a list of failures.
pub const ERROR_STATUS: &str = "^[45][0-9][0-9]$";

/// Returns the name under which the rendered rule lists the types of CEL that a value of this shape has.
pub fn type_name(shape: &Shape) -> &'static str {
    match shape {
        Shape::Object(_) | Shape::Map(_) => "object",
        Shape::List(_) => "list",
        Shape::Text(_) | Shape::Duration(..) | Shape::Choice(_) | Shape::Upstream => "text",
        Shape::Boolean | Shape::True => "flag",
        Shape::Whole(..) | Shape::Seconds(..) => "number",
        Shape::Either(_) => "any",
        Shape::Null | Shape::Refused => "none",
    }
}

/// Returns what a message says is allowed.
pub fn allowed(shape: &Shape) -> String {
    match shape {
        Shape::Object(_) | Shape::Map(_) => "an object".to_owned(),
        Shape::List(Shape::Either([Shape::Choice(words), ..])) => {
            format!("a list of {}, statuses from 400 to 599, response headers", words.join(", "))
        }
        Shape::List(_) => "a list".to_owned(),
        Shape::Either(_) => "another value".to_owned(),
        Shape::Text(format) => text(*format).to_owned(),
        Shape::Boolean => "true or false".to_owned(),
        Shape::True => "true, or no such key".to_owned(),
        Shape::Whole(low, high) => format!("a whole number from {low} to {high}"),
        Shape::Seconds(low, high) => {
            format!("a number of seconds from {} to {}", seconds(*low), seconds(*high))
        }
        Shape::Duration(low, high) => {
            let (low, high) = (seconds(*low), seconds(*high));
            format!("a duration such as \"300ms\", \"1.5s\" or \"1h30m\", from {low}s to {high}s")
        }
        Shape::Choice(words) => words.join(", "),
        Shape::Upstream => "the name of an upstream of the policy".to_owned(),
        Shape::Null | Shape::Refused => "to leave it out, as it has no effect here".to_owned(),
    }
}

fn text(format: Format) -> &'static str {
    match format {
        Format::Any | Format::HeaderValue => "a string",
        Format::NotEmpty => "a string, not empty",
        Format::DnsLabel => {
            "a DNS label: 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end"
        }
        Format::Label => {
            "1 to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends"
        }
        Format::HeaderName | Format::WrittenHeader => "the name of a header",
        Format::CookieName => "the name of a cookie",
        Format::Path | Format::ProbePath => "a path such as /healthz",
        Format::Host => "a host name or address",
        Format::HostPattern => "a host such as reviews.shop or *.example.com",
        Format::Network => "an address or a network",
        Format::Regex => "a regular expression",
        Format::Date => "a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z",
        Format::ErrorStatus => "a status from 400 to 599",
    }
}

/// Returns milliseconds as seconds.
pub fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}
