//! The problems of a document. Each names a path, the value there, and what is allowed.

use core::cell::{Cell, RefCell};
use core::fmt;

/// One problem of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path to the value, such as `releases[0].versions[1].weight`. Empty for the document as a whole.
    pub path: String,
    /// What is wrong, the value, and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// Where a problem is in the tree of a document. Positions have document order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Leads from the root to the value: each step is an index among siblings. An object counts repeated keys, too.
    pub steps: Vec<usize>,
    /// Whether it is the key of the value, rather than the value.
    pub is_key: bool,
}

/// All problems of a document, in document order. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
    /// The position of each. Only the tool finds lines by them.
    #[cfg(feature = "tool")]
    positions: Vec<Position>,
}

impl Problems {
    /// Returns the one problem of a document that could not be parsed.
    pub fn unreadable(message: impl fmt::Display) -> Self {
        Self::one(Problem { path: String::new(), message: message.to_string() })
    }

    /// Returns one problem that concerns a policy as a whole.
    pub fn one(problem: Problem) -> Self {
        Self::new(vec![(Position::default(), problem)])
    }

    /// Adds a problem that concerns the policy as a whole, at the end.
    pub fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
        #[cfg(feature = "tool")]
        self.positions.push(Position::default());
    }

    fn new(noted: Vec<(Position, Problem)>) -> Self {
        #[cfg(feature = "tool")]
        let positions = noted.iter().map(|(position, _)| position.clone()).collect();
        Self {
            problems: noted.into_iter().map(|(_, problem)| problem).collect(),
            #[cfg(feature = "tool")]
            positions,
        }
    }

    /// Returns the problems in document order.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// Returns the problems in document order, each with its position.
    #[cfg(feature = "tool")]
    pub fn with_positions(&self) -> impl Iterator<Item = (&Position, &Problem)> {
        self.positions.iter().zip(&self.problems)
    }
}

impl fmt::Display for Problems {
    /// Writes one problem per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl core::error::Error for Problems {}

/// Collects the problems of one document. All its readers share it, so that one pass finds every problem.
///
/// A document of several policies has a part for each. See [`ProblemLog::begin_part`].
#[derive(Debug, Default)]
pub struct ProblemLog {
    noted: RefCell<Vec<(Position, Problem)>>,
    /// The number of problems before the current part.
    before: Cell<usize>,
}

impl ProblemLog {
    /// Begins the next part of the document. The problems so far are those of other parts.
    pub fn begin_part(&self) {
        self.before.set(self.noted.borrow().len());
    }

    /// Returns whether the current part has no problem so far.
    pub fn is_part_valid(&self) -> bool {
        self.noted.borrow().len() == self.before.get()
    }

    /// Adds one problem.
    pub fn note(&self, position: Position, path: &str, message: String) {
        self.noted.borrow_mut().push((position, Problem { path: path.to_owned(), message }));
    }

    /// Returns `value` if no problem was reported.
    ///
    /// A reader that returns `None` has reported why, so `value` is present if there are no problems. If it is missing
    /// all the same, that is a problem rather than a panic.
    ///
    /// # Errors
    ///
    /// Returns every problem, in document order.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        let mut noted = self.noted.into_inner();
        // Readers report problems in their own order, but users expect document order.
        noted.sort_by(|(position, _), (other, _)| position.cmp(other));
        match value {
            Some(value) if noted.is_empty() => Ok(value),
            None if noted.is_empty() => Err(Problems::unreadable("the policy could not be compiled")),
            _ => Err(Problems::new(noted)),
        }
    }
}
