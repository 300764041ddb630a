//! A node's end of the stream: what it knows of the server, what it asks for and when, and what a message means for the core.

use std::collections::BTreeSet;
use std::time::Duration;

use coterie_control::{
    bundle::{Keys, Opened, TemplateSettings},
    follow::{Knocking, Message, ViewPiece as Told},
};
use coterie_crypto::{aead::Suite, sign::VerifyingKey};
use coterie_model::{
    CommunityTag, DirectoryEntry, Epoch, Head, Manifest, Name, Revision, Revocations, Serial, Signed, Statement,
    UnixTime, Unverified,
};
use coterie_proto::{Update, ViewPiece, handshake::payload::Suites};

use crate::{clock::Moment, rng::Rng};

/// A node that hears nothing for so long connects anew.
pub const SILENCE: Duration = Duration::from_secs(6);
/// First and longest wait before it tries again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Longest wait for a bundle before it is asked for again.
const BUNDLE: Duration = Duration::from_secs(5);
/// How long it waits at least before it asks again on its own account.
const REST: Duration = Duration::from_secs(15);
/// Longest random wait before a bundle is asked for because the server said so.
const SPREAD: Duration = Duration::from_secs(2);

/// The connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// There is none until then.
    Down {
        /// When it is tried.
        again: Moment,
        /// How often it was.
        tries: u32,
    },
    /// It was opened.
    Up {
        /// Its number.
        connection: u64,
        /// When something was heard last, or it was opened.
        heard: Moment,
        /// How often it was tried before.
        tries: u32,
        /// Since when the stream flows.
        since: Option<Moment>,
    },
}

/// A request for a bundle under way.
pub struct Asked {
    /// The keys with a sealing key for this delivery.
    pub keys: Keys,
    /// When it is given up.
    pub until: Moment,
    /// Something came since that the answer may not know.
    pub overtaken: bool,
}

/// What a message has the daemon do.
pub enum Effect {
    /// The core learns something; the head that is in it, to be kept.
    Update(Box<Update>, Option<Signed<Head>>),
    /// All epochs of a community.
    Epochs(CommunityTag, Vec<Signed<Manifest>>),
    /// Tokens that open the door.
    Knocks(Vec<Knocking>),
    /// Nothing more.
    Nothing,
    /// The message does not check: an honest server sends none such.
    Bad,
}

/// What of a bundle a running core cannot change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Suites that it may use, and the one that it would like.
    pub suites: (Suites, Suite),
    /// Peers may move.
    pub roaming: bool,
}

/// A node's end of the stream.
pub struct Follower {
    /// The connection.
    pub link: Link,
    /// The last change that it was told.
    pub mark: Revision,
    /// Of its bundle.
    pub serial: Serial,
    /// When it wants to ask for a bundle.
    pub wants: Option<Moment>,
    /// The request under way.
    pub asked: Option<Asked>,
    /// What its core cannot change.
    pub fixed: Fixed,
    /// Half of the lease, in protocol time, is over then.
    half: UnixTime,
    /// It does not ask on its own account before: a clock that is behind gives bundles that are old when they come.
    rests: Moment,
    verifying: VerifyingKey,
    held: BTreeSet<(CommunityTag, Epoch)>,
}

impl Fixed {
    /// What a template fixes.
    ///
    /// # Panics
    /// Never: a template names a suite at least.
    #[must_use]
    pub fn of(template: &TemplateSettings) -> Self {
        let all = Suites::new(&template.suites).unwrap_or_else(|| Suites::new(&[Suite::Aes256Gcm]).expect("one suite"));
        let own = if all.has(Suite::Aes256Gcm) {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        };
        Self {
            suites: (all, template.preferred.unwrap_or(own)),
            roaming: template.roaming,
        }
    }
}

impl Follower {
    /// A node with this bundle that was told everything up to `mark`, which connects at `now`.
    #[must_use]
    pub fn new(opened: &Opened, mark: Revision, now: Moment) -> Self {
        let mut this = Self {
            link: Link::Down { again: now, tries: 0 },
            mark,
            serial: 0,
            wants: None,
            asked: None,
            fixed: Fixed::of(&opened.template),
            half: UnixTime(0),
            rests: now,
            verifying: opened.authority.statement_key,
            held: BTreeSet::new(),
        };
        this.note(opened);
        this
    }

    /// Another bundle is in force.
    pub fn note(&mut self, opened: &Opened) {
        self.serial = opened.serial;
        self.fixed = Fixed::of(&opened.template);
        self.half = opened.issued.plus(opened.not_after.since(opened.issued) / 2);
        self.verifying = opened.authority.statement_key;
        self.held = opened.keys.iter().map(|key| (key.tag, key.epoch)).collect();
    }

    /// The connection that is up.
    #[must_use]
    pub const fn connection(&self) -> Option<u64> {
        match self.link {
            Link::Up { connection, .. } => Some(connection),
            Link::Down { .. } => None,
        }
    }

    /// Since when the stream flows.
    #[must_use]
    pub const fn flows_since(&self) -> Option<Moment> {
        match self.link {
            Link::Up { since, .. } => since,
            Link::Down { .. } => None,
        }
    }

    /// Something was heard.
    pub const fn hear(&mut self, now: Moment) {
        if let Link::Up {
            heard, since, tries, ..
        } = &mut self.link
        {
            *heard = now;
            *tries = 0;
            if since.is_none() {
                *since = Some(now);
            }
        }
    }

    /// The connection is over.
    pub fn lose(&mut self, now: Moment, rng: &mut Rng) {
        let tries = match self.link {
            Link::Up { tries, .. } | Link::Down { tries, .. } => tries,
        };
        let wait = (AGAIN.0 * (1 << tries.min(5))).min(AGAIN.1);
        let again = now + rng.between(wait / 2, wait * 3 / 2);
        self.link = Link::Down {
            again,
            tries: tries + 1,
        };
        if self.asked.take().is_some() {
            self.wants = Some(now);
        }
    }

    /// The server told to ask for a bundle, or something shows that one is needed.
    pub fn want(&mut self, now: Moment, rng: &mut Rng) {
        if let Some(asked) = &mut self.asked {
            asked.overtaken = true;
        }
        let at = now + rng.between(Duration::ZERO, SPREAD);
        self.wants = Some(self.wants.map_or(at, |other| other.min(at)));
    }

    /// Whether it is time to ask for a bundle, at protocol time `time`.
    pub fn should_ask(&mut self, time: UnixTime, now: Moment, rng: &mut Rng) -> bool {
        if self.asked.as_ref().is_some_and(|asked| asked.until <= now) {
            self.asked = None;
            self.wants = Some(now);
        }
        if time >= self.half && self.rests <= now && self.wants.is_none() && self.asked.is_none() {
            self.rests = now + REST;
            self.want(now, rng);
        }
        self.asked.is_none() && self.flows_since().is_some() && self.wants.is_some_and(|at| at <= now)
    }

    /// A request leaves, with these keys.
    pub fn ask(&mut self, keys: Keys, now: Moment) {
        self.wants = None;
        self.asked = Some(Asked {
            keys,
            until: now + BUNDLE,
            overtaken: false,
        });
    }

    /// What a message means, where revocations up to `revision` are known and the newest head is of `head`.
    pub fn take(&mut self, body: &[u8], (revision, head): (Revision, UnixTime), now: Moment, rng: &mut Rng) -> Effect {
        let Ok(message) = Message::parse(body) else {
            return Effect::Bad;
        };
        let (mut update, mut kept) = (Update::default(), None);
        match message {
            Message::Pulse(pulse) => {
                let Ok(signed) = pulse.clone().verify(&self.verifying) else {
                    return Effect::Bad;
                };
                kept = Some(signed).filter(|signed| signed.revision == revision && signed.time >= head);
                update.head = Some(pulse);
            }
            Message::Revocations(list) => update.revocations = Some(list),
            Message::Manifests(tag, manifests) => {
                let checked = manifests.into_iter().map(|manifest| manifest.verify(&self.verifying));
                let checked: Result<Vec<Signed<Manifest>>, _> = checked.collect();
                return checked.map_or(Effect::Bad, |epochs| Effect::Epochs(tag, epochs));
            }
            Message::View(piece) => match checked(piece, &self.verifying) {
                Some(piece) => update.views.push(piece),
                None => return Effect::Bad,
            },
            Message::Renew => {
                self.want(now, rng);
                return Effect::Nothing;
            }
            Message::Knocks(knocks) => return Effect::Knocks(knocks),
            Message::Mark(mark) => {
                self.mark = mark;
                return Effect::Nothing;
            }
            Message::Explain { .. } => return Effect::Nothing,
        }
        Effect::Update(Box::new(update), kept)
    }

    /// Whether it holds a key of this epoch.
    #[must_use]
    pub fn holds(&self, tag: CommunityTag, epoch: Epoch) -> bool {
        self.held.contains(&(tag, epoch))
    }
}

/// A piece of a view whose statements were checked; `None` when one does not.
fn checked(piece: Told, key: &VerifyingKey) -> Option<ViewPiece> {
    let mut entries = Vec::with_capacity(piece.entries.len());
    for entry in piece.entries {
        let statements = entry.statements.into_iter().map(|statement| statement.verify(key));
        let statements: Vec<Signed<Statement>> = statements.collect::<Result<_, _>>().ok()?;
        if statements.iter().any(|s| s.tag != piece.tag || s.name != entry.name) {
            return None;
        }
        entries.push(DirectoryEntry {
            name: entry.name,
            communities: entry.communities,
            addresses: entry.addresses,
            endpoints: entry.endpoints,
            statements,
        });
    }
    Some(ViewPiece {
        tag: piece.tag,
        begins: piece.begins,
        ends: piece.ends,
        entries,
        gone: piece.gone,
    })
}

/// What a bundle tells the core that is made from it.
#[must_use]
pub fn update(opened: &Opened) -> Update {
    let list = opened.revocations.as_ref().map(Signed::bytes);
    let head = opened.head.as_ref().map(Signed::bytes);
    Update {
        manifests: opened.manifests.clone(),
        keys: opened.keys.iter().map(coterie_model::EpochKey::duplicate).collect(),
        statements: opened.statements.clone(),
        directory: opened.directory.clone(),
        revocations: list.and_then(|bytes| Unverified::<Revocations>::parse(bytes).ok()),
        head: head.and_then(|bytes| Unverified::<Head>::parse(bytes).ok()),
        exclude: Some(opened.template.exclude.clone()),
        complete: true,
        ..Update::default()
    }
}

/// What it tells a core that runs: revocations and heads are the stream's, which may be ahead of it, and so is who is where.
#[must_use]
pub fn renewal(opened: &Opened) -> Update {
    Update {
        revocations: None,
        head: None,
        ..update(opened)
    }
}

/// Names of a view that was kept, for a node that starts without the server.
#[must_use]
pub fn kept(tag: CommunityTag, entries: Vec<DirectoryEntry>) -> ViewPiece {
    ViewPiece {
        tag,
        begins: true,
        ends: true,
        entries,
        gone: Vec::<Name>::new(),
    }
}
