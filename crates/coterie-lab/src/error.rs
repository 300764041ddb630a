//! What can go wrong in a lab, said so that the reader knows what to do next.

use std::io;
use std::time::Duration;

/// Why the lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// This machine does not let the caller make namespaces.
    #[error("cannot make the lab's namespaces: {reason}. {remedy}")]
    Privileges {
        /// What was refused.
        reason: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// The lab was asked for before the program was moved into its namespaces.
    #[error(
        "this program is not inside the lab's namespaces; call coterie_lab::ensure_privileges() first thing in main"
    )]
    NotInside,
    /// A program is not installed.
    #[error("{program} is not installed; install the package {package}")]
    Missing {
        /// The program's name.
        program: String,
        /// The Debian package that has it.
        package: String,
    },
    /// A program cannot do its work in this lab although it is installed.
    #[error("{what} cannot run here: {why}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// Why it is impossible.
        why: String,
    },
    /// A program that the lab needed to succeed did not.
    #[error("{command} failed ({status}): {stderr}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it said, trimmed.
        stderr: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {deadline:?}{last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        deadline: Duration,
        /// The last state that was seen, empty or starting with a separator.
        last: String,
    },
    /// A name that cannot be used.
    #[error("{name:?} cannot name a host or bridge: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program's output was not what it promises.
    #[error("cannot read the output of {program}: {why}")]
    Output {
        /// The program.
        program: String,
        /// What was expected, and what came.
        why: String,
    },
    /// The operating system refused something.
    #[error("cannot {what}")]
    Io {
        /// What was attempted, as a verb with its object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether this says that the machine lacks something, rather than that something went wrong: a test or a check may
    /// be skipped with this as its reason.
    #[must_use]
    pub fn is_skip(&self) -> bool {
        matches!(
            self,
            Self::Privileges { .. } | Self::Missing { .. } | Self::Unavailable { .. }
        )
    }
}

/// The lab's results.
pub type Result<T, E = LabError> = std::result::Result<T, E>;
