//! Versions of Istio, as far as manifests depend on them.

use core::fmt;
use core::str::FromStr;

/// The minor version of Istio 1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IstioVersion(pub u32);

impl IstioVersion {
    /// The oldest version that manifests are printed for.
    pub const OLDEST: IstioVersion = IstioVersion(24);
    /// The newest version that manifests are tested with.
    pub const NEWEST: IstioVersion = IstioVersion(31);
    /// The first version whose proxies support `failure_policy`.
    pub const FAILURE_POLICY: IstioVersion = IstioVersion(25);
    /// The first version whose plugins support `FAIL_RELOAD`.
    pub const FAIL_RELOAD: IstioVersion = IstioVersion(27);
    /// The first version with TrafficExtension.
    pub const TRAFFIC_EXTENSION: IstioVersion = IstioVersion(30);
}

impl fmt::Display for IstioVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

impl FromStr for IstioVersion {
    type Err = &'static str;

    /// Parses `1.29` or `1.29.6`. Ignores the patch version.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let minor = text.strip_prefix("1.").map(|rest| rest.split_once('.').map_or(rest, |(minor, _)| minor));
        let digits = minor.filter(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()));
        digits
            .and_then(|minor| minor.parse().ok())
            .map(IstioVersion)
            .ok_or("allowed: a release such as 1.29 or 1.29.6")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_version_is_ignored_and_other_text_is_refused() {
        for (text, minor) in [("1.29", 29), ("1.29.6", 29), ("1.31.0-rc.0", 31), ("1.9", 9)] {
            assert_eq!(text.parse(), Ok(IstioVersion(minor)), "{text}");
        }
        for text in ["", "1", "1.", "2.0", "1.x", "29", "1.+3", "latest", "1..29"] {
            assert!(text.parse::<IstioVersion>().is_err(), "{text}");
        }
    }
}
