//! What is wrong with a document: every problem with its path, the value and what is allowed.

use core::cell::RefCell;
use core::fmt;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as in `releases[0].versions[1].weight`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, with the value and what is allowed.
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

/// All problems of a document, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The one problem of a document that could not be read at all.
    pub fn unreadable(message: impl fmt::Display) -> Self {
        Self(vec![Problem { path: String::new(), message: message.to_string() }])
    }

    /// The problems, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    /// One problem per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

impl core::error::Error for Problems {}

/// Where reading notes problems. Shared by all readers of one document, so that all are found in one pass.
#[derive(Debug, Default)]
pub struct ProblemLog(RefCell<Vec<(Vec<usize>, Problem)>>);

impl ProblemLog {
    /// Whether nothing has been noted.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Notes one problem. `position` is where the value stands: the steps from the root, each counted among its
    /// siblings.
    pub fn note(&self, position: &[usize], path: &str, message: String) {
        self.0.borrow_mut().push((position.to_vec(), Problem { path: path.to_owned(), message }));
    }

    /// `value` if there were no problems. A reader that gives up has noted why, so `value` is then present;
    /// should it not be, that too is a problem rather than a panic.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        let mut noted = self.0.into_inner();
        // The readers go by their own order, a user by that of the document.
        noted.sort_by(|(position, _), (other, _)| position.cmp(other));
        let problems: Vec<Problem> = noted.into_iter().map(|(_, problem)| problem).collect();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            None if problems.is_empty() => Err(Problems::unreadable("the policy could not be compiled")),
            _ => Err(Problems(problems)),
        }
    }
}
