//! Members that no file names: they come by tokens and go with their machines.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod members;
mod renewal;
mod site;
mod state;
mod takeover;
