//! Hosts made of network namespaces on this machine, for the demo, the tests and the benchmarks.
//!
//! A [`Lab`] has bridges, wires between them, and hosts on them. Hosts run real programs on real kernel interfaces; a
//! [`Neighbour`] listens to every wire and sends what he likes. The lab knows nothing of what runs on it.
//!
//! It works for root and, by a user namespace, for anybody else. Nothing of it is visible to the machine, and nothing
//! outlives the program, however that ends: see [`ensure_privileges`].
//!
//! ```no_run
//! use coterie_lab::{CaptureOptions, Lab, LabOptions};
//!
//! fn main() -> coterie_lab::Result<()> {
//!     coterie_lab::ensure_privileges()?;
//!     let lab = Lab::new(LabOptions::default())?;
//!     let (one, two) = (lab.bridge("rack-1")?, lab.bridge("rack-2")?);
//!     lab.link(&one, &two)?;
//!     let web = lab.host("web-1", &one, &["192.0.2.1/24".parse().expect("an address")])?;
//!     let app = lab.host("app-1", &two, &["192.0.2.2/24".parse().expect("an address")])?;
//!     let mallory = lab.neighbour("mallory", &one, &[], CaptureOptions::default().canary("needle"))?;
//!     web.run("ping", &["-c", "1", "-p", "6e6565646c65", "app-1"])?.check()?;
//!     assert!(mallory.capture().sightings("needle") > 0, "ping does not encrypt");
//!     # let _ = app;
//!     Ok(())
//! }
//! ```

mod address;
mod capture;
mod command;
mod error;
mod event;
mod fabric;
mod frame;
mod host;
mod impairment;
mod lab;
mod namespace;
mod neighbour;
mod privilege;
pub mod programs;
mod random;
mod wait;

pub use address::MacAddr;
pub use capture::{Answers, Capture, CaptureOptions, CapturedFrame};
pub use command::{Child, HostCommand, Identity, Output};
pub use error::{LabError, Result};
pub use event::Event;
pub use fabric::{Bridge, Wire};
pub use frame::{Frame, Kind, Network};
pub use host::{Host, OUTSIDE};
pub use impairment::{Impairment, WireCounts};
pub use lab::{Lab, LabOptions};
pub use neighbour::{Mutation, Neighbour, Spent};
pub use privilege::{Inside, ensure_privileges, within_namespaces};
pub use wait::{retry, wait_for};

/// Signals, for [`Child::signal`].
pub use rustix::process::Signal;
