//! Codes: the fixed words in logs, metrics, replies and access logs. Each is defined beside the enum that it stands for.
//!
//! The filter needs only the word. What it means is for the reference page and takes no space in the module: a constant
//! function drops it at compile time.

/// A code, where it appears, what it means, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSpec {
    /// The code itself.
    pub code: &'static str,
    /// Where it appears, in Markdown.
    #[cfg(feature = "tool")]
    pub places: &'static str,
    /// What it means, in one sentence.
    #[cfg(feature = "tool")]
    pub meaning: &'static str,
    /// What to do about it. Empty if nothing is to do.
    #[cfg(feature = "tool")]
    pub remedy: &'static str,
}

impl CodeSpec {
    /// Creates the specification of a code from the code, its places, its meaning and what to do.
    #[cfg_attr(not(feature = "tool"), allow(unused_variables))]
    pub const fn new(
        code: &'static str,
        places: &'static str,
        meaning: &'static str,
        remedy: &'static str,
    ) -> Self {
        CodeSpec {
            code,
            #[cfg(feature = "tool")]
            places,
            #[cfg(feature = "tool")]
            meaning,
            #[cfg(feature = "tool")]
            remedy,
        }
    }
}
