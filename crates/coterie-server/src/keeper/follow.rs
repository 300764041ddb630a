//! The stream of a node that follows (`docs/BUNDLE.md` section 10).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coterie_control::{
    follow::{everything, message, news},
    issue::Part,
};
use coterie_model::{MemberId, Name, Revision, Serial, UnixTime};
use coterie_store::{Feed, Store};
use tokio::sync::{broadcast, mpsc, watch};

use super::{Keeper, State, Told, state::gathered};
use crate::{clock, refusal::Refusal};

/// A node hears something at least so often.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Doors are told of tokens no more often than this.
const KNOCKS: Duration = Duration::from_millis(50);
/// More changes than that are told as a whole state.
pub(crate) const MOST_CHANGES: u32 = 2000;
/// Messages that may wait for one node: one that does not read is cut off, and comes back when it does.
pub(crate) const UNREAD: usize = 16;

/// Who wants to follow, and from where on.
#[derive(Debug, Clone)]
pub(crate) struct Follow {
    /// The member.
    pub(crate) name: Name,
    /// The enrolment that it has proved.
    pub(crate) member: MemberId,
    /// The last change that it was told, 0 for none.
    pub(crate) mark: Revision,
    /// The serial of its bundle, 0 where that is not asked.
    pub(crate) serial: Serial,
}

/// What a member that begins to follow is told.
pub(crate) struct Seat {
    place: Place,
    opening: Bytes,
    revision: Revision,
    told: broadcast::Receiver<Arc<Told>>,
}

/// What decides what a member is told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Its enrolment.
    member: MemberId,
    /// What it is in; nothing while it is isolated.
    communities: BTreeSet<Name>,
    /// Its static key, if it is a door.
    door: Option<[u8; 32]>,
}

impl State {
    fn place(&self, name: &Name) -> Option<Place> {
        let member = self.enclave.member_id(name)?;
        // Whoever is isolated is told that it is, and nothing else.
        let is_isolated = self.enclave.is_isolated(name);
        let seat = self.enclave.seat(name).filter(|_| !is_isolated);
        Some(Place {
            member,
            communities: seat.map(|seat| seat.communities.clone()).unwrap_or_default(),
            door: self
                .enclave
                .static_key(name)
                .filter(|_| !is_isolated && self.is_door(name))
                .copied(),
        })
    }

    pub(super) async fn seat(
        &mut self,
        store: &Store,
        follow: &Follow,
        told: broadcast::Receiver<Arc<Told>>,
    ) -> Result<Seat, Refusal> {
        let now = clock::now();
        let name = &follow.name;
        let place = self.place(name).filter(|place| place.member == follow.member);
        let place = place.ok_or(Refusal::NotAMember)?;
        let mut opening = match self.changes(store, follow, &place, now).await? {
            Some(changes) => changes,
            None => {
                let mut all = everything(&self.enclave, &place.communities, place.door.is_some(), now);
                // It may have missed that there are keys which its bundle does not have, or the bundle that has them.
                if !self.fresh.contains(name) || self.has_missed(follow) {
                    all.push(message::renew());
                }
                all
            }
        };
        if let Some(static_key) = &place.door {
            let knocks = self.knocks(store, static_key, now).await?;
            opening.push(message::knocks(&knocks));
        }
        opening.push(message::mark(self.revision));
        Ok(Seat {
            place,
            opening: opening.concat().into(),
            revision: self.revision,
            told,
        })
    }

    /// Whether a newer bundle was issued to a member than the one that it has.
    fn has_missed(&self, follow: &Follow) -> bool {
        let newest = self.enclave.enrolled().find(|(name, _)| **name == follow.name);
        follow.serial != 0 && newest.is_some_and(|(_, enrolled)| enrolled.serial > follow.serial)
    }

    /// What changed since a member's mark; `None` when it is told everything.
    async fn changes(
        &self,
        store: &Store,
        follow: &Follow,
        place: &Place,
        now: UnixTime,
    ) -> Result<Option<Vec<Vec<u8>>>, Refusal> {
        if follow.mark == 0 {
            return Ok(None);
        }
        let mut read = store.read().await?;
        let feed = read.changes_since(self.enclave.id(), follow.mark, MOST_CHANGES).await?;
        let (changes, newest) = match feed {
            Feed::Changes { changes, newest } => (changes, newest),
            Feed::SnapshotNeeded { .. } => return Ok(None),
        };
        if newest != self.revision || changes.last().is_some_and(|last| last.revision < newest) {
            return Ok(None);
        }
        let parts = gathered(changes);
        // It may be in other communities by now, of which it knows nothing.
        if parts.contains_key(&Part::Member(follow.name.clone())) {
            return Ok(None);
        }
        let news = news(&self.enclave, &parts, now);
        let head = self.enclave.head(now).as_ref().map(message::pulse);
        let words: Vec<Vec<u8>> = match place.door {
            Some(_) => news.of_mirror(&place.communities).map(<[u8]>::to_vec).collect(),
            None => news.of(&place.communities).map(<[u8]>::to_vec).collect(),
        };
        Ok(Some(words.into_iter().chain(head).collect()))
    }
}

/// Tells a node what comes until it goes, falls behind for too long, is a member no more, or the server stops.
pub(crate) async fn stream(
    keeper: Keeper,
    name: Name,
    mut seat: Seat,
    (say, mut asked, out): (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>),
    mut stopping: watch::Receiver<bool>,
) {
    let number = keeper.presence.enter(&name, seat.place.member, say);
    let _left = Left {
        keeper: &keeper,
        name: &name,
        number,
    };
    if out.send(core::mem::take(&mut seat.opening)).await.is_err() {
        return;
    }
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut knocks_at: Option<tokio::time::Instant> = None;
    loop {
        let knocks = async {
            match knocks_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => core::future::pending().await,
            }
        };
        let words = tokio::select! {
            told = seat.told.recv() => match told {
                Ok(told) => {
                    if told.knocks && seat.place.door.is_some() && knocks_at.is_none() {
                        knocks_at = Some(tokio::time::Instant::now() + KNOCKS);
                    }
                    seat.revision = told.revision;
                    match (told.file || told.members.contains(&name)) && has_moved(&keeper, &name, &seat).await {
                        false => words(&told, &name, &seat.place),
                        true => match reseat(&keeper, &name, &mut seat).await {
                            Some(opening) => opening,
                            None => {
                                // Who is a member no more is told that, and nothing after it.
                                let _gone = out.send(told.everybody.clone()).await;
                                return;
                            }
                        },
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => match reseat(&keeper, &name, &mut seat).await {
                    Some(opening) => opening,
                    None => return,
                },
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = knocks => {
                knocks_at = None;
                match knocks_of(&keeper, &name, &mut seat).await {
                    Some(knocks) => knocks,
                    None => return,
                }
            }
            // Nobody asks any more where another stream of the member is in the place of this one.
            question = asked.recv() => match question {
                Some(question) => question,
                None => return,
            },
            _ = beats.tick() => message::mark(seat.revision).into(),
            _ = stopping.changed() => return,
            () = out.closed() => return,
        };
        if words.is_empty() {
            continue;
        }
        beats.reset();
        match tokio::time::timeout(3 * HEARTBEAT, out.send(words)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Takes the stream's member off the list when it ends, however it does.
struct Left<'a> {
    keeper: &'a Keeper,
    name: &'a Name,
    number: u64,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.keeper.presence.leave(self.name, self.number);
    }
}

/// What a batch means for one member.
fn words(told: &Told, name: &Name, place: &Place) -> Bytes {
    let mirrors: &[(Name, Bytes)] = if place.door.is_some() { &told.mirrors } else { &[] };
    let of_communities = told.communities.iter().chain(mirrors);
    let theirs: Vec<&Bytes> = of_communities
        .filter(|(community, _)| place.communities.contains(community))
        .map(|(_, words)| words)
        .collect();
    let is_due = told.due.contains(name);
    if theirs.is_empty() && told.everybody.is_empty() && !is_due {
        return Bytes::new();
    }
    let mut all = Vec::with_capacity(told.everybody.len() + theirs.iter().map(|w| w.len()).sum::<usize>() + 32);
    all.extend_from_slice(&told.everybody);
    theirs.iter().for_each(|words| all.extend_from_slice(words));
    if is_due {
        all.extend_from_slice(&message::renew());
    }
    all.extend_from_slice(&message::mark(told.revision));
    all.into()
}

/// Whether a member is somewhere else than it was.
async fn has_moved(keeper: &Keeper, name: &Name, seat: &Seat) -> bool {
    let own = name.clone();
    let place = keeper.look(move |state| state.place(&own)).await;
    !matches!(place, Ok(Some(place)) if place == seat.place)
}

/// A member looks at itself anew: everything that it may know now. `None` when the machine of this stream is a member no more.
async fn reseat(keeper: &Keeper, name: &Name, seat: &mut Seat) -> Option<Bytes> {
    let follow = Follow {
        name: name.clone(),
        member: seat.place.member,
        mark: 0,
        serial: 0,
    };
    let fresh = keeper.seat(follow).await.ok()?;
    let moved = fresh.place.communities != seat.place.communities;
    let was_door = seat.place.door.is_some();
    *seat = fresh;
    let mut opening = core::mem::take(&mut seat.opening);
    if was_door && seat.place.door.is_none() {
        // Who is no door any more lets nobody in.
        opening = [&message::knocks(&[])[..], &opening].concat().into();
    }
    if moved {
        // Keys of what it came into are in a bundle.
        opening = [&opening[..], &message::renew()].concat().into();
    }
    Some(opening)
}

/// What visitors may knock with from now on.
async fn knocks_of(keeper: &Keeper, name: &Name, seat: &mut Seat) -> Option<Bytes> {
    let follow = Follow {
        name: name.clone(),
        member: seat.place.member,
        mark: seat.revision,
        serial: 0,
    };
    let mut fresh = keeper.seat(follow).await.ok()?;
    let opening = core::mem::take(&mut fresh.opening);
    *seat = fresh;
    Some(opening)
}
