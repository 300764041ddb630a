//! The built program, run as people run it.
#![expect(clippy::unwrap_used, reason = "the functions beside the tests are tests too")]

mod bundle;
mod demo;
mod enclave;
mod help;
mod node;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of `coterie` left.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `coterie` in a directory, with nothing of the caller's environment that could change what it says.
fn coterie_in(directory: &Path, arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_coterie"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("COTERIE_SOCKET")
        .env_remove("COTERIE_SERVER")
        .env_remove("COTERIE_KEY")
        .env_remove("COTERIE_CA")
        .env_remove("COTERIE_ENCLAVE")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env_remove("SSH_CONNECTION")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `coterie` where no file matters.
fn coterie(arguments: &[&str]) -> Run {
    coterie_in(Path::new("/"), arguments)
}

impl Run {
    /// Checks the exit code; the run itself for more.
    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// Every path below a directory, with its mode and contents: two that are equal are the same directory.
fn contents(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path, (meta.permissions().mode(), bytes));
    }
    found
}

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example with three tiers.
fn example() -> String {
    root()
        .join("examples/three-tier.toml")
        .canonicalize()
        .unwrap()
        .display()
        .to_string()
}

/// A directory with the enclave `enclave` in it, and `web-1` and `app-1` enrolled with keys and bundles.
fn site() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| coterie_in(directory.path(), arguments).ended(0);
    run(&["enclave", "init", &example(), "--directory", "enclave"]);
    for name in ["web-1", "app-1"] {
        let file = |what: &str| format!("{name}.{what}");
        run(&[
            "bundle",
            "request",
            name,
            "--keys",
            &file("keys"),
            "-o",
            &file("request"),
        ]);
        run(&[
            "bundle",
            "issue",
            "--directory",
            "enclave",
            &file("request"),
            "-o",
            &file("bundle"),
        ]);
    }
    directory
}
