//! What a configuration server keeps: the only place with SQL.
//!
//! [`Store::open`] opens one database, a file of SQLite. [`Store::read`] gives one consistent state of it; [`Store::write`]
//! is the one way to change it: what a [`Write`] does is kept whole by [`Write::commit`], when the data is on the disk, or
//! not at all. There is one writer at a time, in order of arrival; readers wait for nobody.
//!
//! ```no_run
//! # use coterie_store::*;
//! # use coterie_model::{EnclaveId, MemberId, Name, UnixTime};
//! # async fn enrol(store: &Store, token: TokenId, tenant: TenantId, enclave: EnclaveId, member: MemberId,
//! #     now: UnixTime, entropy: &mut (dyn coterie_crypto::Entropy + Send)) -> Result<(), StoreError> {
//! let mut w = store.write().await?;
//! let name = Name::new("web-1").expect("a name");
//! match w.use_token(token, member, &name, "192.0.2.7".parse().expect("an address"), now).await? {
//!     TokenUse::Used(_) => {}
//!     TokenUse::Refused(reason) => return Ok(eprintln!("{reason}")), // dropping it rolls back
//! }
//! w.put_record(enclave, "member", "web-1", Value::Clear(b"serials and enrolment"), entropy).await?;
//! w.claim_static_key(enclave, member, &[7; 32]).await?;
//! let change = NewChange { kind: "member", subject: "web-1", concerns: &[Name::new("web").expect("a name")].into() };
//! w.add_changes(enclave, &[change], now).await?;
//! w.commit().await
//! # }
//! ```
//!
//! A commit waits for the disk. Who has several operations at hand shares the wait: [`Write::savepoint`] lets each fail on
//! its own in one transaction.
//!
//! Pure of clock and generator: `now` and `entropy` are arguments. Secrets are sealed at rest (root key, tenant key, row
//! key), and wiped in memory. Reads take the tenant or the enclave that they are about; an id of another's finds nothing.
//! The statements are portable SQL, but that some come in pairs; what else is SQLite's own is in one module.
//!
//! | what | module |
//! |---|---|
//! | opening, closing, transactions | `store`, `session` |
//! | tenants, enclaves, the issuer's records | `tenant`, `enclave`, `record` |
//! | enrolment: tokens, static keys, tickets | `token`, `static_key`, `ticket` |
//! | the change feed, background tasks | `change`, `task` |
//! | the audit log, who may call | `audit`, `principal` |
//! | backup, restore, check | `backup`, `check` |
//! | secrets at rest | `seal` |
//! | killed while it writes, for tests | `crash` |

mod audit;
mod backup;
mod change;
mod check;
mod crash;
mod enclave;
mod error;
mod id;
mod migrations;
mod principal;
mod prune;
mod record;
mod row;
mod seal;
mod session;
mod settings;
mod sqlite;
mod static_key;
mod store;
mod task;
mod tenant;
mod ticket;
mod token;

pub use audit::{AuditEntry, AuditRow, AuditVerdict};
pub use change::{Change, Feed, NewChange};
pub use check::{Finding, FindingKind, Report};
#[cfg(feature = "crash-points")]
pub use crash::write_points;
pub use enclave::Enclave;
pub use error::StoreError;
pub use id::{PrincipalId, Scope, ServerId, TenantId, Timeline, TokenId};
pub use principal::{Login, NewPrincipal, Principal, Role};
pub use record::{Record, Value};
pub use session::{Read, Savepoint, Write};
pub use settings::Settings;
pub use store::Store;
pub use task::{Finished, Task};
pub use tenant::Tenant;
pub use ticket::TicketUse;
pub use token::{NewToken, PresentedToken, Token, TokenRefusal, TokenUse, TokenUseRecord};
