//! What the server tells those who follow: at the beginning everything or what changed, then what comes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coterie_control::{
    enrol::Token,
    follow::{Knocking, everything, message, news},
    issue::{Enclave, Part},
};
use coterie_crypto::dh::PublicKey;
use coterie_model::{MemberId, Name, Revision, Serial, UnixTime};

use super::{
    server::Server,
    store::{Changes, Store, TokenRow},
};
use crate::clock::Moment;

/// How often a node hears something at least.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often the pulse is told.
const PULSE: Duration = Duration::from_secs(10);
/// How often members are reminded that their lease is half over.
const REMIND: Duration = Duration::from_secs(15);

/// One node that follows.
#[derive(Debug)]
pub struct Stream {
    /// The connection that it runs on.
    pub connection: u64,
    name: Name,
    place: Place,
    /// When something was sent last.
    said: Moment,
    /// Words were lost: the node is told everything when it reads again.
    pub lagging: bool,
}

/// What decides what a member is told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    member: MemberId,
    /// What it is in; nothing while it is isolated.
    communities: BTreeSet<Name>,
    /// Its static key, if it is a door.
    door: Option<PublicKey>,
}

/// What a node says when it begins to follow.
#[derive(Debug, Clone, Copy)]
pub struct Follow {
    /// The last change that it was told.
    pub mark: Revision,
    /// The serial of its bundle.
    pub serial: Serial,
}

/// Words for one node.
#[derive(Debug)]
pub struct Words {
    /// The machine.
    pub machine: usize,
    /// The connection.
    pub connection: u64,
    /// Messages, framed.
    pub messages: Vec<Vec<u8>>,
    /// The stream ends with them.
    pub ends: bool,
}

impl Server {
    /// A machine begins to follow, as the member `name` with `key`; what it is told first, or `None` when it is none.
    pub fn follow(
        &mut self,
        (machine, connection): (usize, u64),
        (name, key): (&Name, &PublicKey),
        follow: Follow,
        now: Moment,
    ) -> Option<Words> {
        let time = self.time(now);
        let live = self.live.as_mut()?;
        if live.enclave.static_key(name) != Some(key) {
            return None;
        }
        let place = place(&live.enclave, name)?;
        let mut messages = match changes(
            &self.store,
            &live.enclave,
            (name, &place.communities),
            follow.mark,
            time,
        ) {
            Some(messages) => messages,
            None => everything(&live.enclave, &place.communities, place.door.is_some(), time),
        };
        let isolated = live.enclave.is_isolated(name);
        let says = !isolated && !self.forgets_renewals;
        if says && is_stale(&self.store, &live.enclave, (name, &place.communities), follow.serial) {
            messages.push(message::renew());
        }
        if let Some(door) = &place.door {
            messages.push(message::knocks(&knocks(&self.store, door, time, self.forgets_spent)));
        }
        messages.push(message::mark(self.store.revision));
        let stream = Stream {
            connection,
            name: name.clone(),
            place,
            said: now,
            lagging: false,
        };
        live.streams.insert(machine, stream);
        Some(Words {
            machine,
            connection,
            messages,
            ends: false,
        })
    }

    /// What a commit means for each who follows; `tokens` when it changed what doors are knocked with.
    pub fn tell(&mut self, changed: &Changes, tokens: bool, now: Moment) -> Vec<Words> {
        let time = self.time(now);
        let Some(live) = self.live.as_mut() else {
            return Vec::new();
        };
        let (enclave, store, forgets) = (&live.enclave, &self.store, self.forgets_spent);
        let news = news(enclave, changed.iter().map(|(part, concerns)| (part, concerns)), time);
        let mut all = Vec::new();
        for (machine, stream) in &mut live.streams {
            if stream.lagging {
                continue;
            }
            let now_there = place(enclave, &stream.name).filter(|place| place.member == stream.place.member);
            let mut messages = match &now_there {
                Some(place) if *place == stream.place => news.of(&place.communities).map(<[u8]>::to_vec).collect(),
                Some(place) => {
                    // It sees other things from here: everything anew, and keys of what it came into are in a bundle.
                    let mut opening = everything(enclave, &place.communities, place.door.is_some(), time);
                    opening.push(message::renew());
                    opening
                }
                None => news.everybody.clone(),
            };
            let ends = now_there.is_none();
            if let Some(place) = now_there {
                if let Some(door) = place
                    .door
                    .as_ref()
                    .filter(|_| tokens || place.door != stream.place.door)
                {
                    messages.push(message::knocks(&knocks(store, door, time, forgets)));
                }
                stream.place = place;
            }
            if !messages.is_empty() {
                messages.push(message::mark(store.revision));
            }
            if ends || !messages.is_empty() {
                stream.said = now;
                all.push(Words {
                    machine: *machine,
                    connection: stream.connection,
                    messages,
                    ends,
                });
            }
        }
        let gone: Vec<usize> = all
            .iter()
            .filter(|words| words.ends)
            .map(|words| words.machine)
            .collect();
        gone.iter().for_each(|machine| drop(live.streams.remove(machine)));
        all
    }

    /// What is told because time went by: heartbeats, the pulse, reminders, and everything to those who fell behind.
    pub fn beat(&mut self, now: Moment) -> Vec<Words> {
        let time = self.time(now);
        let Some(live) = self.live.as_mut() else {
            return Vec::new();
        };
        let pulses = now.since(live.pulse) >= PULSE;
        let reminds = now.since(live.reminded) >= REMIND;
        let (enclave, store, forgets) = (&live.enclave, &self.store, self.forgets_spent);
        let pulse = enclave.head(time).filter(|_| pulses).map(|head| message::pulse(&head));
        let due: BTreeSet<Name> = if reminds {
            enclave.due_for_renewal(time).into_iter().collect()
        } else {
            BTreeSet::new()
        };
        let mut all = Vec::new();
        for (machine, stream) in &mut live.streams {
            let mut messages = Vec::new();
            if core::mem::take(&mut stream.lagging)
                && let Some(place) = place(enclave, &stream.name)
            {
                messages = everything(enclave, &place.communities, place.door.is_some(), time);
                messages.push(message::renew());
                if let Some(door) = &place.door {
                    messages.push(message::knocks(&knocks(store, door, time, forgets)));
                }
                stream.place = place;
            }
            messages.extend(pulse.clone());
            if due.contains(&stream.name) {
                messages.push(message::renew());
            }
            if !messages.is_empty() || now.since(stream.said) >= HEARTBEAT {
                messages.push(message::mark(store.revision));
                stream.said = now;
                all.push(Words {
                    machine: *machine,
                    connection: stream.connection,
                    messages,
                    ends: false,
                });
            }
        }
        if pulses {
            live.pulse = now;
        }
        if reminds {
            live.reminded = now;
        }
        all
    }
}

fn place(enclave: &Enclave, name: &Name) -> Option<Place> {
    let member = enclave.member_id(name)?;
    let isolated = enclave.is_isolated(name);
    let seat = enclave.seat(name).filter(|_| !isolated);
    let template = seat.and_then(|seat| enclave.file().templates.get(&seat.template));
    Some(Place {
        member,
        communities: seat.map(|seat| seat.communities.clone()).unwrap_or_default(),
        door: enclave
            .static_key(name)
            .filter(|_| template.is_some_and(|template| template.door))
            .copied(),
    })
}

/// What changed since a member's mark; `None` when it is told everything.
fn changes(
    store: &Store,
    enclave: &Enclave,
    (name, communities): (&Name, &BTreeSet<Name>),
    mark: Revision,
    now: UnixTime,
) -> Option<Vec<Vec<u8>>> {
    let changed = store.since(mark).filter(|_| mark != 0)?;
    let mut parts: BTreeMap<Part, BTreeSet<Name>> = BTreeMap::new();
    for (part, concerns) in changed {
        parts.entry(part).or_default().extend(concerns);
    }
    // It may be in other communities by now, of which it knows nothing.
    if parts.contains_key(&Part::Member(name.clone())) {
        return None;
    }
    let news = news(enclave, &parts, now);
    let head = enclave.head(now).as_ref().map(message::pulse);
    Some(news.of(communities).map(<[u8]>::to_vec).chain(head).collect())
}

/// Whether a member's bundle is not the newest that there is, or something has changed since it was made that is told in
/// bundles alone.
fn is_stale(store: &Store, enclave: &Enclave, (name, communities): (&Name, &BTreeSet<Name>), serial: Serial) -> bool {
    let newest = enclave
        .enrolled()
        .find(|(other, _)| *other == name)
        .map(|(_, e)| e.serial);
    let issued = store.book.issued.get(name).copied();
    let changed = issued.and_then(|issued| store.since(issued));
    let matters = |part: &Part| match part {
        Part::File => true,
        Part::Keys(community) => communities.contains(community),
        Part::Root | Part::Enclave | Part::Revocations | Part::Community(_) | Part::Member(_) => false,
    };
    newest != Some(serial) || changed.is_none_or(|changed| changed.iter().any(|(part, _)| matters(part)))
}

/// What visitors may knock with at the door of `static_key`: each token that has not ended, spent ones too, because whoever spent
/// one may not have had its answer; and each that a ticket is presented with.
fn knocks(store: &Store, static_key: &PublicKey, now: UnixTime, forgets_spent: bool) -> Vec<Knocking> {
    let for_ticket = |id: &[u8; 16]| store.book.tickets.values().any(|ticket| ticket.token == *id);
    let opens = |row: &TokenRow| row.is_alive(now) || now <= row.not_after && !forgets_spent;
    let live = store
        .book
        .tokens
        .iter()
        .filter(|(id, row)| opens(row) || for_ticket(id));
    live.map(|(id, row)| {
        let token: Token = row.token();
        let not_after = if for_ticket(id) {
            UnixTime(u64::MAX)
        } else {
            row.not_after
        };
        Knocking {
            key: token.knock_key(static_key),
            not_after,
        }
    })
    .collect()
}
