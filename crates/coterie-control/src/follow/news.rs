//! Who is told what of a change.

use std::collections::{BTreeMap, BTreeSet};

use coterie_model::{DirectoryEntry, Name, UnixTime};

use super::message;
use crate::issue::{Enclave, Part};

/// Messages, framed.
type Messages = Vec<Vec<u8>>;

/// What followers are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Every member.
    pub everybody: Messages,
    /// The members of each community.
    pub communities: BTreeMap<Name, Messages>,
    /// Of a community that is too large for its members to know each other: who came or changed, for those who mirror it.
    pub mirrors: BTreeMap<Name, Messages>,
}

impl News {
    /// What a member of `communities` is told, in the order in which it is to be told: who is refused, before who is new.
    pub fn of<'a>(&'a self, communities: &'a BTreeSet<Name>) -> impl Iterator<Item = &'a [u8]> {
        let theirs = communities.iter().filter_map(|name| self.communities.get(name));
        self.everybody.iter().chain(theirs.flatten()).map(Vec::as_slice)
    }

    /// The same for one that mirrors the whole of each community, however large.
    pub fn of_mirror<'a>(&'a self, communities: &'a BTreeSet<Name>) -> impl Iterator<Item = &'a [u8]> {
        let more = communities.iter().filter_map(|name| self.mirrors.get(name));
        self.of(communities).chain(more.flatten().map(Vec::as_slice))
    }

    /// True when nobody is told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.everybody.is_empty() && self.communities.is_empty() && self.mirrors.is_empty()
    }
}

/// What changes of these parts mean: each with the communities that it concerns
/// ([`crate::issue::Record::concerns`]). Several changes of one part are told as one, as it is now.
#[must_use]
pub fn news<'a>(
    enclave: &Enclave,
    changed: impl IntoIterator<Item = (&'a Part, &'a BTreeSet<Name>)>,
    now: UnixTime,
) -> News {
    let mut parts: BTreeMap<&Part, BTreeSet<&Name>> = BTreeMap::new();
    for (part, concerns) in changed {
        parts.entry(part).or_default().extend(concerns);
    }
    let mut news = News::default();
    let mut views: BTreeMap<&Name, (Vec<DirectoryEntry>, Vec<Name>)> = BTreeMap::new();
    for (part, concerns) in &parts {
        match part {
            Part::Revocations => news.everybody.extend(refused(enclave, now)),
            // Settings of templates are in bundles.
            Part::File => news.everybody.push(message::renew()),
            Part::Community(name) if !concerns.is_empty() => {
                if let Some(epochs) = manifests(enclave, name, now) {
                    news.communities.entry(name.clone()).or_default().push(epochs);
                }
            }
            Part::Keys(name) if !concerns.is_empty() => {
                let messages = news.communities.entry(name.clone()).or_default();
                messages.push(message::renew());
            }
            Part::Member(name) => {
                for community in concerns {
                    let (entries, gone) = views.entry(community).or_default();
                    match enclave.entry(name, community, now) {
                        Some(entry) => entries.push(entry),
                        None => gone.push(name.clone()),
                    }
                }
            }
            Part::Root | Part::Enclave | Part::Community(_) | Part::Keys(_) => {}
        }
    }
    for (community, (entries, gone)) in views {
        if let Some(tag) = enclave.tag(community) {
            let large = enclave.is_large(community);
            for (audience, entries, gone) in [
                (&mut news.communities, if large { &[] } else { &entries[..] }, &gone[..]),
                (&mut news.mirrors, if large { &entries[..] } else { &[] }, &[]),
            ] {
                let messages = message::change(tag, entries, gone);
                if !messages.is_empty() {
                    audience.entry(community.clone()).or_default().extend(messages);
                }
            }
        }
    }
    news
}

/// All that a member of `communities` is told when it begins to follow. Members of a community that is too large find each other
/// by asking, and are told nothing of who is in it, unless `mirror`: then the view of each is told, however large.
#[must_use]
pub fn everything(enclave: &Enclave, communities: &BTreeSet<Name>, mirror: bool, now: UnixTime) -> Messages {
    let mut messages = refused(enclave, now);
    for community in communities {
        messages.extend(manifests(enclave, community, now));
        let tag = enclave
            .tag(community)
            .filter(|_| mirror || !enclave.is_large(community));
        if let Some(tag) = tag {
            messages.extend(message::whole(tag, &enclave.view(community, now)));
        }
    }
    messages
}

fn refused(enclave: &Enclave, now: UnixTime) -> Messages {
    let list = enclave.revocations().map(message::revocations);
    let head = enclave.head(now).as_ref().map(message::pulse);
    list.into_iter().chain(head).collect()
}

fn manifests(enclave: &Enclave, community: &Name, now: UnixTime) -> Option<Vec<u8>> {
    let live = enclave.live_manifests(community, now);
    Some(message::manifests(enclave.tag(community)?, live.into_iter()))
}
