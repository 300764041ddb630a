//! Every endpoint of the server, in one table.
//!
//! The server's router is checked against it, and so is the matrix that shows that no tenant sees another's objects: an
//! endpoint that is not here cannot be served, and one that is here cannot be forgotten in a test.

use core::fmt;

use super::Role;

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Replaces.
    Put,
    /// Does something.
    Post,
    /// Ends something.
    Delete,
}

impl Method {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may call an endpoint, and whose objects it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A principal of the server's operator; the objects are tenants.
    Operator,
    /// Any principal; the objects are those of its own scope: its tenant's, or the operator's.
    Own,
    /// A principal of a tenant; the objects are the tenant's enclaves and what is in them. To everybody else they do not
    /// exist.
    Tenant,
    /// A machine with a token, which is nobody yet.
    Visitor,
    /// A member of the enclave whose server name it called, by its identity certificate.
    Member,
}

/// One endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// The path, with a name in braces where an object's name or id stands: `{t}` tenant, `{e}` enclave, `{c}` community,
    /// `{m}` member, `{k}` token id, `{p}` principal id.
    pub path: &'static str,
    /// Who may call it.
    pub scope: Scope,
    /// The least role that may; `None` for machines.
    pub role: Option<Role>,
}

impl Endpoint {
    /// The names in braces of the path, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

const fn operator(method: Method, path: &'static str, role: Role) -> Endpoint {
    of(method, path, Scope::Operator, Some(role))
}

const fn own(method: Method, path: &'static str, role: Role) -> Endpoint {
    of(method, path, Scope::Own, Some(role))
}

const fn tenant(method: Method, path: &'static str, role: Role) -> Endpoint {
    of(method, path, Scope::Tenant, Some(role))
}

const fn machine(path: &'static str, scope: Scope) -> Endpoint {
    of(Method::Post, path, scope, None)
}

const fn of(method: Method, path: &'static str, scope: Scope, role: Option<Role>) -> Endpoint {
    Endpoint {
        method,
        path,
        scope,
        role,
    }
}

/// All endpoints: those of people first, then those of machines.
pub const ENDPOINTS: &[Endpoint] = &[
    own(Method::Get, "/v1/whoami", Role::Auditor),
    operator(Method::Get, "/v1/tenants", Role::Auditor),
    operator(Method::Post, "/v1/tenants", Role::Admin),
    operator(Method::Get, "/v1/tenants/{t}", Role::Auditor),
    operator(Method::Delete, "/v1/tenants/{t}", Role::Admin),
    tenant(Method::Get, "/v1/enclaves", Role::Auditor),
    tenant(Method::Get, "/v1/enclaves/{e}", Role::Auditor),
    tenant(Method::Put, "/v1/enclaves/{e}", Role::Admin),
    tenant(Method::Delete, "/v1/enclaves/{e}", Role::Admin),
    tenant(Method::Get, "/v1/enclaves/{e}/file", Role::Auditor),
    tenant(Method::Get, "/v1/enclaves/{e}/communities", Role::Auditor),
    tenant(Method::Post, "/v1/enclaves/{e}/communities/{c}/rotate-key", Role::Admin),
    tenant(Method::Get, "/v1/enclaves/{e}/members", Role::Auditor),
    tenant(Method::Post, "/v1/enclaves/{e}/members/end", Role::Operator),
    tenant(Method::Get, "/v1/enclaves/{e}/members/{m}", Role::Auditor),
    tenant(Method::Delete, "/v1/enclaves/{e}/members/{m}", Role::Operator),
    tenant(Method::Post, "/v1/enclaves/{e}/members/{m}/isolate", Role::Operator),
    tenant(Method::Post, "/v1/enclaves/{e}/members/{m}/release", Role::Operator),
    tenant(Method::Post, "/v1/enclaves/{e}/members/{m}/revoke", Role::Admin),
    tenant(Method::Post, "/v1/enclaves/{e}/members/{m}/bundle", Role::Operator),
    tenant(Method::Get, "/v1/enclaves/{e}/tokens", Role::Auditor),
    tenant(Method::Post, "/v1/enclaves/{e}/tokens", Role::Operator),
    tenant(Method::Get, "/v1/enclaves/{e}/tokens/{k}", Role::Auditor),
    tenant(Method::Delete, "/v1/enclaves/{e}/tokens/{k}", Role::Operator),
    tenant(Method::Get, "/v1/enclaves/{e}/explain", Role::Auditor),
    tenant(Method::Post, "/v1/enclaves/{e}/root/rotate", Role::Admin),
    own(Method::Get, "/v1/principals", Role::Owner),
    own(Method::Post, "/v1/principals", Role::Owner),
    own(Method::Delete, "/v1/principals/{p}", Role::Owner),
    own(Method::Get, "/v1/audit", Role::Auditor),
    machine("/v1/enrol", Scope::Visitor),
    machine("/v1/node/follow", Scope::Member),
    machine("/v1/node/bundle", Scope::Member),
    machine("/v1/node/ack", Scope::Member),
    machine("/v1/node/resolve", Scope::Member),
    machine("/v1/node/explained", Scope::Member),
    machine("/v1/node/ready", Scope::Member),
    machine("/v1/node/revocations", Scope::Member),
    machine("/v1/node/bye", Scope::Member),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_endpoint_is_there_once_and_says_what_it_speaks_of() {
        let mut seen = BTreeSet::new();
        for endpoint in ENDPOINTS {
            assert!(seen.insert((endpoint.method, endpoint.path)), "{endpoint:?} twice");
            assert!(endpoint.path.starts_with("/v1/"), "{endpoint:?}");
            let parameters: Vec<_> = endpoint.parameters().collect();
            let known: &[&[&str]] = match endpoint.scope {
                Scope::Operator => &[&[], &["t"]],
                Scope::Own => &[&[], &["p"]],
                Scope::Tenant => &[&[], &["e"], &["e", "c"], &["e", "m"], &["e", "k"]],
                Scope::Visitor | Scope::Member => &[&[]],
            };
            assert!(known.contains(&parameters.as_slice()), "{endpoint:?}");
            let of_machines = matches!(endpoint.scope, Scope::Visitor | Scope::Member);
            assert_eq!(endpoint.role.is_none(), of_machines, "{endpoint:?}");
            if endpoint.method != Method::Get {
                assert_ne!(endpoint.role, Some(Role::Auditor), "{endpoint:?} changes something");
            }
        }
    }

    #[test]
    fn the_document_has_the_same_endpoints() {
        let document = include_str!("../../../../docs/API.md");
        let rows = document.lines().filter_map(|line| {
            let (method, rest) = line.strip_prefix("| ")?.split_once(" `")?;
            let (path, _) = rest.split_once('`')?;
            path.starts_with("/v1/").then(|| format!("{method} {path}"))
        });
        let written: BTreeSet<String> = rows.collect();
        let served = ENDPOINTS.iter().map(|e| format!("{} {}", e.method, e.path)).collect();
        assert_eq!(written, served);
    }
}
