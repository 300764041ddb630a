//! Everything that can happen to an enclave with a server, as values: a scenario is a list of them. Machines are numbers, tokens
//! are numbers in the order of their making, communities and templates are names of the enclave file.

use std::time::Duration;

use super::machine::Hostility;
use crate::transition::transitions;

/// A change of the enclave file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A member of the file comes into a community, or leaves it.
    Move {
        /// The member.
        member: String,
        /// The community.
        community: String,
    },
    /// A community is added, and given to a template.
    Add {
        /// The community.
        community: String,
        /// The template.
        template: String,
    },
    /// A community is removed.
    Remove {
        /// The community.
        community: String,
    },
    /// A template is given a community, or loses it.
    Hold {
        /// The template.
        template: String,
        /// The community.
        community: String,
    },
    /// Whether the members of a template may move changes, which a running core cannot take over.
    Roam {
        /// The template.
        template: String,
    },
}

transitions! {
    /// A join token is made and given to a machine.
    CreateToken {
        /// Machine.
        machine: usize,
        /// How many members it makes.
        uses: usize,
        /// How long it lives.
        lasts: Duration,
        /// It names the server; else doors.
        direct: bool,
    },
    /// A machine is switched on, and applies with its token.
    Enrol {
        /// Machine.
        machine: usize,
    },
    /// A machine applies with a token that another one has spent.
    EnrolSpent {
        /// Machine.
        machine: usize,
        /// Whose token.
        other: usize,
    },
    /// A machine that the file names is enrolled by hand.
    EnrolByHand {
        /// Machine.
        machine: usize,
    },
    /// A door serves another master.
    HostileDoor {
        /// Machine.
        machine: usize,
        /// What it does.
        does: Hostility,
    },
    /// A hostile door applies with what it knows, and shows again what it carried.
    DoorAttacks {
        /// Machine.
        machine: usize,
    },
    /// A machine that was made anew takes a name over, with a token for it.
    TakeOver {
        /// Machine whose name it is.
        machine: usize,
    },
    /// A member is isolated.
    Isolate {
        /// Machine.
        machine: usize,
    },
    /// A member is released.
    Release {
        /// Machine.
        machine: usize,
    },
    /// A member is revoked, and what it held gets new keys.
    Revoke {
        /// Machine.
        machine: usize,
    },
    /// A machine stops for good, and says so.
    Leave {
        /// Machine.
        machine: usize,
    },
    /// An administrator says that a machine is gone; it is not.
    End {
        /// Machine.
        machine: usize,
    },
    /// Many members are ended at once.
    EndMany {
        /// Machines.
        machines: Vec<usize>,
    },
    /// A community gets a new key by schedule.
    RollScheduled {
        /// Community.
        community: String,
        /// It activates in.
        ahead: Duration,
    },
    /// A community gets a new key at once.
    RollRemoval {
        /// Community.
        community: String,
    },
    /// A member of the file comes into a community or leaves it.
    MoveMember {
        /// The change.
        edit: Edit,
    },
    /// A community is added.
    AddCommunity {
        /// The change.
        edit: Edit,
    },
    /// A community is removed.
    RemoveCommunity {
        /// The change.
        edit: Edit,
    },
    /// A template changes.
    ChangeTemplate {
        /// The change.
        edit: Edit,
    },
    /// A node asks for a new bundle on its own account.
    Renew {
        /// Machine.
        machine: usize,
    },
    /// The server stops.
    ServerDown,
    /// The server starts.
    ServerUp,
    /// The server is killed in the next transaction, before it commits.
    KillBeforeCommit,
    /// The server is killed in the next transaction, after it commits and before it tells anybody.
    KillAfterCommit,
    /// The server's clock is set.
    ServerClock {
        /// By so many seconds.
        by: i64,
    },
    /// A backup is made.
    Backup,
    /// The newest backup is restored, and the server started on it.
    Restore,
    /// The enclave's trust anchor is replaced.
    RotateRoot,
    /// The log of changes is cut: who was away is told everything.
    PruneLog,
    /// A node's connection breaks.
    BreakStream {
        /// Machine.
        machine: usize,
    },
    /// A node does not read: words for it are lost, and it is told everything later.
    Lag {
        /// Machine.
        machine: usize,
    },
    /// Nothing passes between a machine and the server, or again.
    CutServer {
        /// Machine.
        machine: usize,
    },
    /// A daemon is killed and started.
    KillNode {
        /// Machine.
        machine: usize,
    },
    /// A daemon is killed, and started later.
    StopNode {
        /// Machine.
        machine: usize,
        /// How much later.
        lasts: Duration,
    },
    /// A machine reboots with a new token for its name.
    RebootWithToken {
        /// Machine.
        machine: usize,
    },
    /// A machine reboots with what is on its disk: a ticket, or nothing that lets it in.
    Reboot {
        /// Machine.
        machine: usize,
    },
    /// A copy of a machine's disk boots.
    Clone {
        /// Machine.
        machine: usize,
    },
    /// A machine notices that its memory was copied.
    Fork {
        /// Machine.
        machine: usize,
    },
    /// The wire is bad, in thousandths.
    Faults {
        /// Datagrams that are lost.
        loss: u64,
        /// Datagrams that come twice.
        duplicate: u64,
        /// Datagrams that are held back.
        reorder: u64,
        /// Datagrams that are damaged.
        corrupt: u64,
    },
    /// The way between two machines is cut.
    Partition {
        /// One.
        a: usize,
        /// The other.
        b: usize,
        /// The way back is not.
        one_way: bool,
    },
    /// The wire is as good as new.
    Heal,
    /// A machine's running time leaps.
    ClockLeap {
        /// Machine.
        machine: usize,
        /// By.
        by: Duration,
    },
    /// A program sends packets.
    Traffic {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// How many.
        count: u32,
    },
    /// A machine that the server does not reach sends to one whose key it does not know, which it asks itself.
    Query {
        /// From.
        from: usize,
        /// To.
        to: usize,
    },
    /// Somebody sends again what passed on the wire.
    ReplayDatagrams {
        /// How many.
        count: u32,
    },
}
