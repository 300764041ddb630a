use coterie_crypto::Refused;
use coterie_model::{Epoch, Name, UnixTime};

use crate::{
    bundle::{CertificateError, RequestError, date},
    file::Diagnostics,
};

/// Why an enclave does not do what it is asked for. What it had done until then is not to be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The enclave file has errors.
    #[error("the enclave file is not accepted:\n{0}")]
    File(Box<Diagnostics>),
    /// The enclave file is of another enclave.
    #[error(
        "the file describes enclave `{found}`, this directory is of enclave `{expected}`; use the file of `{expected}`"
    )]
    OtherEnclave {
        /// The directory's.
        expected: Name,
        /// The file's.
        found: Name,
    },
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No such member in the enclave file.
    #[error("the enclave file has no member `{0}`; add it to the file and run `coterie enclave update`")]
    UnknownMember(Name),
    /// No such template in the enclave file.
    #[error("the enclave file has no template `{0}`; add it to the file, or make a token for another one")]
    UnknownTemplate(Name),
    /// The name is a member's of another template.
    #[error("`{member}` is a member of template `{template}`; use a token for that one, or another name")]
    OtherTemplate {
        /// The member.
        member: Name,
        /// Its template.
        template: Name,
    },
    /// What was shown is no list of revocations that this enclave signed in this era.
    #[error("it is no list of revocations of this enclave")]
    ForeignList,
    /// The member is isolated.
    #[error("`{0}` is isolated; release it first, or revoke it")]
    Isolated(Name),
    /// The name is another machine's.
    #[error("another machine is member `{0}`; use another name, or end or revoke that one first")]
    NameInUse(Name),
    /// No address is left.
    #[error("the enclave's pools have no address left; add a pool, or make one larger")]
    PoolsUsedUp,
    /// A member of the file has an address that a token gave away.
    #[error(
        "`{member}` of the file has address {address}, which is in use by `{other}`; give `{member}` another address"
    )]
    AddressInUse {
        /// The address.
        address: core::net::IpAddr,
        /// The file's.
        member: Name,
        /// Who has it.
        other: Name,
    },
    /// No such community in the enclave file.
    #[error("the enclave file has no community `{0}`")]
    UnknownCommunity(Name),
    /// The member has made no request, or was revoked.
    #[error("member `{0}` is not enrolled; give the request that its machine made with `coterie bundle request`")]
    NotEnrolled(Name),
    /// The static key is another member's.
    #[error(
        "the static key of this request is the one of member `{0}`; make new keys on the machine and a new request"
    )]
    KeyInUse(Name),
    /// The static key was revoked.
    #[error(
        "the static key of this request was revoked, until {}; make new keys on the machine and a new request",
        date::text(*.0)
    )]
    KeyRevoked(UnixTime),
    /// The request has the static key of an enrolment but another identity key.
    #[error(
        "member `{0}` is enrolled with this static key and another identity key; make new keys on the machine and a new \
         request"
    )]
    OtherIdentity(Name),
    /// The request's sealing key.
    #[error("the sealing key of this request is no X-Wing key; make new keys on the machine and a new request")]
    SealingKey,
    /// A bundle was sealed to the request's sealing key before: what opens that one would open the new one too.
    #[error("a bundle of `{0}` was sealed to the sealing key of this request already; make a new sealing key for each")]
    SealingKeyUsed(Name),
    /// A scheduled epoch has not activated yet.
    #[error(
        "epoch {epoch} of community `{community}` was handed out and activates at {}; roll again after that, or with kind \
         removal", date::text(*.activates)
    )]
    NextPending {
        /// The community.
        community: Name,
        /// The epoch.
        epoch: Epoch,
        /// When it activates.
        activates: UnixTime,
    },
    /// Scheduled rolls came faster than epochs retire.
    #[error(
        "community `{community}` has as many epochs that admit as a member can hold; the first retires at {}; roll again \
         after that, or with kind removal", date::text(*.until)
    )]
    TooManyEpochs {
        /// The community.
        community: Name,
        /// When the first of them retires.
        until: UnixTime,
    },
    /// The clock is behind an earlier run.
    #[error("the clock says {}, but this enclave was used at {}; set the clock", date::text(*.now), date::text(*.latest))]
    ClockBehind {
        /// What it says.
        now: UnixTime,
        /// The latest use.
        latest: UnixTime,
    },
    /// A root that would be forgotten may still be what members trust.
    #[error(
        "the enclave has had as many roots as are remembered, and members may trust the oldest of them until {}; rotate after that",
        date::text(*.0)
    )]
    RootsInUse(UnixTime),
    /// The authority has ended.
    #[error("the enclave's authority ended at {}; make a new enclave with `coterie enclave init`", date::text(*.0))]
    AuthorityEnded(UnixTime),
    /// The list of revocations is full.
    #[error("{0} static keys are revoked, the most that a list holds; wait until the first of them have ended")]
    TooManyRevocations(usize),
    /// One name went from machine to machine too often.
    #[error(
        "the name `{0}` was taken over too often by one machine after another; find out which is the right one, and revoke \
         the member, or wait until its earlier statements have ended"
    )]
    TooOften(Name),
    /// Too many names were taken over.
    #[error(
        "too many names were taken over by other machines, so `{0}` is not; wait until statements of the earlier machines \
         have ended, or end the member first"
    )]
    TooManyReplacements(Name),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(CertificateError),
    /// A file of the directory is missing.
    #[error(
        "{path} is missing from the enclave directory; restore it, or make a new enclave with `coterie enclave init`"
    )]
    Missing {
        /// Relative to the directory.
        path: &'static str,
    },
    /// A file of the directory cannot be used.
    #[error("{path}: {reason}; restore the enclave directory as a whole")]
    Damaged {
        /// Relative to the directory.
        path: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The key of an epoch is not in the directory.
    #[error(
        "the key of epoch {epoch} of community `{community}` is missing from {}; restore the enclave directory as a \
             whole, or roll the community with kind removal",
        super::files::EPOCHS
    )]
    MissingKey {
        /// The community.
        community: Name,
        /// The epoch.
        epoch: Epoch,
    },
    /// The bundle would be longer than is read.
    #[error(
        "the bundle of member `{member}` would have {bytes} bytes, more than {} are read; put the member in fewer communities",
        crate::bundle::MAX_BYTES
    )]
    TooLarge {
        /// The member.
        member: Name,
        /// Bytes of the file.
        bytes: usize,
    },
}

impl From<CertificateError> for IssueError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

impl From<Refused> for IssueError {
    /// The one primitive that can refuse an issuer is the seal to a request's sealing key.
    fn from(_refused: Refused) -> Self {
        Self::SealingKey
    }
}
