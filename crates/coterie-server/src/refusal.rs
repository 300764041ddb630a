//! Why something is not done: for people with what to do about it, for machines as a code.

use axum::response::{IntoResponse, Response};
use coterie_api::v1::{FileFault, PROBLEM_TYPE, Problem, problem::code};
use coterie_control::{
    file::{Diagnostic, Severity},
    issue::IssueError,
};
use coterie_model::{Name, UnixTime};
use coterie_store::{StoreError, TokenRefusal};
use http::StatusCode;

/// Why something is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nobody is logged in.
    #[error("no key was given, or one that is not known, revoked or over")]
    Unauthorized,
    /// The key's time is over.
    #[error("the key expired or was revoked")]
    KeyEnded,
    /// The role does not allow it.
    #[error("the role `{0}` may not do this")]
    Forbidden(&'static str),
    /// There is none, or it is somebody else's.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A token made it, and it is gone for good.
    #[error("`{name}` is no member any more: it was revoked, or its membership ended, at {at} (Unix time)", name = .0, at = .1.0)]
    GoneAlready(Name, UnixTime),
    /// The name is taken.
    #[error("there is such a {0} already")]
    Exists(&'static str),
    /// The thing is in use.
    #[error("the {0} still has {1}")]
    NotEmpty(&'static str, &'static str),
    /// What was sent cannot be read.
    #[error("{0}")]
    BadRequest(String),
    /// The enclave file was changed by somebody else.
    #[error("the enclave file is another one by now: somebody else changed it")]
    Changed,
    /// The enclave file is not accepted.
    #[error("the enclave file is not accepted")]
    File(Vec<FileFault>),
    /// The file is of another enclave.
    #[error("the file is of enclave `{0}`, and the path names enclave `{1}`")]
    OtherEnclave(Name, Name),
    /// The body is longer than what is read.
    #[error("the body is longer than {0} bytes")]
    TooLarge(usize),
    /// More than the server does at once.
    #[error("too many requests at once")]
    TooMany,
    /// No such endpoint.
    #[error("there is no such endpoint")]
    NoEndpoint,
    /// A request or the state of things does not allow it.
    #[error("{0}")]
    Issue(String),
    /// The member is isolated.
    #[error("`{0}` is isolated")]
    Isolated(Name),
    /// The caller is no member any more.
    #[error("the machine that asks is no member of the enclave")]
    NotAMember,
    /// The member has no keys.
    #[error("member `{0}` is not enrolled")]
    NotEnrolled(Name),
    /// No such template.
    #[error("the enclave file has no template `{0}`")]
    UnknownTemplate(Name),
    /// The member has another template.
    #[error("`{0}` is a member of template `{1}`")]
    OtherTemplate(Name, Name),
    /// A token would lead nowhere.
    #[error("machines with a token have no way in: no door is enrolled, and the server names no address of its own")]
    NoWayIn,
    /// The token.
    #[error("{0}")]
    Token(TokenRefusal),
    /// The machine is not one that the template is for.
    #[error("the machine is not one that template `{0}` matches")]
    NoMatch(Name),
    /// The token is another enclave's.
    #[error("the token is for another enclave")]
    ForeignToken,
    /// A ticket was used twice.
    #[error("the ticket of `{name}` was replaced at {at} (Unix time): the machine was cloned, or went back to an older state", name = .0, at = .1.0)]
    ClonedTicket(Name, UnixTime),
    /// The static key is another enrolment's.
    #[error("the static key belongs to another enrolment; a machine makes new keys for each")]
    StaticKeyTaken,
    /// The store.
    #[error("the database does not take it: {0}")]
    Store(String),
    /// The enclave is removed, or the server stops.
    #[error("the server stops, or the enclave was removed")]
    Gone,
}

impl Refusal {
    /// The word that programs compare, and the status that says the same.
    pub(crate) fn code(&self) -> (&'static str, StatusCode) {
        match self {
            Self::Unauthorized => (code::UNAUTHENTICATED, StatusCode::UNAUTHORIZED),
            Self::KeyEnded => (code::KEY_ENDED, StatusCode::UNAUTHORIZED),
            Self::Forbidden(_) => (code::FORBIDDEN, StatusCode::FORBIDDEN),
            Self::NotFound(_) | Self::GoneAlready(..) => (code::NOT_FOUND, StatusCode::NOT_FOUND),
            Self::NoEndpoint => (code::NO_ENDPOINT, StatusCode::NOT_FOUND),
            Self::Exists(_) | Self::StaticKeyTaken => (code::EXISTS, StatusCode::CONFLICT),
            Self::BadRequest(_) | Self::UnknownTemplate(_) | Self::OtherTemplate(..) => {
                (code::BAD_REQUEST, StatusCode::BAD_REQUEST)
            }
            Self::Changed => (code::CHANGED, StatusCode::PRECONDITION_FAILED),
            Self::TooLarge(_) => (code::TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE),
            Self::TooMany => (code::TOO_MANY, StatusCode::TOO_MANY_REQUESTS),
            Self::File(_) => (code::BAD_FILE, StatusCode::UNPROCESSABLE_ENTITY),
            Self::OtherEnclave(..) => (code::OTHER_ENCLAVE, StatusCode::UNPROCESSABLE_ENTITY),
            Self::Isolated(_) => (code::ISOLATED, StatusCode::FORBIDDEN),
            Self::NotAMember | Self::Token(_) | Self::NoMatch(_) | Self::ForeignToken | Self::ClonedTicket(..) => {
                (code::NOT_A_MEMBER, StatusCode::FORBIDDEN)
            }
            Self::NotEmpty(..) | Self::NotEnrolled(_) | Self::NoWayIn | Self::Issue(_) => {
                (code::CONFLICT, StatusCode::CONFLICT)
            }
            Self::Store(_) => (code::READ_ONLY, StatusCode::SERVICE_UNAVAILABLE),
            Self::Gone => (code::UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// Whether it refuses an application whose maker did not show that it holds a token.
    pub(crate) fn is_of_a_stranger(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_) | Self::ForeignToken | Self::Token(TokenRefusal::Unknown)
        )
    }

    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Unauthorized | Self::KeyEnded => {
                "log in with `coterie login`, with a key that an owner made by `coterie key create`"
            }
            Self::Forbidden(_) => "ask an owner for a key with another role",
            Self::NotFound(_) => "`coterie get` lists what there is",
            Self::GoneAlready(..) => {
                "nothing is left to do; `coterie audit` says who did it, and another token makes a member of this name anew"
            }
            Self::Exists(_) => "choose another name, or remove the other one first",
            Self::NotEmpty(..) => "remove what it holds first",
            Self::BadRequest(_) => "use a program of the server's version",
            Self::Changed => "look at what is there now with `coterie diff`, and apply again",
            Self::File(_) => "mend the file where the faults say; `coterie enclave check` finds the same",
            Self::OtherEnclave(..) => "name the enclave of the file, or another file",
            Self::TooLarge(_) => "send less at once",
            Self::TooMany => "wait a moment, then try again",
            Self::NoEndpoint => "docs/API.md lists the endpoints",
            Self::Isolated(_) => "release it first with `coterie vm release`, or revoke it",
            Self::Issue(_) => "",
            Self::NotAMember => "give the machine a new token",
            Self::NotEnrolled(_) => "give its machine a token first",
            Self::UnknownTemplate(_) => "add it to the enclave file, or name another one",
            Self::OtherTemplate(..) => "name that template, or another member",
            Self::NoWayIn => {
                "enrol a member of a template with `door = true`, or start the server with --advertise ADDRESS:PORT"
            }
            Self::NoMatch(_) => {
                "see the template's `match`; a token with `--name` is for the machine that it names, whatever it is"
            }
            Self::Token(_) | Self::ForeignToken => "make a new one with `coterie token create`",
            Self::ClonedTicket(..) => {
                "find out which machine is the right one, revoke the member, and give that one a token"
            }
            Self::StaticKeyTaken => "remove the machine's keys, so that it makes new ones",
            Self::Store(_) => "see the server's log; nothing was changed, and nodes go on",
            Self::Gone => "try again",
        }
    }

    /// For people and programs alike.
    pub(crate) fn problem(&self) -> Problem {
        let (code, status) = self.code();
        let title = status.canonical_reason().unwrap_or_default();
        let mut problem = Problem::new(status.as_u16(), code, title, self.to_string(), self.remedy());
        if let Self::File(faults) = self {
            problem.faults.clone_from(faults);
        }
        problem
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem()).expect("strings and numbers are JSON");
        (self.code().1, [(http::header::CONTENT_TYPE, PROBLEM_TYPE)], body).into_response()
    }
}

impl From<IssueError> for Refusal {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else an issuer says is for people to read"
    )]
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::File(diagnostics) => Self::File(diagnostics.iter().map(fault).collect()),
            IssueError::OtherEnclave { expected, found } => Self::OtherEnclave(found, expected),
            IssueError::Isolated(name) => Self::Isolated(name),
            IssueError::NotEnrolled(_) => Self::NotAMember,
            error => Self::Issue(error.to_string()),
        }
    }
}

impl From<StoreError> for Refusal {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else the store says is about the store"
    )]
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what } => Self::NotFound(what),
            StoreError::Exists { what } => Self::Exists(what),
            StoreError::NotEmpty { what, of } => Self::NotEmpty(what, of),
            StoreError::StaticKeyTaken => Self::StaticKeyTaken,
            error => Self::Store(error.to_string()),
        }
    }
}

/// A fault of an enclave file, as the contract says it.
pub(crate) fn fault(diagnostic: &Diagnostic) -> FileFault {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    FileFault {
        severity: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
        .to_owned(),
        line: number(diagnostic.line),
        column: number(diagnostic.column),
        path: diagnostic.path.clone(),
        message: diagnostic.message.clone(),
        remedy: diagnostic.remedy.clone(),
        notes: diagnostic.notes.clone(),
    }
}
