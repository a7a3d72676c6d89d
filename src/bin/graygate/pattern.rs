//! Regular expressions for strings of a policy. JavaScript, Go, Python and CEL read them alike.

/// The pattern of a duration such as `1h30m`.
pub const DURATION: &str = r"^(([0-9]+[.]?[0-9]*|[.][0-9]+)(ms|s|m|h))+$";

/// The pattern of a DNS label.
pub const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";

/// The pattern of a status in a list of failures.
pub const ERROR_STATUS: &str = "^[45][0-9][0-9]$";
