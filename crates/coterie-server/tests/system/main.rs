//! Server and nodes together, on the kernel: enrolment, revocation, rotation, absence.

#[path = "../nodes/machine.rs"]
#[expect(dead_code, reason = "the tests of nodes use more of it")]
mod machine;

mod away;
mod cut;
mod door;
mod drain;
mod enrol;
mod flow;
mod rotate;
mod site;
mod trouble;

/// Two tiers, and what both are in.
const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/16"]
lease = "10m"
[community.web]
[community.db]
[template.web]
communities = ["web"]
[template.app]
communities = ["web", "db"]
[template.db]
communities = ["db"]
[template.gate]
communities = ["web"]
door = true
"#;
