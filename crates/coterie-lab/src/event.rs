//! What happens in a lab, for whoever shows it.

use std::fmt;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A bridge is up.
    Bridge {
        /// Its name.
        name: String,
    },
    /// Two bridges are joined.
    Link {
        /// One bridge.
        from: String,
        /// The other.
        to: String,
    },
    /// A host is up, with its addresses.
    Host {
        /// Its name.
        name: String,
        /// The bridge that it is attached to.
        bridge: String,
    },
    /// A program was started on a host.
    Started {
        /// The host's name.
        host: String,
        /// The program's file name.
        program: String,
        /// Its process id, inside the lab.
        pid: u32,
    },
    /// A program that was started ended, by itself or by a signal.
    Ended {
        /// The host's name.
        host: String,
        /// The program's file name.
        program: String,
        /// How, in words.
        status: String,
    },
    /// The lab is being taken down.
    Down,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge { name } => write!(f, "bridge {name}"),
            Self::Link { from, to } => write!(f, "link {from} - {to}"),
            Self::Host { name, bridge } => write!(f, "host {name} on {bridge}"),
            Self::Started { host, program, pid } => write!(f, "{host}: {program} started (process {pid})"),
            Self::Ended { host, program, status } => write!(f, "{host}: {program} ended ({status})"),
            Self::Down => f.write_str("lab down"),
        }
    }
}

type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// Who listens.
#[derive(Default)]
pub(crate) struct Listeners(std::sync::RwLock<Vec<Listener>>);

impl Listeners {
    pub(crate) fn add(&self, listener: Listener) {
        self.0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(listener);
    }

    pub(crate) fn tell(&self, event: &Event) {
        for listener in self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            listener(event);
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}
