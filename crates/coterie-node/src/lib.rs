//! The node daemon: joins the sans-IO core (`coterie-proto`) to the operating system's edge (`coterie-io`).
//!
//! One thread carries every packet ([`driver`]): it reads a batch, hands it to the core, sends what came of it, and waits
//! for the next. It awaits nothing, takes no lock and allocates nothing for a packet that has a session. People and
//! signals reach it through one channel and one wake-up ([`requests`]).
//!
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`daemon`] | start and stop, in order |
//! | [`identity`] | bundle and keys; how they survive kill -9 and restart |
//! | [`enrol`] | from a join token to an identity |
//! | [`journal`] | counters that must survive with them |
//! | [`network`] | TUN device, addresses, routes, lockdown |
//! | [`driver`] | the loop |
//! | [`follow`] | the server: what it tells and is asked, in a thread of its own |
//! | [`visitors`] | whom this node let in as a door |
//! | [`requests`] | control socket and signals |
//! | [`certificates`] | who the machine is, as files for other programs |
//! | [`service`] | what the service manager is told |
//! | [`answers`] | the core's values in the contract's words |
//! | [`metrics`] | the same for Prometheus |

pub mod answers;
pub mod certificates;
pub mod daemon;
mod disk;
pub mod driver;
pub mod enrol;
pub mod entropy;
pub mod follow;
mod hex;
pub mod identity;
pub mod journal;
pub mod metrics;
pub mod network;
pub mod options;
pub mod requests;
pub mod service;
pub mod visitors;
