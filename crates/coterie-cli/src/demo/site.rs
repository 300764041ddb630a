//! The administrator's desk: the enclave directory and the bundles, by the commands that people type.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use coterie_lab::Host;

use super::{policy::Policy, world::Programs};

/// Files of the administrator, and the program that he runs.
#[derive(Debug)]
pub(super) struct Site {
    directory: PathBuf,
    coterie: PathBuf,
}

impl Site {
    /// Makes the enclave.
    pub(super) fn found(directory: PathBuf, programs: &Programs) -> anyhow::Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let this = Self {
            directory,
            coterie: programs.coterie.path.clone(),
        };
        fs::write(this.file(), Policy::Example.text()?)?;
        this.coterie(
            &["enclave", "init"],
            &[&this.file()],
            &[("--directory", &this.enclave())],
        )?;
        Ok(this)
    }

    /// The machine makes its keys and a request, and gets a first bundle. Its keys do not leave it.
    pub(super) fn enrol(&self, host: &Host) -> anyhow::Result<()> {
        let (keys, request) = (keys(host), host.directory().join("request"));
        host.command(&self.coterie)
            .args(["bundle", "request", host.name(), "--keys"])
            .arg(&keys)
            .arg("--output")
            .arg(&request)
            .run()?
            .check()?;
        let options = [("--directory", self.enclave()), ("--output", bundle(host))];
        let options: Vec<(&str, &Path)> = options.iter().map(|(name, path)| (*name, path.as_path())).collect();
        self.coterie(&["bundle", "issue"], &[&request], &options)
    }

    /// Changes the enclave file.
    pub(super) fn decide(&self, policy: Policy) -> anyhow::Result<()> {
        fs::write(self.file(), policy.text()?)?;
        self.coterie(
            &["enclave", "update"],
            &[&self.file()],
            &[("--directory", &self.enclave())],
        )
    }

    /// Issues new bundles and carries them to their machines.
    pub(super) fn reissue<'h>(&self, hosts: impl Iterator<Item = &'h Host>) -> anyhow::Result<()> {
        let issued = self.directory.join("bundles");
        let options: [(&str, &Path); 2] = [("--directory", &self.enclave()), ("--output", &issued)];
        self.coterie(&["bundle", "issue", "--all", "--force"], &[], &options)?;
        for host in hosts {
            let target = bundle(host);
            let beside = target.with_extension("new");
            fs::copy(issued.join(format!("{}.bundle", host.name())), &beside)?;
            fs::rename(&beside, &target)?;
        }
        Ok(())
    }

    /// What the policy says of a pair.
    pub(super) fn chosen(&self, from: &str, to: &str) -> anyhow::Result<Option<String>> {
        let output = Command::new(&self.coterie)
            .args(["explain", from, to, "--output", "json", "--file"])
            .arg(self.file())
            .output()?;
        let explanation: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(explanation["chosen"].as_str().map(str::to_owned))
    }

    /// Where the enclave directory is.
    pub(super) fn enclave(&self) -> PathBuf {
        self.directory.join("enclave")
    }

    fn file(&self) -> PathBuf {
        self.directory.join("shop.toml")
    }

    fn coterie(&self, words: &[&str], files: &[&Path], options: &[(&str, &Path)]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.coterie);
        command.args(words).args(files);
        for (name, path) in options {
            command.arg(name).arg(path);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot run {}", self.coterie.display()))?;
        if !output.status.success() {
            bail!(
                "`coterie {}` failed: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// Where a machine keeps its keys.
pub(super) fn keys(host: &Host) -> PathBuf {
    host.directory().join("keys")
}

/// Where a machine has its bundle.
pub(super) fn bundle(host: &Host) -> PathBuf {
    host.directory().join("bundle")
}
