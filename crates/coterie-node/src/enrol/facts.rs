//! What a machine knows of itself.

use std::fs;

use anyhow::Context;
use coterie_control::file::{Facts, Uuid};
use coterie_model::Name;

use crate::{hex, options::Options};

/// The name that the machine asks for.
pub(super) fn name(options: &Options) -> anyhow::Result<Name> {
    if let Some(name) = &options.name {
        return Ok(name.clone());
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the machine's name")?;
    let short = host.trim().split('.').next().unwrap_or_default().to_lowercase();
    Name::new(&short).with_context(|| {
        format!("the machine's name {short:?} can be no member's; name it with --name (letters, digits and hyphens)")
    })
}

/// What the machine knows of itself. What cannot be read is not known.
pub(super) fn facts() -> Facts {
    let text = |path: &str| fs::read_to_string(path).ok();
    let memory = text("/proc/meminfo").and_then(|all| {
        let line = all.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    });
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mac = links
        .filter(|link| link.path().join("device").exists())
        .filter_map(|link| mac(&fs::read_to_string(link.path().join("address")).ok()?))
        .collect();
    Facts {
        name: text("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()),
        labels: std::collections::BTreeMap::new(),
        mac,
        uuid: text("/sys/class/dmi/id/product_uuid").and_then(|text| uuid(&text)),
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|n| u64::try_from(n.get()).ok()),
        memory,
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    hex::decode(&text.trim().replace(':', ""))
}

fn uuid(text: &str) -> Option<Uuid> {
    hex::decode(&text.trim().replace('-', "")).map(Uuid::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_of_itself_is_read() {
        assert_eq!(mac("52:54:00:12:34:56\n"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(mac("52:54:00:12:34"), None);
        assert_eq!(mac("52:54:00:12:34:5g"), None);
        let text = "4C4C4544-0042-3510-8054-B4C04F4E3132\n";
        assert_eq!(uuid(text).map(|u| u.to_string()), Some(text.trim().to_lowercase()));
        let known = facts();
        assert!(known.cpus.is_some_and(|n| n > 0) && known.memory.is_some_and(|n| n > 1 << 20));
        assert!(known.name.is_some());
    }
}
