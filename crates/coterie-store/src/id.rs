//! Identifiers that only a server has; those of enclaves and members are the model's.

use core::fmt;

use coterie_crypto::Entropy;

macro_rules! drawn_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            pub(crate) fn draw(entropy: &mut (dyn Entropy + Send)) -> Self {
                let mut id = [0; 16];
                entropy.fill(&mut id);
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

drawn_id!(
    /// A tenant: random, never reused.
    TenantId
);
drawn_id!(
    /// A join token: random; it is no secret, the token's 32 bytes are.
    TokenId
);
drawn_id!(
    /// Somebody or something that may call the server.
    PrincipalId
);
drawn_id!(
    /// One database, from its making on; a restored backup has that of the original.
    ServerId
);
drawn_id!(
    /// One history of a database: drawn when it is made and by each restore, so that two that went different ways after the
    /// same backup differ.
    Timeline
);

/// Whose a thing is that need not be a tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The operator of the server: of no tenant.
    Operator,
    /// One tenant.
    Tenant(TenantId),
}

impl Scope {
    pub(crate) fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Operator => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

impl From<Option<TenantId>> for Scope {
    fn from(tenant: Option<TenantId>) -> Self {
        tenant.map_or(Self::Operator, Self::Tenant)
    }
}

/// Lower-case hexadecimal, for messages.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}")).expect("a string takes what it is given");
        text
    })
}
