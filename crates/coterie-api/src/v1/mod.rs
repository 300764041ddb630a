//! The contract with the configuration server, version 1: what people and nodes ask it, and what it answers
//! (`docs/API.md`).
//!
//! Bodies are JSON objects unless an endpoint says otherwise. Times are Unix seconds, spans are seconds unless the name says
//! otherwise, bytes are lower-case hexadecimal. Within version 1 fields are added to answers, never renamed and never removed;
//! what reads an answer ignores those that it does not know. Requests are read strictly, so that a misspelt field is refused
//! rather than ignored.

pub mod audit;
pub mod enclave;
pub mod endpoint;
pub mod explain;
pub mod member;
pub mod node;
pub mod principal;
pub mod problem;
pub mod secret;
pub mod token;

pub use audit::{AuditEntry, AuditPage, AuditQuery};
pub use enclave::{
    Applied, ApplyQuery, Community, EnclaveSummary, NextEpoch, ReachChange, RollKind, RollRequest, RolledKey,
    RootRotated,
};
pub use endpoint::{ENDPOINTS, Endpoint, Method, Scope};
pub use explain::{Considered, ExplainQuery, Explained, Installed, Policy, Verdict};
pub use member::{CutOff, CutOffQuery, EndMembers, Ended, Member, MemberState};
pub use node::{Ack, Follow, NodeExplained, Ready, Resolve};
pub use principal::{NewPrincipal, NewTenant, Principal, PrincipalMade, Role, Tenant, TenantMade, WhoAmI};
pub use problem::{FileFault, Problem};
pub use secret::SecretText;
pub use token::{NewToken, Token, TokenMade, TokenUse};

use serde::{Deserialize, Serialize};

/// TCP port of the server unless told otherwise.
pub const DEFAULT_PORT: u16 = 4750;

/// What the secret of a principal begins with; 43 characters of base64url (32 bytes) follow.
pub const KEY_PREFIX: &str = "coterie-key-1.";

/// What the server name that nodes send ends with; the 32 hexadecimal digits of the enclave stand before it.
pub const NODE_SERVER_NAME_SUFFIX: &str = ".coterie.internal";

/// Header of `POST /v1/enrol` in which a door names the visitor: `address:port`.
pub const SOURCE_HEADER: &str = "coterie-source";

/// Media type of errors.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// Media type of an enclave file.
pub const FILE_TYPE: &str = "application/toml";

/// Media type of applications, replies and framed messages of the stream.
pub const BYTES_TYPE: &str = "application/octet-stream";

/// Largest sealed application, in bytes.
pub const MAX_APPLICATION: usize = 16 * 1024;
/// Most bytes of a signed list of revocations: 900 entries of 56 bytes, what is around them, and a signature.
pub const MAX_REVOCATIONS: usize = 52 * 1024;

/// Largest enclave file that is taken, in bytes.
pub const MAX_FILE: usize = 1 << 20;

/// Largest other body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Most rows of [`Applied::reach`].
pub const MAX_REACH_ROWS: usize = 1_000;

/// Most entries of one [`AuditPage`].
pub const MAX_AUDIT_PAGE: u32 = 1_000;

/// Longest wait of an [`AuditQuery`], in seconds.
pub const MAX_AUDIT_WAIT: u64 = 60;

/// Longest time that isolate, release and revoke wait for nodes to acknowledge, in milliseconds.
pub const MAX_CUT_OFF_WAIT_MS: u64 = 5_000;

/// The answer of every endpoint that lists things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// All of them, in the order that the endpoint states.
    pub items: Vec<T>,
}

/// The server name by which a node reaches the server of its enclave.
#[must_use]
pub fn node_server_name(enclave: coterie_model::EnclaveId) -> String {
    format!("{enclave}{NODE_SERVER_NAME_SUFFIX}")
}

/// The enclave that a server name speaks of; `None` when it is for people.
#[must_use]
pub fn enclave_of_server_name(name: &str) -> Option<coterie_model::EnclaveId> {
    let digits = name.strip_suffix(NODE_SERVER_NAME_SUFFIX)?.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut id = coterie_model::EnclaveId::default();
    for (byte, pair) in id.0.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use coterie_model::EnclaveId;

    use super::*;

    #[test]
    fn server_names_of_nodes_come_back() {
        let id = EnclaveId(core::array::from_fn(|n| u8::try_from(n * 17).unwrap()));
        let name = node_server_name(id);
        assert_eq!(name, "00112233445566778899aabbccddeeff.coterie.internal");
        assert_eq!(enclave_of_server_name(&name), Some(id));
        for other in [
            "",
            ".coterie.internal",
            "coterie.internal",
            "00112233445566778899AABBCCDDEEFF.coterie.internal",
            "00112233445566778899aabbccddeef.coterie.internal",
            "00112233445566778899aabbccddeeff00.coterie.internal",
            "00112233445566778899aabbccddeeff.coterie.internal.",
            "+0112233445566778899aabbccddeeff.coterie.internal",
        ] {
            assert_eq!(enclave_of_server_name(other), None, "{other}");
        }
    }
}
