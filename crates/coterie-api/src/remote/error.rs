//! Why a call failed: what, where, and what to do.

use std::time::Duration;

use rustls::AlertDescription;

use crate::v1::Problem;

/// Why the server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Nobody listens there, or the way there is closed.
    #[error(
        "no server answers at {server}: {source}; check the address, that coterie-server runs there, and that TCP reaches it"
    )]
    NotReachable {
        /// Where.
        server: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else answers, or the server shows a certificate that this client has no reason to trust.
    #[error(
        "{server} is not the server that is trusted: {reason}; do not go on unless its operator says that it changed"
    )]
    NotTheServer {
        /// Who was to answer.
        server: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The server accepts no connection from this client.
    #[error(
        "{server} does not accept this client's certificate: {reason}; the membership may be over or the certificate be of another enclave"
    )]
    NotAccepted {
        /// Who refused.
        server: String,
        /// The alert.
        reason: String,
    },
    /// The two agree on no encryption, or what answers speaks no TLS.
    #[error(
        "no encrypted connection with {server}: {reason}; check that the port is coterie-server's and both are of one release"
    )]
    Tls {
        /// Who answered.
        server: String,
        /// What the TLS library said.
        reason: String,
    },
    /// The connection ended.
    #[error("{server} broke off while {doing}: {reason}; try again")]
    Broken {
        /// Who broke off.
        server: String,
        /// What was going on.
        doing: String,
        /// What the library said.
        reason: String,
    },
    /// It took too long.
    #[error("{server} has not answered within {} s while {doing}; try again, and look at the server's log", .after.as_secs())]
    Timeout {
        /// Who is silent.
        server: String,
        /// What was going on.
        doing: String,
        /// For how long.
        after: Duration,
    },
    /// More came than was to be read.
    #[error("{server} answered {what} with more than {limit} bytes; use a client and a server of one release")]
    TooLong {
        /// Who answered.
        server: String,
        /// The request.
        what: String,
        /// How many bytes are read.
        limit: usize,
    },
    /// Something else than agreed came.
    #[error("{server} answered {what} with {found}; use a client and a server of one release")]
    Unexpected {
        /// Who answered.
        server: String,
        /// The request.
        what: String,
        /// What came.
        found: String,
    },
    /// The server says why not.
    #[error("{}{}", .problem, faults(.problem))]
    Problem {
        /// Who answered.
        server: String,
        /// What it said.
        problem: Box<Problem>,
    },
    /// This side's own certificate, key, name or header is unusable.
    #[error("{what} cannot be used: {reason}")]
    Settings {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
}

impl RemoteError {
    /// What the server said, if it said something.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem { problem, .. } => Some(problem),
            Self::NotReachable { .. }
            | Self::NotTheServer { .. }
            | Self::NotAccepted { .. }
            | Self::Tls { .. }
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::TooLong { .. }
            | Self::Unexpected { .. }
            | Self::Settings { .. } => None,
        }
    }

    /// The code of what the server said, if it said something.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|problem| problem.code.as_str())
    }
}

fn faults(problem: &Problem) -> String {
    let lines = problem.faults.iter().map(|fault| {
        format!(
            "\n  {}:{}: {}: {}; {}",
            fault.line, fault.column, fault.severity, fault.message, fault.remedy
        )
    });
    lines.collect()
}

/// A TLS handshake that failed.
pub(super) fn of_handshake(server: &str, error: &std::io::Error) -> RemoteError {
    let server = server.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => RemoteError::NotTheServer {
            server,
            reason: if *why == rustls::CertificateError::ApplicationVerificationFailure {
                "it shows another root".to_owned()
            } else if *why == rustls::CertificateError::UnknownIssuer {
                "nobody who is trusted vouches for it".to_owned()
            } else {
                why.to_string()
            },
        },
        Some(rustls::Error::NoCertificatesPresented) => RemoteError::NotTheServer {
            server,
            reason: "it shows no certificate".to_owned(),
        },
        Some(rustls::Error::AlertReceived(alert)) if REFUSALS.contains(alert) => RemoteError::NotAccepted {
            server,
            reason: format!("{alert:?}"),
        },
        Some(other) => RemoteError::Tls {
            server,
            reason: other.to_string(),
        },
        None => RemoteError::Broken {
            server,
            doing: "TLS began".to_owned(),
            reason: error.to_string(),
        },
    }
}

/// An exchange that ended: with TLS 1.3 a client learns only then that its certificate was refused.
pub(super) fn of_exchange(server: &str, doing: &str, error: &hyper::Error) -> RemoteError {
    let server = server.to_owned();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut reason = error.to_string();
    while let Some(current) = cause {
        reason = current.to_string();
        // HTTP/2 keeps nothing of the TLS library's error but its text.
        let alert = reason.split_once("received fatal alert: ").map(|(_, alert)| alert);
        if let Some(alert) = alert.filter(|alert| REFUSALS.iter().any(|refusal| format!("{refusal:?}") == *alert)) {
            return RemoteError::NotAccepted {
                server,
                reason: alert.to_owned(),
            };
        }
        cause = current.source();
    }
    RemoteError::Broken {
        server,
        doing: doing.to_owned(),
        reason,
    }
}

/// How a server says that it does not accept a certificate.
const REFUSALS: [AlertDescription; 9] = [
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::DecryptError,
    AlertDescription::UnknownCA,
    AlertDescription::UnsupportedCertificate,
];
