//! The properties that the fuzz targets check, and the world of the stateful ones.

#[path = "../properties/control.rs"]
mod control;
#[path = "../properties/enrol.rs"]
mod enrol;
#[path = "../properties/entry.rs"]
mod entry;
#[path = "../properties/follow.rs"]
mod follow;
#[path = "../properties/nodes.rs"]
mod nodes;
#[path = "../properties/parts.rs"]
mod parts;
#[path = "../properties/proto.rs"]
mod proto;
#[path = "../properties/records.rs"]
mod records;
#[path = "../properties/remake.rs"]
mod remake;
#[path = "../properties/site.rs"]
mod site;
#[path = "../properties/visits.rs"]
mod visits;
#[path = "../../crates/coterie-proto/tests/world/mod.rs"]
#[expect(dead_code, reason = "the tests of nodes use the rest of it")]
mod world;

/// Runs the property of the target `name`.
///
/// # Panics
/// When the property does not hold, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let (_, property) = proto::TARGETS
        .iter()
        .chain(control::TARGETS)
        .chain(parts::TARGETS)
        .chain(enrol::TARGETS)
        .chain(follow::TARGETS)
        .chain(records::TARGETS)
        .find(|(target, _)| *target == name)
        .expect("every file in fuzz_targets/ is named like its property");
    property(data);
}
