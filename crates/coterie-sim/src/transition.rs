//! Everything that can happen to a world, as values: a scenario is a list of them.

use std::time::Duration;

/// Who notices that a machine was forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Nobody.
    None,
    /// The copy.
    Twin,
    /// The copy and the original, as when one snapshot is restored twice.
    Both,
}

macro_rules! transitions {
    ($($(#[$doc:meta])* $name:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })? ,)*) => {
        /// One thing that happens. Hosts, machines, communities and tokens are numbers.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Transition { $($(#[$doc])* $name $({ $($(#[$field_doc])* $field: $type),* })?,)* }

        impl Transition {
            /// The names of all kinds.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($name)),*];

            /// The name of its kind.
            #[must_use]
            pub const fn kind(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name),)* }
            }
        }
    };
}

pub(crate) use transitions;

transitions! {
    /// A program sends one packet.
    SendPacket {
        /// Host.
        from: usize,
        /// Machine.
        to: usize,
    },
    /// A program sends many packets at once.
    Burst {
        /// Host.
        from: usize,
        /// Machine.
        to: usize,
        /// How many.
        count: u32,
    },
    /// Two hosts call each other in the same instant.
    OpenBothWays {
        /// One host.
        a: usize,
        /// The other.
        b: usize,
    },
    /// The wire loses, in thousandths.
    Loss {
        /// Chance.
        permille: u64,
    },
    /// The wire repeats.
    Duplicate {
        /// Chance.
        permille: u64,
    },
    /// The wire holds datagrams back.
    Reorder {
        /// Chance.
        permille: u64,
    },
    /// The wire damages.
    CorruptDatagrams {
        /// Chance.
        permille: u64,
    },
    /// The wire is slow.
    Delay {
        /// At least.
        delay: Duration,
        /// More, at most.
        jitter: Duration,
    },
    /// The way between two hosts is cut.
    Partition {
        /// From.
        a: usize,
        /// To.
        b: usize,
        /// The way back is not.
        one_way: bool,
    },
    /// A host is cut from everybody.
    Isolate {
        /// Host.
        host: usize,
    },
    /// The wire is as good as new.
    Heal,
    /// A daemon is killed.
    Crash {
        /// Host.
        host: usize,
        /// Between storing its records and sending.
        torn: bool,
    },
    /// A daemon is started, or killed and started.
    Restart {
        /// Host.
        host: usize,
    },
    /// A daemon goes down in good order.
    ShutDown {
        /// Host.
        host: usize,
    },
    /// A machine lost its disk and is enrolled anew.
    ReEnrol {
        /// Machine.
        machine: usize,
    },
    /// A machine runs twice from here on.
    Fork {
        /// Host.
        host: usize,
        /// Who notices.
        notice: Notice,
    },
    /// A host gets another outside address.
    Roam {
        /// Host.
        host: usize,
        /// The directory learns it.
        told: bool,
    },
    /// Running time leaps forward.
    ClockLeap {
        /// Host.
        host: usize,
        /// By.
        by: Duration,
    },
    /// The wall clock is set.
    WallClock {
        /// Host.
        host: usize,
        /// By so many seconds.
        by: i64,
    },
    /// A machine is suspended.
    Pause {
        /// Host.
        host: usize,
        /// For how long.
        lasts: Duration,
        /// Its running time shows it afterwards.
        leaps: bool,
    },
    /// A planned epoch.
    RollEpoch {
        /// Community.
        community: usize,
        /// It activates in.
        ahead: Duration,
    },
    /// A member is removed from a community, whose key changes at once.
    RemovalRoll {
        /// Community.
        community: usize,
        /// Machine.
        machine: usize,
    },
    /// A machine is revoked.
    Revoke {
        /// Machine.
        machine: usize,
    },
    /// A machine gets new statements.
    RenewStatements {
        /// Machine.
        machine: usize,
    },
    /// A machine joins a community.
    AddMember {
        /// Community.
        community: usize,
        /// Machine.
        machine: usize,
    },
    /// A host is given other exclusions.
    ChangeExclusion {
        /// Host.
        host: usize,
        /// Machines.
        exclude: Vec<usize>,
        /// By a restart with another configuration; else it is told while it runs.
        restart: bool,
    },
    /// The issuer no longer gets through to a host, or does again.
    LoseUpdates {
        /// Host.
        host: usize,
    },
    /// Somebody tells a host what the issuer told it long ago.
    StaleUpdate {
        /// Host.
        host: usize,
    },
    /// Somebody sends again what passed on the wire.
    ReplayOldDatagrams {
        /// How many.
        count: u32,
        /// From addresses of his own.
        elsewhere: bool,
    },
    /// Somebody sends nonsense that looks like something.
    InjectGarbage {
        /// Host.
        host: usize,
        /// How many.
        count: u32,
    },
}
