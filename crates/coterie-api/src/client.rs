//! A client of the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Answer, Failure, Reply, Request};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there.
    #[error(
        "no coteried answers at {path}: {source}; is it running (`systemctl status coteried`), and may you open the socket?"
    )]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke or spoke something else.
    #[error("coteried at {path} broke off: {reason}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The node refused.
    #[error("{}; {}", .0.message, .0.remedy)]
    Refused(Failure),
}

/// A connection to a node.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// The socket itself, to ask the kernel who is at its other end.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`CallError::NotReachable`].
    pub fn connect(path: &Path) -> Result<Self, CallError> {
        let unreachable = |source| CallError::NotReachable {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .map_err(unreachable)?;
        Ok(Self {
            path: path.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&mut self, request: &Request) -> Result<Answer, CallError> {
        match self.exchange(request) {
            Ok(Reply::Ok(answer)) => Ok(answer),
            Ok(Reply::Error(failure)) => Err(CallError::Refused(failure)),
            Err(reason) => Err(CallError::Broken {
                path: self.path.clone(),
                reason: reason.to_string(),
            }),
        }
    }

    fn exchange(&mut self, request: &Request) -> std::io::Result<Reply> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        line.clear();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
