//! Which starting machines get a template.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    pattern::NamePattern,
    value::{Bounds, MacPattern, Uuid},
};

/// What a machine must be to get a template: every selector that is given must fit, and at least one is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Match {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NamePattern>,
    /// Labels that it carries, with patterns over their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, NamePattern>,
    /// Its MAC addresses: one of them must fit one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mac: Vec<MacPattern>,
    /// Its SMBIOS UUID must be one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uuid: Vec<Uuid>,
    /// Number of processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Bounds>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bounds>,
}

/// What is known of a starting machine; what is not known fits no selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its name at the hypervisor.
    pub name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its MAC addresses.
    pub mac: Vec<[u8; 6]>,
    /// Its SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Number of processors.
    pub cpus: Option<u64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
}

impl Match {
    /// Whether a machine of which `facts` are known gets the template.
    #[must_use]
    pub fn matches(&self, facts: &Facts) -> bool {
        let within = |bounds: &Option<Bounds>, number: Option<u64>| {
            bounds.is_none_or(|bounds| number.is_some_and(|number| bounds.contains(number)))
        };
        self.name
            .as_ref()
            .is_none_or(|pattern| facts.name.as_deref().is_some_and(|name| pattern.matches(name)))
            && self
                .labels
                .iter()
                .all(|(label, pattern)| facts.labels.get(label).is_some_and(|value| pattern.matches(value)))
            && (self.mac.is_empty()
                || facts
                    .mac
                    .iter()
                    .any(|mac| self.mac.iter().any(|pattern| pattern.matches(*mac))))
            && (self.uuid.is_empty() || facts.uuid.is_some_and(|uuid| self.uuid.contains(&uuid)))
            && within(&self.cpus, facts.cpus)
            && within(&self.memory, facts.memory)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.labels.is_empty()
            && self.mac.is_empty()
            && self.uuid.is_empty()
            && self.cpus.is_none()
            && self.memory.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::value, *};

    #[test]
    fn every_selector_must_fit_and_what_is_not_known_fits_none() {
        let uuid = value::uuid("4c4c4544-0042-3510-8054-b4c04f4e3132").unwrap();
        let wanted = Match {
            name: None,
            labels: BTreeMap::new(),
            mac: vec![
                value::mac_pattern("aa:*").unwrap(),
                value::mac_pattern("52:54:00:*").unwrap(),
            ],
            uuid: vec![uuid],
            cpus: Some(Bounds::exactly(4)),
            memory: None,
        };
        let fitting = Facts {
            mac: vec![[1; 6], [0x52, 0x54, 0, 9, 9, 9]],
            uuid: Some(uuid),
            cpus: Some(4),
            ..Facts::default()
        };
        assert!(wanted.matches(&fitting));
        assert!(!wanted.matches(&Facts {
            mac: vec![[1; 6]],
            ..fitting.clone()
        }));
        assert!(!wanted.matches(&Facts {
            mac: Vec::new(),
            ..fitting.clone()
        }));
        assert!(!wanted.matches(&Facts {
            uuid: Some(Uuid::from_bytes([0; 16])),
            ..fitting.clone()
        }));
        assert!(!wanted.matches(&Facts {
            uuid: None,
            ..fitting.clone()
        }));
        assert!(!wanted.matches(&Facts {
            cpus: Some(5),
            ..fitting
        }));
    }
}
