//! What a node is told of other members: its *view* of the directory.

use core::net::SocketAddr;

use crate::{CommunityTag, Malformed, Name, Prefix, Reader, Signed, Statement, Unverified, Writer};

/// Most communities of one member.
pub const MAX_COMMUNITIES: usize = 64;
/// Most endpoints of one member.
pub const MAX_ENDPOINTS: usize = 16;

/// One member as the directory has it. Name, communities and endpoints are hints that make a first packet go the right
/// way; only a statement proves anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry<S = Signed<Statement>> {
    /// The member's name.
    pub name: Name,
    /// Communities of the view's owner that it is a member of.
    pub communities: Vec<CommunityTag>,
    /// Inside addresses.
    pub addresses: Vec<Prefix>,
    /// Outside addresses, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Its statements, as far as they were made when the view was; a member that enrols later is found by direct query.
    pub statements: Vec<S>,
}

impl DirectoryEntry<Signed<Statement>> {
    /// Appends the entry.
    pub fn encode(&self, w: &mut Writer) {
        w.name(&self.name);
        count(w, self.communities.len());
        self.communities.iter().for_each(|t| {
            w.bytes(&t.0);
        });
        count(w, self.addresses.len());
        self.addresses.iter().for_each(|p| {
            w.prefix(p);
        });
        count(w, self.endpoints.len());
        self.endpoints.iter().for_each(|e| {
            w.endpoint(e);
        });
        count(w, self.statements.len());
        self.statements.iter().for_each(|s| {
            w.counted(s.bytes());
        });
    }
}

impl DirectoryEntry<Unverified<Statement>> {
    /// Takes an entry from the front.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no entry.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: r.name("member name")?,
            communities: many(r, MAX_COMMUNITIES, "communities", |r| {
                r.array("community tag").map(CommunityTag)
            })?,
            addresses: many(r, crate::signed::MAX_ADDRESSES, "addresses", |r| r.prefix("address"))?,
            endpoints: many(r, MAX_ENDPOINTS, "endpoints", |r| r.endpoint("endpoint"))?,
            statements: many(r, MAX_COMMUNITIES, "statements", |r| {
                let bytes = r.counted(1232, "statement")?;
                Unverified::parse(bytes)
            })?,
        })
    }
}

fn count(w: &mut Writer, n: usize) {
    w.u8(u8::try_from(n).expect("lists of an entry are bounded at 64 where it is made"));
}

fn many<'a, T>(
    r: &mut Reader<'a>,
    max: usize,
    what: &'static str,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let bad = r.malformed(what);
    let count = usize::from(r.u8(what)?);
    if count > max {
        return Err(bad);
    }
    (0..count).map(|_| one(r)).collect()
}
