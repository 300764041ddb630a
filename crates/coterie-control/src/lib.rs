//! Pure decisions of Coterie.
//!
//! Nothing here reads a clock, draws a random number, opens a file or a socket, or takes a lock: bytes, text and
//! values come in as arguments, values go out. The same input gives the same output, on every machine and every day.
//! The crate's `clippy.toml` bans what would break that promise.
//!
//! * [`mod@file`]: the *enclave file*, one TOML file that describes an enclave: parser, validation with positions, policy
//!   tests, JSON Schema;
//! * [`bundle`]: what a machine is given to become a member, and its request for it;
//! * [`enrol`]: what a machine with a join token and the server say to each other;
//! * [`issue`]: the issuer of an enclave, with a server and without;
//! * [`follow`]: what members are told of changes.

pub mod bundle;
pub mod enrol;
pub mod file;
pub mod follow;
pub mod issue;
