//! How a command ends: an exit code that scripts can rely on, and a message that says what to do next.

use std::process::ExitCode;

use anyhow::Error;
use coterie_api::remote::RemoteError;
use coterie_api::v1::problem::code;
use coterie_api::{CallError, Failure};

use crate::output;

/// What stands in `--help` about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed; the message says what, where and what to do
  2  wrong usage
  3  no coteried, or no server, answers
  4  prohibited: the policy, or one's role, says no
  5  not within the time given";

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Done,
    /// It failed.
    Failed,
    /// What was compared is not the same.
    Differs,
    /// It could not be compared.
    NotCompared,
    /// It was asked for in a way that means nothing.
    Usage,
    /// No coteried, or no server, answers.
    NotReachable,
    /// The policy says no.
    Prohibited,
    /// It did not happen in time.
    Timeout,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed | Exit::Differs => 1,
            Exit::Usage | Exit::NotCompared => 2,
            Exit::NotReachable => 3,
            Exit::Prohibited => 4,
            Exit::Timeout => 5,
        })
    }
}

/// What a command comes to.
pub(crate) type Outcome<T = Exit> = anyhow::Result<T>;

/// An end with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Stop {
    exit: Exit,
    /// Empty when all that is to be said was said.
    message: String,
}

impl Stop {
    /// Ends with `exit` and a message.
    pub(crate) fn because(exit: Exit, message: impl Into<String>) -> Error {
        Self {
            exit,
            message: message.into(),
        }
        .into()
    }

    /// Ends with `exit` for a reason that is told already, or wrapped.
    pub(crate) fn new(exit: Exit) -> Self {
        Self {
            exit,
            message: String::new(),
        }
    }

    /// Ends with `exit`; the command has printed why.
    pub(crate) fn said(exit: Exit) -> Error {
        Self::new(exit).into()
    }
}

/// Prints the error, unless it is that nobody reads any more, and gives the exit code.
pub(crate) fn report(error: &Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Done;
    }
    let exit = exit_of(error);
    let mut causes = error.chain().map(ToString::to_string).filter(|text| !text.is_empty());
    if let Some(first) = causes.next() {
        let paint = output::Paint::stderr();
        let mut text = format!("{} {first}", paint.red("error:"));
        let mut before = first;
        for cause in causes.filter(|cause| !cause.is_empty()) {
            // Errors of libraries like to repeat what they wrap.
            if !before.contains(&cause) {
                text.push_str(&format!("\n  because {cause}"));
            }
            before = cause;
        }
        eprintln!("{text}");
    }
    exit
}

/// The exit code of an error.
pub(crate) fn exit_of(error: &Error) -> Exit {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stop.exit;
    }
    if let Some(error) = error.downcast_ref::<RemoteError>() {
        return of_remote(error);
    }
    match error.downcast_ref::<CallError>() {
        Some(CallError::NotReachable { .. } | CallError::Broken { .. }) => Exit::NotReachable,
        Some(CallError::Refused(failure)) => of_failure(failure),
        None => Exit::Failed,
    }
}

/// The exit code for what a server answered, or did not.
fn of_remote(error: &RemoteError) -> Exit {
    match error {
        RemoteError::NotReachable { .. }
        | RemoteError::NotTheServer { .. }
        | RemoteError::NotAccepted { .. }
        | RemoteError::Tls { .. }
        | RemoteError::Broken { .. } => Exit::NotReachable,
        RemoteError::Timeout { .. } => Exit::Timeout,
        RemoteError::Problem { problem, .. } if problem.code == code::FORBIDDEN => Exit::Prohibited,
        RemoteError::Problem { .. }
        | RemoteError::TooLong { .. }
        | RemoteError::Unexpected { .. }
        | RemoteError::Settings { .. } => Exit::Failed,
    }
}

/// The exit code for what a node answered.
pub(crate) fn of_failure(failure: &Failure) -> Exit {
    match failure.code.as_str() {
        "timeout" | "no-answer" => Exit::Timeout,
        // A node is told of no member that it shares no community with, so that it cannot tell the two apart.
        "unknown-member" | "no-member" | "no-common-community" | "membership-ended" | "revoked" => Exit::Prohibited,
        _ => Exit::Failed,
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_node_have_their_codes() {
        let failure = |code: &str| Failure {
            code: code.to_owned(),
            message: String::new(),
            remedy: String::new(),
        };
        for (code, exit) in [
            ("timeout", Exit::Timeout),
            ("no-common-community", Exit::Prohibited),
            ("unknown-member", Exit::Prohibited),
            ("bad-bundle", Exit::Failed),
        ] {
            assert_eq!(exit_of(&CallError::Refused(failure(code)).into()), exit, "{code}");
        }
    }

    #[test]
    fn what_wraps_an_error_decides_over_it() {
        let wrapped = Error::msg("no such file").context(Stop::new(Exit::NotCompared));
        assert_eq!(exit_of(&wrapped), Exit::NotCompared);
        let away = RemoteError::NotReachable {
            server: "example.org:4750".to_owned(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        assert_eq!(exit_of(&away.into()), Exit::NotReachable);
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let error = Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).context("write");
        assert_eq!(report(&error), Exit::Done);
    }
}
