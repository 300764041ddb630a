//! Pure decisions of Coterie.
//!
//! Nothing here reads a clock, draws a random number, opens a file or a socket, or takes a lock: bytes, text and
//! values come in as arguments, values go out. The same input gives the same output, on every machine and every day.
//! The crate's `clippy.toml` bans what would break that promise.
//!
//! * [`file`]: the *enclave file*, one TOML file that describes an enclave: parser, validation with positions, policy
//!   tests, JSON Schema.

pub mod file;
