//! Enrolment by a join token (¶60, Figure 6): what is in a token, and what a machine and the server say to each other through a
//! door that can read neither.
//!
//! 1. The server draws a [`Token`] and gives each door its [`Token::knock_key`].
//! 2. The machine's [`Application`] is sealed to the server by [`seal`]; the door carries it (`coterie_proto::bootstrap`).
//! 3. The server opens it with [`open`], which proves that its maker has the token and the private half of its static key, and
//!    seals a [`Reply`].
//! 4. [`Sealed::open_reply`] on the machine gives the bundle, which is then checked against the root that the token pins.
//!
//! Layouts are in `docs/BUNDLE.md` section 9. Pure: bytes, time and randomness in, bytes out.

mod exchange;
mod token;

pub use exchange::{Application, NotOpened, Opened, REFUSED, Reply, Sealed, Ticket, open, seal, token_of};
pub use token::{DoorAddress, MAX_DOORS, Token, TokenError};
