//! Inside address → member, by the longest prefix.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coterie_model::Prefix;

use super::PeerId;

/// Who has which inside address.
#[derive(Debug, Default)]
pub(super) struct Table {
    hosts: BTreeMap<IpAddr, PeerId>,
    /// Longest first.
    nets: Vec<(Prefix, PeerId)>,
}

impl Table {
    /// Gives `prefix` to `id`, taking it from whoever had it.
    pub(super) fn insert(&mut self, prefix: Prefix, id: PeerId) {
        if prefix.is_host() {
            self.hosts.insert(prefix.addr(), id);
            return;
        }
        self.nets.retain(|(p, _)| *p != prefix);
        let at = self.nets.partition_point(|(p, _)| p.len() >= prefix.len());
        self.nets.insert(at, (prefix, id));
    }

    /// Takes everything from `id`.
    pub(super) fn remove(&mut self, id: PeerId) {
        self.hosts.retain(|_, owner| *owner != id);
        self.nets.retain(|(_, owner)| *owner != id);
    }

    /// Who has `addr`.
    pub(super) fn owner(&self, addr: IpAddr) -> Option<PeerId> {
        self.hosts
            .get(&addr)
            .copied()
            .or_else(|| self.nets.iter().find(|(p, _)| p.contains(addr)).map(|(_, id)| *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_owns() {
        let mut t = Table::default();
        let prefix = |s: &str, len| Prefix::new(s.parse().unwrap(), len).unwrap();
        t.insert(prefix("0.0.0.0", 0), 1);
        t.insert(prefix("10.0.0.0", 8), 2);
        t.insert(prefix("10.1.0.0", 16), 3);
        t.insert(prefix("10.1.1.1", 32), 4);
        let owner = |t: &Table, s: &str| t.owner(s.parse().unwrap());
        assert_eq!(owner(&t, "10.1.1.1"), Some(4));
        assert_eq!(owner(&t, "10.1.1.2"), Some(3));
        assert_eq!(owner(&t, "10.2.0.0"), Some(2));
        assert_eq!(owner(&t, "192.0.2.1"), Some(1));
        assert_eq!(owner(&t, "fd00::1"), None);
        t.remove(3);
        assert_eq!(owner(&t, "10.1.1.2"), Some(2));
    }
}
