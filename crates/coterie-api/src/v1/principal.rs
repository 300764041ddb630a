//! Who may call the server, and the tenants that they belong to.

use coterie_model::Name;
use serde::{Deserialize, Serialize};

use super::SecretText;

/// What a principal may do. Each may do all that those after it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, principals included.
    Owner,
    /// Everything but principals.
    Admin,
    /// Daily work: tokens, isolating and releasing members, ending those whose machines are gone.
    Operator,
    /// Reads, the audit log included.
    Auditor,
}

impl Role {
    /// The role's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }

    /// Whether it may do what needs `least`.
    #[must_use]
    pub fn may(self, least: Self) -> bool {
        self <= least
    }
}

/// A principal: `GET /v1/principals` by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// Its name, of which its tenant, or the operator, has one.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// When it was made, Unix seconds.
    pub created: u64,
    /// The last second in which its key is good, Unix seconds; `null`: there is no last.
    pub not_after: Option<u64>,
    /// Since when it is revoked, Unix seconds.
    pub revoked: Option<u64>,
    /// When it was last noted that it called, Unix seconds.
    pub last_used: Option<u64>,
}

/// Body of `POST /v1/principals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPrincipal {
    /// Its name.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// How long its key is good, seconds; `null`: for ever.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

/// What `POST /v1/principals` answers, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalMade {
    /// The principal.
    pub principal: Principal,
    /// Its key, for `Authorization: Bearer`. Secret; it is not shown again.
    pub key: SecretText,
}

/// What `GET /v1/whoami` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// Whose key it is.
    pub principal: Principal,
    /// Its tenant; `null` for the server's operator.
    pub tenant: Option<Name>,
    /// The server's version.
    pub server_version: String,
}

/// A tenant: `GET /v1/tenants` by name, `GET /v1/tenants/{t}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub name: Name,
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// When it was made, Unix seconds.
    pub created: u64,
    /// How many enclaves it has.
    pub enclaves: u64,
}

/// Body of `POST /v1/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name.
    pub name: Name,
    /// Name of its first principal, an owner; `owner` where it is `null`.
    #[serde(default)]
    pub owner: Option<Name>,
}

/// What `POST /v1/tenants` answers, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantMade {
    /// The tenant.
    pub tenant: Tenant,
    /// Its first principal, with the key.
    pub owner: PrincipalMade,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_what_those_after_it_may() {
        assert!(Role::Owner.may(Role::Auditor) && Role::Operator.may(Role::Operator));
        assert!(!Role::Operator.may(Role::Admin) && !Role::Auditor.may(Role::Operator));
    }

    #[test]
    fn requests_are_strict_and_answers_are_not() {
        assert!(serde_json::from_str::<NewTenant>(r#"{"name":"a","onwer":"b"}"#).is_err());
        let tenant = r#"{"name":"a","id":"00","created":1,"enclaves":0,"a-field-of-later":true}"#;
        assert!(serde_json::from_str::<Tenant>(tenant).is_ok());
    }
}
