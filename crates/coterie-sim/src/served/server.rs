//! The server's shell, pure: one process over a [`Store`], which commits before it answers or tells, dies where it is told to,
//! and comes back with what was committed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use coterie_control::{
    bundle::Request,
    enrol::{self, DoorAddress, Reply, Token},
    file::Return,
    issue::{Enclave, IssueError},
};
use coterie_crypto::{
    Secret, SeededEntropy,
    dh::{KeyPair, PublicKey},
};
use coterie_model::{MemberId, Name, UnixTime};

use super::{
    feed::Stream,
    store::{Book, Changes, Store, TicketRow, TokenId, TokenRow},
};
use crate::clock::Moment;

/// Where the process dies in the next transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Everything is decided, nothing is written.
    BeforeCommit,
    /// It is written; nobody was told or answered.
    AfterCommit,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// The server refuses.
    Refused(String),
    /// The server died over it.
    Died,
    /// There is no server.
    Down,
}

impl From<IssueError> for NotDone {
    fn from(error: IssueError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// What was committed.
#[derive(Debug)]
pub struct Committed<T> {
    /// What the operation gave.
    pub value: T,
    /// What changed, for who follows.
    pub changes: Changes,
}

/// The process.
pub struct Live {
    /// The aggregate.
    pub enclave: Enclave,
    /// Who follows, by machine.
    pub streams: BTreeMap<usize, Stream>,
    /// When the pulse was told last.
    pub pulse: Moment,
    /// When members were reminded last.
    pub reminded: Moment,
}

/// The server.
pub struct Server {
    /// What survives it.
    pub store: Store,
    /// The process, while there is one.
    pub live: Option<Live>,
    /// Where the next transaction kills it.
    pub crash: Option<Crash>,
    /// Seconds by which its clock is wrong.
    pub offset: i64,
    /// A deliberate defect: it tells nobody that a bundle is old.
    pub forgets_renewals: bool,
    /// A deliberate defect: a token that was spent opens no door any more, not even to who spent it.
    pub forgets_spent: bool,
    private: [u8; 32],
    entropy: SeededEntropy,
    address: SocketAddr,
}

impl Server {
    /// A server with a new enclave; the error when the file is not accepted.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn new(text: &str, seed: u64, address: SocketAddr, now: Moment) -> Result<Self, IssueError> {
        let mut entropy = SeededEntropy::from_number(seed);
        let mut enclave = Enclave::init(text, now.unix(), &mut entropy)?;
        enclave.serve(now.unix())?;
        enclave.set_servers(vec![address]);
        let mut store = Store::default();
        store.commit(enclave.take_records(), Book::default());
        Ok(Self {
            store,
            live: Some(Live {
                enclave,
                streams: BTreeMap::new(),
                pulse: now,
                reminded: now,
            }),
            crash: None,
            offset: 0,
            forgets_renewals: false,
            forgets_spent: false,
            private: *Secret::<32>::draw(&mut entropy).expose(),
            entropy,
            address,
        })
    }

    /// What its clock shows.
    #[must_use]
    pub fn time(&self, now: Moment) -> UnixTime {
        UnixTime(now.unix().0.saturating_add_signed(self.offset))
    }

    /// The process starts; false when what was committed cannot be read, or it runs already.
    pub fn start(&mut self, now: Moment) -> bool {
        if self.live.is_some() {
            return false;
        }
        self.crash = None;
        self.live = self.store.read().map(|enclave| Live {
            enclave,
            streams: BTreeMap::new(),
            pulse: now,
            reminded: now,
        });
        self.live.is_some()
    }

    /// Does something in one transaction. What failed leaves nothing: the enclave is read anew.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Enclave, &mut Book, &mut SeededEntropy) -> Result<T, NotDone>,
    ) -> Result<Committed<T>, NotDone> {
        let live = self.live.as_mut().ok_or(NotDone::Down)?;
        let mut book = self.store.book.clone();
        match work(&mut live.enclave, &mut book, &mut self.entropy) {
            Ok(value) => {
                let records = live.enclave.take_records();
                let crash = self.crash.take();
                if crash == Some(Crash::BeforeCommit) {
                    self.live = None;
                    return Err(NotDone::Died);
                }
                let changes = self.store.commit(records, book);
                if crash == Some(Crash::AfterCommit) {
                    self.live = None;
                    return Err(NotDone::Died);
                }
                Ok(Committed { value, changes })
            }
            Err(refused) => {
                match self.store.read() {
                    Some(enclave) => live.enclave = enclave,
                    None => self.live = None,
                }
                Err(refused)
            }
        }
    }

    /// A join token, for the machine.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn create_token(
        &mut self,
        (template, member): (&Name, Option<&Name>),
        uses: usize,
        not_after: UnixTime,
        direct: bool,
    ) -> Result<Committed<(TokenId, String)>, NotDone> {
        let public = *self.keys().public();
        let address = self.address;
        self.transact(|enclave, book, entropy| {
            let doors: Vec<DoorAddress> = enclave.doors().into_iter().map(|(_, door)| door).collect();
            let servers = if direct || doors.is_empty() {
                vec![address]
            } else {
                vec![]
            };
            let doors = if direct { vec![] } else { doors };
            let token = Token::draw(
                (enclave.id(), enclave.root_hash()),
                public,
                not_after,
                doors,
                servers,
                entropy,
            );
            let text = token.to_text();
            let row = TokenRow {
                text: text.clone(),
                template: template.clone(),
                member: member.cloned(),
                uses,
                not_after,
                used: BTreeMap::new(),
            };
            book.tokens.insert(token.id, row);
            Ok((token.id, text.to_string()))
        })
    }

    /// A machine applies: the name and key that came in, and the reply.
    ///
    /// # Errors
    /// [`NotDone`]: where it is a refusal, the machine is told [`enrol::REFUSED`], whatever the reason.
    pub fn enrol(
        &mut self,
        bytes: &[u8],
        source: SocketAddr,
        now: UnixTime,
    ) -> Result<Committed<(TokenId, PublicKey, Vec<u8>)>, NotDone> {
        let keys = self.keys();
        let revision = self.store.revision + 1;
        self.transact(|enclave, book, entropy| {
            let refused = |what: &str| NotDone::Refused(what.to_owned());
            let id = enrol::token_of(bytes).map_err(|error| NotDone::Refused(error.to_string()))?;
            let row = book.tokens.get(&id).ok_or_else(|| refused("no such token"))?;
            let opened =
                enrol::open(bytes, &row.secret(), &keys).map_err(|error| NotDone::Refused(error.to_string()))?;
            let request = &opened.application.request;
            let (name, key) = (request.name().clone(), *request.static_key());
            let by_ticket = returns_by_ticket(enclave, &row.template);
            let known = row.used.contains_key(&key) && enclave.static_key(&name) == Some(&key);
            let shown = opened
                .application
                .ticket
                .as_ref()
                .filter(|_| by_ticket)
                .map(Secret::expose);
            let held = book.tickets.get(&name).filter(|_| enclave.static_key(&name).is_some());
            let right = match (shown, held) {
                _ if known => Right::Again,
                (Some(shown), Some(held)) if held.current == *shown => Right::Ticket,
                (Some(shown), Some(held)) if held.previous == Some(*shown) => {
                    return Err(refused("the ticket was used before: there is a clone"));
                }
                (Some(_), Some(_) | None) | (None, _) if !row.is_alive(now) => {
                    return Err(refused("the token is spent, or has ended"));
                }
                (Some(_), Some(_) | None) | (None, _) if row.used.contains_key(&key) => {
                    return Err(refused(
                        "the token was used with this key, which is no member's any more",
                    ));
                }
                (Some(_), Some(_) | None) | (None, _) => Right::Token,
            };
            if row.member.as_ref().is_some_and(|only| *only != name) {
                return Err(refused("the token is for another name"));
            }
            let takeover = right == Right::Ticket || right == Right::Token && row.member.is_some();
            let template = row.template.clone();
            enclave.provision(&template, vec![source], request, takeover, MemberId::draw(entropy), now)?;
            let bundle = enclave.issue(&name, now, entropy)?;
            book.issued.insert(name.clone(), revision);
            let ticket = by_ticket.then(|| Secret::<32>::draw(entropy));
            if let Some(next) = &ticket {
                let before = book.tickets.get(&name).map(|held| held.current);
                let row = TicketRow {
                    current: *next.expose(),
                    previous: before.filter(|_| right == Right::Ticket),
                    token: id,
                };
                book.tickets.insert(name.clone(), row);
            }
            if let Some(row) = book.tokens.get_mut(&id).filter(|_| right == Right::Token) {
                row.used.insert(key, name);
            }
            let reply = Reply {
                bundle: bundle.into_bytes(),
                ticket,
            };
            Ok((id, key, opened.reply(&reply, entropy)))
        })
    }

    /// A node asks for a new bundle.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn renew(&mut self, request: &Request, now: UnixTime) -> Result<Committed<String>, NotDone> {
        let revision = self.store.revision + 1;
        self.transact(|enclave, book, entropy| {
            let bundle = enclave.renew(request, now, entropy)?;
            book.issued.insert(request.name().clone(), revision);
            Ok(bundle)
        })
    }

    /// A person brings the request of a machine that the file names.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn admit(&mut self, request: &Request, now: UnixTime) -> Result<Committed<String>, NotDone> {
        let revision = self.store.revision + 1;
        self.transact(|enclave, book, entropy| {
            enclave.admit(request, now, entropy)?;
            book.issued.insert(request.name().clone(), revision);
            Ok(enclave.issue(request.name(), now, entropy)?)
        })
    }

    fn keys(&self) -> KeyPair {
        KeyPair::from_private(Secret::new(self.private))
    }

    /// The hash that machines pin.
    #[must_use]
    pub fn root_hash(&self) -> Option<[u8; 32]> {
        Some(self.live.as_ref()?.enclave.root_hash())
    }
}

/// By what a machine is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// It applied before and was let in: the reply was lost.
    Again,
    /// By its ticket, which is no use of the token.
    Ticket,
    /// By a use of the token.
    Token,
}

fn returns_by_ticket(enclave: &Enclave, template: &Name) -> bool {
    let template = enclave.file().templates.get(template);
    template.is_some_and(|template| template.returning == Return::Ticket)
}
