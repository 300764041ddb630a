//! What the server has committed, told as history: which keys shared a community when, and which were refused. It knows no
//! packets, sessions or streams.

use std::collections::{BTreeMap, BTreeSet};

use coterie_control::issue::Enclave;
use coterie_crypto::dh::PublicKey;
use coterie_model::{Name, Revision, UnixTime};

use crate::clock::Moment;

/// A key's time in a community.
#[derive(Debug, Clone)]
struct Span {
    key: PublicKey,
    community: Name,
    from: Moment,
    /// The end, with the revision of the server that told it.
    until: Option<(Moment, Revision)>,
}

/// A key's time on the list of those who are refused.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// The key.
    pub key: PublicKey,
    /// Since when.
    pub from: Moment,
    /// The revision of the list that named it first.
    pub list: Revision,
    /// Until when.
    pub until: Option<Moment>,
}

/// The end of what two keys shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// When it was; now, if it still is.
    pub at: Moment,
    /// The revision that ended it; `None` while it lasts.
    pub ended: Option<Revision>,
}

/// History as it was committed.
#[derive(Debug, Default)]
pub struct Truth {
    spans: Vec<Span>,
    refusals: Vec<Refusal>,
    /// When the last statement of each key ends.
    ends: BTreeMap<PublicKey, UnixTime>,
    names: BTreeMap<PublicKey, Name>,
    /// Newest list of the refused.
    list: Revision,
    /// When each list was committed that refuses somebody who was not refused before.
    pub lists: Vec<(Revision, Moment)>,
}

impl Truth {
    /// Something was committed: `enclave` is what there is from `now` on, and `revision` what told it.
    pub fn observe(&mut self, enclave: &Enclave, revision: Revision, now: Moment) {
        let mut current: BTreeSet<(PublicKey, Name)> = BTreeSet::new();
        for (name, enrolled) in enclave.enrolled() {
            let (Some(key), Some(seat)) = (enclave.static_key(name), enclave.seat(name)) else {
                continue;
            };
            self.names.entry(*key).or_insert_with(|| name.clone());
            let end = self.ends.entry(*key).or_default();
            *end = enrolled.not_after.max(*end);
            current.extend(seat.communities.iter().map(|community| (*key, community.clone())));
        }
        for span in self.spans.iter_mut().filter(|span| span.until.is_none()) {
            if !current.remove(&(span.key, span.community.clone())) {
                span.until = Some((now, revision));
            }
        }
        self.spans.extend(current.into_iter().map(|(key, community)| Span {
            key,
            community,
            from: now,
            until: None,
        }));
        let Some(list) = enclave.revocations() else { return };
        let listed: BTreeSet<PublicKey> = list.entries.iter().map(|entry| entry.static_key).collect();
        for refusal in self.refusals.iter_mut().filter(|refusal| refusal.until.is_none()) {
            if !listed.contains(&refusal.key) {
                refusal.until = Some(now);
            }
        }
        let refused: BTreeSet<PublicKey> = self.refused().map(|refusal| refusal.key).collect();
        let fresh: Vec<PublicKey> = listed.difference(&refused).copied().collect();
        if !fresh.is_empty() {
            self.lists.push((list.revision, now));
        }
        self.refusals.extend(fresh.into_iter().map(|key| Refusal {
            key,
            from: now,
            list: list.revision,
            until: None,
        }));
        self.list = list.revision;
    }

    /// Who is refused now.
    pub fn refused(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.iter().filter(|refusal| refusal.until.is_none())
    }

    /// The refusal of a key that is in force.
    #[must_use]
    pub fn refusal(&self, key: &PublicKey) -> Option<&Refusal> {
        self.refused().find(|refusal| refusal.key == *key)
    }

    /// The revision of the newest list.
    #[must_use]
    pub const fn newest_list(&self) -> Revision {
        self.list
    }

    /// Whose key it is.
    #[must_use]
    pub fn name(&self, key: &PublicKey) -> Option<&Name> {
        self.names.get(key)
    }

    /// When the last statement of a key ends.
    #[must_use]
    pub fn ends(&self, key: &PublicKey) -> Option<UnixTime> {
        self.ends.get(key).copied()
    }

    /// Keys that ever were `name`'s.
    pub fn keys_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a PublicKey> {
        self.names.iter().filter(move |(_, of)| *of == name).map(|(key, _)| key)
    }

    /// The communities that a key is in now.
    #[must_use]
    pub fn communities(&self, key: &PublicKey) -> BTreeSet<&Name> {
        let current = self
            .spans
            .iter()
            .filter(|span| span.key == *key && span.until.is_none());
        current.map(|span| &span.community).collect()
    }

    /// The last time that two keys shared a community, or this one; `None` when they never did.
    #[must_use]
    pub fn shared(&self, a: &PublicKey, b: &PublicKey, only: Option<&Name>, now: Moment) -> Option<Shared> {
        let of = |key: PublicKey| {
            let spans = self.spans.iter().filter(move |span| span.key == key);
            spans.filter(move |span| only.is_none_or(|only| *only == span.community))
        };
        let mut last: Option<Shared> = None;
        for one in of(*a) {
            for other in of(*b).filter(|other| other.community == one.community) {
                let end = match (one.until, other.until) {
                    (None, None) => Shared { at: now, ended: None },
                    (Some((at, ended)), None) | (None, Some((at, ended))) => Shared { at, ended: Some(ended) },
                    (Some(x), Some(y)) => {
                        let (at, ended) = x.min(y);
                        Shared { at, ended: Some(ended) }
                    }
                };
                if end.at < one.from.max(other.from) {
                    continue;
                }
                if last.is_none_or(|last| last.at < end.at || end.ended.is_none()) {
                    last = Some(end);
                }
            }
        }
        last
    }
}
