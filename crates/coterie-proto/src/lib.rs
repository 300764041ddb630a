//! The data plane of Coterie as a sans-IO core: bytes, time and entropy in; bytes, records and events out.
//!
//! Promise: nothing here opens a socket, reads a clock, draws from the operating system, takes a lock or awaits. The
//! same inputs in the same order give the same outputs, so a simulator replays a whole world from one seed. The
//! promise is kept by `clippy.toml` beside this crate and by `xtask edges`.
//!
//! Start reading at [`node`], whose head has a packet's way in five steps; the bytes are in `docs/WIRE.md`, whose
//! sections the comments here cite.

pub mod bootstrap;
pub mod drop;
pub mod handshake;
pub mod limit;
pub mod membership;
pub mod node;
pub mod query;
pub mod schedule;
pub mod session;
pub mod wire;

pub use drop::DropReason;
pub use node::{Config, Event, Node, Outcome, Persist, Ports, Update, ViewPiece};
