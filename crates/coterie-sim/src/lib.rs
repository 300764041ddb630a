//! The proving ground: a deterministic simulator of a whole enclave.
//!
//! Real nodes ([`coterie_proto::Node`]) run on hosts with bad clocks, on a wire that loses, repeats, delays, reorders, damages
//! and is cut; hosts crash, restart, move, are suspended, cloned and enrolled anew; an issuer rolls epochs, removes and
//! revokes. Checkers watch from outside all the while. A world is a function of its seed: `coterie-sim --seed N` lives it again.
//!
//! Start reading at [`world`]. [`transition`] lists what can happen, [`arb`] draws scenarios, [`reference`](mod@reference) says
//! who may reach whom, [`check`] what was promised. [`served`] is a second world: an enclave with a server, and the daemons that
//! follow it.
//!
//! Promise: no clock, no randomness, no sockets, no threads here; the binary has two threads, each with worlds of its own.

pub mod arb;
pub mod check;
pub mod clock;
pub mod enclave;
pub mod entropy;
pub mod host;
pub mod ladder;
pub mod link;
pub mod packet;
pub mod queue;
pub mod reference;
pub mod rng;
pub mod run;
pub mod served;
pub mod transition;
pub mod world;
