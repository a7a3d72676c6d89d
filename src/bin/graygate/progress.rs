//! A line on the terminal that shows how far long work is.

use core::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long work takes before the line appears.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many short items lie between two looks at the clock.
const INTERVAL: u64 = 256;

/// The progress of work on many items. The line is on standard error, only if that is a terminal.
pub struct Progress {
    bar: ProgressBar,
    /// How many items lie between two looks at the clock.
    interval: u64,
    is_shown: bool,
}

impl Progress {
    /// Begins work on `total` items that each take long, such as files.
    pub fn of_long(items: &str, total: u64) -> Self {
        let mut progress = Self::new(items, Some(total));
        progress.interval = 1;
        progress
    }

    /// Begins work on `total` items, if that is known. `items` is what they are called.
    pub fn new(items: &str, total: Option<u64>) -> Self {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let template = match total {
            Some(_) => "{percent} % of {len} {prefix}, {eta} left",
            None => "{pos} {prefix}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(items.to_owned());
        Progress { bar, interval: INTERVAL, is_shown: false }
    }

    /// Counts one item as done.
    pub fn advance(&mut self) {
        self.bar.inc(1);
        if !self.is_shown
            && self.bar.position().is_multiple_of(self.interval)
            && self.bar.elapsed() > PATIENCE
        {
            self.is_shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.tick();
        }
    }
}

impl Drop for Progress {
    /// Removes the line, so that it does not mix with the output.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
