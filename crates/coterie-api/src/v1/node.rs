//! What nodes say to the server in JSON; the stream itself and everything about keys is bytes (`docs/BUNDLE.md`).

use std::net::IpAddr;

use coterie_model::Name;
use serde::{Deserialize, Serialize};

use crate::node::{Explanation, Failure};

/// Body of `POST /v1/node/follow`: what the node knows already, 0 for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// The last revision that it was told everything up to.
    pub mark: u64,
    /// The revision of the revocations that it has.
    pub revocations: u64,
    /// The serial of its bundle.
    pub serial: u64,
}

/// Body of `POST /v1/node/ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Everything up to this mark was applied.
    pub mark: u64,
}

/// Body of `POST /v1/node/resolve`: `{"name":…}` or `{"address":…}`. The answer is framed messages of the stream, one or more
/// for each community that the member shares with the asker; 404 where it shares none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolve {
    /// By name.
    Name(Name),
    /// By inside address.
    Address(IpAddr),
}

/// Body of `POST /v1/node/explained`: either an explanation or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeExplained {
    /// The number that the stream's question had.
    pub id: u64,
    /// What the node has installed.
    #[serde(default)]
    pub explanation: Option<Explanation>,
    /// Why it does not say.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Body of `POST /v1/node/ready`, after each start, once the inside interface is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// `coteried`'s version.
    pub version: String,
    /// The kernel's identifier of this boot.
    pub boot: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_asked_for_by_name_or_by_address() {
        let name = Resolve::Name(Name::new("db-1").unwrap());
        assert_eq!(serde_json::to_string(&name).unwrap(), r#"{"name":"db-1"}"#);
        let address: Resolve = serde_json::from_str(r#"{"address":"10.77.0.1"}"#).unwrap();
        assert_eq!(address, Resolve::Address("10.77.0.1".parse().unwrap()));
        assert!(serde_json::from_str::<Resolve>(r#"{"name":"db-1","address":"10.77.0.1"}"#).is_err());
        assert!(serde_json::from_str::<Ack>(r#"{"mark":1,"amrk":2}"#).is_err());
    }
}
