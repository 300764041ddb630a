//! The demo, whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coterie_lab::within_namespaces;

/// `coteried` beside the program; a test is skipped where only this package was built.
pub(crate) fn coteried() -> Option<PathBuf> {
    beside("coteried")
}

fn beside(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_coterie")).with_file_name(name);
    if beside.exists() {
        return Some(beside);
    }
    assert!(
        std::env::var_os("COTERIE_LAB_REQUIRED").is_none(),
        "{} was not built",
        beside.display()
    );
    eprintln!(
        "skipped: {} was not built; `cargo build --workspace` builds it",
        beside.display()
    );
    None
}

#[test]
fn all_checks_of_the_demo_pass() {
    if beside("coteried").is_none() || beside("coterie-server").is_none() {
        return;
    }
    // Namespaces in namespaces: whatever allows the first allows the second.
    within_namespaces(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_coterie"))
            .args(["demo", "--json"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let failed: Vec<_> = checks.iter().filter(|check| check["outcome"] == "failed").collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(output.status.code(), Some(0));
        assert!(checks.len() >= 40, "{} checks", checks.len());
        assert_eq!(
            report["passed"].as_u64().unwrap() + report["skipped"].as_u64().unwrap(),
            checks.len() as u64
        );
        for program in ["coterie", "coteried", "coterie-server"] {
            assert_eq!(report["programs"][program]["sha256"].as_str().unwrap().len(), 64);
        }
    });
}
