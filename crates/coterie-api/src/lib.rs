//! The contract between node, hand and server.
//!
//! [`node`] and [`client`]: requests and answers of a node's control socket, and a client for it. One JSON object a line, one
//! answer a request, over a Unix socket that only root (or the socket's group) may open. [`v1`]: what people and nodes say to
//! the configuration server and what it answers; `remote` (a feature) is a client of it. Fields are added, never renamed; times are in seconds unless the name says
//! otherwise.

pub mod client;
pub mod node;
#[cfg(feature = "remote")]
pub mod remote;
pub mod v1;

pub use client::{CallError, Client};
pub use node::{Answer, Failure, Reply, Request};

/// Where `coteried` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/coterie/coteried.sock";

/// Name of the nftables tables of a lockdown, which outlives `coteried`.
pub const LOCKDOWN_TABLE: &str = "coterie";
/// Priority of the first routing rule of a lockdown.
pub const LOCKDOWN_PRIORITY: u32 = 5_270;
