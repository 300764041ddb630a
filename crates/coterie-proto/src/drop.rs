//! Why a packet or a datagram went no further. Every one that enters the core is delivered, sent, queued or counted here.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why something was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in metrics, `status` and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Inside: no IPv4 or IPv6 packet, or its lengths do not fit.
    MalformedPacket => "malformed-packet",
    /// Inside: the packet's source is not an address of this node.
    SourceNotOurs => "source-not-ours",
    /// Inside: multicast or broadcast, which an overlay of pairs does not carry.
    NotUnicast => "not-unicast",
    /// Inside: nobody in the directory has the destination.
    NoMember => "no-member",
    /// Inside: the destination's owner shares no community with us, or only such as are excluded.
    NoCommonCommunity => "no-common-community",
    /// Inside: the peer's outside address is not known.
    NoEndpoint => "no-endpoint",
    /// Inside: this node's own membership has ended.
    MembershipEnded => "membership-ended",
    /// Inside: too many packets wait for a session with this peer.
    QueueFull => "queue-full",
    /// Inside: the peer did not answer the handshake in time.
    NoAnswer => "no-answer",
    /// Outside: shorter than its type's header, or longer than its type may be.
    BadLength => "bad-length",
    /// Outside: a type or a reserved byte that version 1 does not have.
    UnknownType => "unknown-type",
    /// Outside: no community key verifies it.
    Stranger => "stranger",
    /// Outside: seen before.
    Replayed => "replayed",
    /// Outside: a source or a static key sends too many.
    RateLimited => "rate-limited",
    /// Outside: under load, and without a valid cookie.
    CookieWanted => "cookie-wanted",
    /// Outside: a tag does not check.
    Forged => "forged",
    /// Outside: a handshake message's contents are malformed or make no offer that we can take.
    BadHandshake => "bad-handshake",
    /// Outside: a statement that is foreign, ended, superseded, or not its bearer's.
    BadStatement => "bad-statement",
    /// From or to a member that is isolated, or whose membership was revoked.
    Revoked => "revoked",
    /// Outside: an epoch that does not admit.
    EpochClosed => "epoch-closed",
    /// Outside: our own initiation is under way and wins.
    LostTie => "lost-tie",
    /// Outside: the receiver index names nothing here.
    UnknownIndex => "unknown-index",
    /// Outside: a message that the state of the session or handshake does not expect.
    Unexpected => "unexpected",
    /// Outside: a lane that the peer did not announce.
    UnknownLane => "unknown-lane",
    /// Outside: a counter at the limit of its key.
    CounterLimit => "counter-limit",
    /// Outside: an inner source address that is not the sender's.
    SourceNotTheirs => "source-not-theirs",
    /// Outside: an inner destination that is not ours.
    DestinationNotOurs => "destination-not-ours",
    /// Outside: a control frame that is unknown or malformed.
    BadControl => "bad-control",
    /// A session ended while the packet was on its way.
    SessionEnded => "session-ended",
}

/// A count of drops by reason.
#[derive(Debug, Clone)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounts {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|r| (*r, self.get(*r)))
            .filter(|(_, n)| *n > 0)
    }

    /// All drops.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
