//! Waiting for a state to be reached, by looking at it again and again: levels, not edges.

use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

const PAUSE: Duration = Duration::from_millis(2);

/// Calls `look` until it returns a value, which is returned, or `deadline` has passed.
///
/// # Errors
/// [`LabError::Deadline`] with `what`, when it never did.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() >= deadline {
            return Err(LabError::Deadline {
                what: what.to_owned(),
                deadline,
                last: String::new(),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Calls `attempt` until it succeeds or `deadline` has passed; the error then tells what the last attempt said.
///
/// # Errors
/// [`LabError::Deadline`] with `what` and the last error.
pub fn retry<T, E: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if start.elapsed() >= deadline => {
                return Err(LabError::Deadline {
                    what: what.to_owned(),
                    deadline,
                    last: format!("; last: {error}"),
                });
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
