//! The JSON Schema of the enclave file is published in the repository, for editors, and printed by `coterie schema`: the same.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{Findings, tree::Tree};

const PUBLISHED: &str = "schema/enclave.schema.json";

/// Compares what is published with what the code prints.
pub(crate) fn check(tree: &Tree) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let published = tree.text(PUBLISHED)?.context("a schema is text")?;
    if published.trim_end() != printed(tree)?.trim_end() {
        findings.problems.push(format!(
            "{PUBLISHED} is not what the code prints; run `cargo run -p xtask -- schema --write` and look at the difference"
        ));
    }
    Ok(findings)
}

/// Publishes what the code prints.
pub(crate) fn write(tree: &Tree) -> anyhow::Result<Findings> {
    let text = format!("{}\n", printed(tree)?.trim_end());
    std::fs::write(tree.root().join(PUBLISHED), text).with_context(|| format!("cannot write {PUBLISHED}"))?;
    Ok(Findings::default())
}

fn printed(tree: &Tree) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "-p", "coterie-cli", "--", "schema"])
        .current_dir(tree.root())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "`coterie schema` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).context("a schema is text")
}
