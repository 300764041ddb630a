//! What the command line says of itself, and how it ends.

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::{coterie, root};

/// Every command that people see.
const COMMANDS: [&[&str]; 54] = [
    &[],
    &["demo"],
    &["up"],
    &["down"],
    &["unlock"],
    &["status"],
    &["ping"],
    &["wait"],
    &["explain"],
    &["metrics"],
    &["schema"],
    &["completions"],
    &["enclave"],
    &["enclave", "init"],
    &["enclave", "check"],
    &["enclave", "update"],
    &["enclave", "show"],
    &["enclave", "roll"],
    &["enclave", "revoke"],
    &["enclave", "remove"],
    &["enclave", "schema"],
    &["bundle"],
    &["bundle", "request"],
    &["bundle", "issue"],
    &["bundle", "show"],
    &["bundle", "verify"],
    &["login"],
    &["logout"],
    &["apply"],
    &["diff"],
    &["get"],
    &["token"],
    &["token", "create"],
    &["token", "list"],
    &["token", "revoke"],
    &["coi"],
    &["coi", "rotate-key"],
    &["vm"],
    &["vm", "isolate"],
    &["vm", "release"],
    &["vm", "revoke"],
    &["vm", "end"],
    &["vm", "bundle"],
    &["root"],
    &["root", "rotate"],
    &["audit"],
    &["audit", "tail"],
    &["key"],
    &["key", "create"],
    &["key", "list"],
    &["key", "revoke"],
    &["tenant"],
    &["tenant", "create"],
    &["man"],
];

#[test]
fn every_command_has_help_with_a_sentence_for_each_argument() {
    for command in COMMANDS {
        let help = coterie(&[command, &["--help"]].concat()).ended(0).stdout;
        assert!(help.contains("Usage: coterie"), "{command:?}: {help}");
        for line in help.lines().filter(|line| line.trim_start().starts_with("--")) {
            let sentence = line.trim().split("  ").nth(1);
            let on_next_line = line.trim().split("  ").count() == 1;
            assert!(
                on_next_line || sentence.is_some(),
                "{command:?}: `{line}` is not explained"
            );
        }
    }
}

#[test]
fn the_exit_codes_stand_in_the_help_and_are_kept() {
    let help = coterie(&["--help"]).ended(0).stdout;
    for code in 0..=5 {
        assert!(
            help.lines().any(|line| line.starts_with(&format!("  {code}  "))),
            "no code {code} in {help}"
        );
    }
    coterie(&["no-such-command"]).ended(2);
    coterie(&[]).ended(2);
    coterie(&["explain", "web-1", "db-1"]).ended(2);
    coterie(&["ping", "db-1", "--count", "0"]).ended(2);
    coterie(&["enclave", "roll", "Not-A-Name", "--directory", "x"]).ended(2);
    coterie(&["enclave", "check", "/nonexistent.toml"]).ended(1);
    let unreachable = coterie(&["status", "--socket", "/nonexistent/socket"]).ended(3);
    assert!(unreachable.stderr.contains("/nonexistent/socket"), "{unreachable:?}");
    let late = coterie(&[
        "wait",
        "--ready",
        "--timeout",
        "50ms",
        "--socket",
        "/nonexistent/socket",
    ])
    .ended(5);
    assert!(late.stderr.contains("/nonexistent/socket"), "{late:?}");
}

#[test]
fn the_version_is_that_of_the_package() {
    assert_eq!(
        coterie(&["--version"]).ended(0).stdout,
        format!("coterie {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = coterie(&["completions", shell]).ended(0).stdout;
        for word in ["demo", "enclave", "bundle", "explain", "apply", "rotate-key"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    coterie(&["man", directory.path().to_str().unwrap()]).ended(0);
    for page in [
        "coterie.1",
        "coterie-demo.1",
        "coterie-enclave-init.1",
        "coterie-bundle-issue.1",
        "coterie-apply.1",
        "coterie-token-create.1",
    ] {
        let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    coterie(&["man", "/nonexistent"]).ended(1);
}

#[test]
fn the_schema_is_the_published_one() {
    let published = std::fs::read_to_string(root().join("schema/enclave.schema.json")).unwrap();
    for command in [&["schema"][..], &["enclave", "schema"]] {
        assert_eq!(coterie(command).ended(0).stdout, published);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_coterie"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}
