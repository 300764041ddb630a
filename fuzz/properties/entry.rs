//! A directory entry written field by field, for decoders that read some.

use coterie_model::{DirectoryEntry, Statement, Unverified, Writer};

/// Appends an entry; asserts the bounds of its lists.
pub(crate) fn write(entry: &DirectoryEntry<Unverified<Statement>>, w: &mut Writer) {
    let count = |n: usize| u8::try_from(n).expect("lists of an entry are short");
    assert!(entry.communities.len() <= 64 && entry.statements.len() <= 64);
    assert!(entry.addresses.len() <= 16 && entry.endpoints.len() <= 16);
    w.name(&entry.name).u8(count(entry.communities.len()));
    for tag in &entry.communities {
        w.bytes(&tag.0);
    }
    w.u8(count(entry.addresses.len()));
    for prefix in &entry.addresses {
        w.prefix(prefix);
    }
    w.u8(count(entry.endpoints.len()));
    for endpoint in &entry.endpoints {
        w.endpoint(endpoint);
    }
    w.u8(count(entry.statements.len()));
    for statement in &entry.statements {
        w.counted(statement.bytes());
    }
}
