//! A client of the configuration server: HTTP/2 over TLS 1.3.
//!
//! Who calls opens the TCP connection, because a node marks its sockets; [`dial`] does it for everybody else.
//! [`Tls`] says whom to trust and as whom to appear, [`Connection::open`] makes the connection, which can be cloned and used
//! for many requests at once. Nothing is tried again here: who calls knows whether it may.

mod connection;
mod error;
mod tls;

pub use connection::{ANSWER_TIME, BodyStream, Connection, Frames, OPEN_TIME, Response, dial};
pub use error::RemoteError;
pub use tls::{Identity, Root, RootCheck, Tls, Trust};
