//! `coterie vm`: cutting members off, letting them back in, ending them, and bundles for machines that are enrolled by hand.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use coterie_api::v1::{CutOff, EndMembers, Ended};
use coterie_control::bundle::{self, Bundle};
use coterie_model::Name;

use super::{EnclaveArgument, Remote, joined, remote::enclave_path};
use crate::{
    disk::{self, Access},
    output::{self, Format, count},
};

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Cut members off: nobody accepts their keys, until they are released
    Isolate(VmArguments),
    /// Let members back in that were isolated
    Release(VmArguments),
    /// Refuse members' keys for good, and replace the keys of the communities that they held
    Revoke(VmArguments),
    /// End the membership of machines that are gone; their names and addresses are free again
    End(VmArguments),
    /// Get a bundle for a machine that made a request, enrolling it
    Bundle(BundleArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VmArguments {
    /// Members
    #[arg(required = true, value_name = "NAME", value_parser = Name::new)]
    names: Vec<Name>,
    #[command(flatten)]
    enclave: EnclaveArgument,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct BundleArguments {
    /// The member
    #[arg(value_parser = Name::new)]
    name: Name,
    /// The request, as `coterie bundle request` made it on the machine
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// What the machine said is the fingerprint of its request; refuse another one
    #[arg(long, value_name = "TEXT")]
    fingerprint: Option<String>,
    /// Where the bundle goes
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    enclave: EnclaveArgument,
}

/// What is done to a member, in three forms of the word.
struct Act {
    path: &'static str,
    done: &'static str,
    known: &'static str,
}

pub(crate) fn run(command: &VmCommand) -> anyhow::Result<()> {
    let act = |path, done, known| Act { path, done, known };
    match command {
        VmCommand::Isolate(arguments) => each(arguments, &act("isolate", "isolated", "was isolated already")),
        VmCommand::Release(arguments) => each(arguments, &act("release", "released", "was not isolated")),
        VmCommand::Revoke(arguments) => each(arguments, &act("revoke", "revoked", "was revoked already")),
        VmCommand::End(arguments) => end(arguments),
        VmCommand::Bundle(arguments) => bundle(arguments),
    }
}

fn each(arguments: &VmArguments, act: &Act) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let enclave = arguments.enclave.resolve(&remote)?;
    let mut all = Vec::new();
    for name in &arguments.names {
        let path = enclave_path(&enclave, &format!("/members/{name}/{}", act.path));
        let answer = remote.post_empty(&path);
        let cut_off: CutOff = answer.with_context(|| format!("member {name} cannot be {}", act.done))?;
        if arguments.output == Format::Text {
            output::print(&told(&cut_off, act))?;
        }
        all.push(cut_off);
    }
    match arguments.output {
        Format::Json => output::print_json(&all),
        Format::Text => Ok(()),
    }
}

fn told(cut_off: &CutOff, act: &Act) -> String {
    let name = &cut_off.member;
    if !cut_off.changed {
        return format!("{name} {}", act.known);
    }
    let (connected, acknowledged) = (cut_off.connected, cut_off.acknowledged);
    let who = match connected {
        0 => "nobody follows the server now; members learn of it when they do".to_owned(),
        1 if acknowledged == 1 => format!(
            "the 1 other node that is connected knows it after {} ms",
            cut_off.milliseconds
        ),
        _ if acknowledged >= connected => {
            format!(
                "all {connected} connected nodes know it after {} ms",
                cut_off.milliseconds
            )
        }
        _ => format!(
            "{acknowledged} of {connected} connected nodes know it after {} ms; the others have not said so yet",
            cut_off.milliseconds
        ),
    };
    let mut text = format!("{name} is {}; {who}", act.done);
    if !cut_off.communities_rolled.is_empty() {
        text.push_str(&format!("\nnew keys for {}", joined(&cut_off.communities_rolled)));
    }
    text
}

fn end(arguments: &VmArguments) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let enclave = arguments.enclave.resolve(&remote)?;
    let names = arguments.names.clone();
    let ended: Ended = remote.post(&enclave_path(&enclave, "/members/end"), &EndMembers { names })?;
    match arguments.output {
        Format::Json => output::print_json(&ended),
        Format::Text => output::print(&told_ended(&ended)),
    }
}

fn told_ended(ended: &Ended) -> String {
    let mut lines = Vec::new();
    if !ended.ended.is_empty() {
        lines.push(format!(
            "ended {}: {}",
            count(ended.ended.len(), "member"),
            joined(&ended.ended)
        ));
    }
    if !ended.not_enrolled.is_empty() {
        lines.push(format!("not enrolled: {}", joined(&ended.not_enrolled)));
    }
    lines.join("\n")
}

fn bundle(arguments: &BundleArguments) -> anyhow::Result<()> {
    let (name, output) = (&arguments.name, &arguments.output);
    disk::check_free(output, arguments.force)?;
    let request = crate::bundle::read_request(&arguments.request, arguments.fingerprint.as_deref())?;
    if request.name() != name {
        bail!(
            "{} is the request of {}, not of {name}",
            arguments.request.display(),
            request.name()
        );
    }
    let remote = Remote::connect()?;
    let enclave = arguments.enclave.resolve(&remote)?;
    let path = enclave_path(&enclave, &format!("/members/{name}/bundle"));
    let text = remote.post_text(&path, request.to_text())?;
    write(output, &text, arguments.force)?;
    output::print(&format!(
        "bundle {} for member {name} of enclave {enclave}\nfingerprint of the request {}",
        output.display(),
        request.fingerprint()
    ))
}

fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    if text.len() > bundle::MAX_BYTES {
        bail!("the server's answer is longer than any bundle");
    }
    Bundle::parse(text.as_bytes()).context("the server's answer is no bundle")?;
    disk::write(path, text.as_bytes(), Access::All, force)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVOKED: Act = Act {
        path: "revoke",
        done: "revoked",
        known: "was revoked already",
    };

    fn cut_off(connected: u64, acknowledged: u64) -> CutOff {
        CutOff {
            member: Name::new("web-1").unwrap(),
            changed: true,
            connected,
            acknowledged,
            milliseconds: 42,
            revision: 7,
            communities_rolled: vec![],
        }
    }

    #[test]
    fn how_many_know_it_is_said() {
        assert!(told(&cut_off(0, 0), &REVOKED).contains("nobody follows"));
        assert!(told(&cut_off(1, 1), &REVOKED).contains("the 1 other node"));
        assert_eq!(
            told(&cut_off(199, 199), &REVOKED),
            "web-1 is revoked; all 199 connected nodes know it after 42 ms"
        );
        assert!(told(&cut_off(199, 198), &REVOKED).contains("198 of 199"));
        let rolled = CutOff {
            communities_rolled: vec![Name::new("data").unwrap()],
            ..cut_off(0, 0)
        };
        assert!(told(&rolled, &REVOKED).ends_with("new keys for data"));
        let known = CutOff {
            changed: false,
            ..cut_off(2, 2)
        };
        assert_eq!(told(&known, &REVOKED), "web-1 was revoked already");
    }

    #[test]
    fn only_a_bundle_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle");
        assert!(write(&path, "<html>", false).is_err());
        assert!(!path.exists());
    }
}
