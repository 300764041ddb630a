//! The *enclave file*: one TOML file that describes an enclave.
//!
//! [`parse`] takes the text and gives either an [`EnclaveFile`], whole and checked, or [`Diagnostics`]: all that is wrong
//! with it, each with line, column, key and remedy. Nothing is accepted in part. The steps, in order:
//!
//! 1. size and encoding ([`parse_bytes`]);
//! 2. TOML, with recovery, so that several mistakes are reported at once (`syntax`);
//! 3. keys and types, by one description of every key (`keys`, `reader`, `draft`);
//! 4. what one entry demands of another: references, pools, addresses, suites (`check`, `address`);
//! 5. the file's own tests, by the rule that nodes follow ([`reach`], `policy`).
//!
//! The same description of the keys makes the JSON Schema for editors ([`json_schema`]).

mod address;
mod check;
mod diagnostic;
mod draft;
mod keys;
mod matching;
mod model;
mod pattern;
mod policy;
pub mod reach;
mod reader;
mod schema;
mod syntax;
mod value;

#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Related, Severity, Style};
pub use matching::{Facts, Match};
pub use model::{Community, Enclave, EnclaveFile, Member, PolicyTest, Return, Suite, Template};
pub use pattern::{NamePattern, PatternError};
pub use schema::{json_schema, json_schema_text};
pub use value::{Bounds, MacPattern, Protocol, Selector, Target, Uuid};

pub(crate) use address::assign_one;

use diagnostic::{At, Finding, Report};

/// Largest file that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Most communities that one member may hold: a node tries one key of each on every first message from a stranger.
pub const MAX_COMMUNITIES: usize = 64;
/// Most members that a template, and that a member, may exclude.
pub const MAX_EXCLUSIONS: usize = 256;
/// Most inside addresses of a member, the limit of a signed statement.
pub const MAX_ADDRESSES: usize = coterie_model::signed::MAX_ADDRESSES;
/// Most endpoints of a member.
pub const MAX_ENDPOINTS: usize = 16;
/// Most pools of an enclave.
pub const MAX_POOLS: usize = 16;
/// UDP port of coteried where the file names none.
pub const DEFAULT_PORT: u16 = 4747;

/// Reads and checks an enclave file.
///
/// # Errors
/// All problems of the file where at least one is an error. Warnings alone leave the file accepted; they are then in
/// [`EnclaveFile::warnings`].
pub fn parse(text: &str) -> Result<EnclaveFile, Diagnostics> {
    let mut report = Report::new();
    if text.len() > MAX_BYTES {
        return Err(too_large(text.len()));
    }
    let file = syntax::document(text, &mut report)
        .and_then(|document| draft::read(document, &mut report))
        .and_then(|draft| check::check(draft, &mut report));
    let errors = report.errors();
    let diagnostics = report.finish(text);
    match file {
        Some(mut file) if errors == 0 => {
            file.warnings = diagnostics;
            Ok(file)
        }
        Some(_) | None => Err(diagnostics),
    }
}

/// Reads and checks an enclave file from bytes, which must be UTF-8.
///
/// # Errors
/// As [`parse`]; also every place that is no UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<EnclaveFile, Diagnostics> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(bytes.len()));
    }
    match str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(_) => Err(syntax::not_utf8(bytes)),
    }
}

fn too_large(length: usize) -> Diagnostics {
    let mut report = Report::new();
    let top = At {
        value: (),
        span: 0..0,
        path: String::new(),
    };
    report.push(Finding::error(
        &top,
        format!("the file has {length} bytes, more than the {MAX_BYTES} that are read"),
        "check that this is the enclave file; an enclave too large for one file is split into several enclaves",
    ));
    report.finish("")
}
