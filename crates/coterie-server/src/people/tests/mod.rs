//! The router of people with a real store beneath it, called as HTTP calls it.
//!
//! The crate is a program and has no library, so these tests are here and not beside it.

mod audit;
mod callers;
mod cutting;
mod enclaves;
mod isolation;
mod principals;
mod routes;
mod site;
mod tokens;
