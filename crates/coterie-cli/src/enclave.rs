//! `coterie enclave`: an enclave file and the enclave directory that is made from it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use coterie_control::{
    file::{self, Diagnostics, EnclaveFile, PolicyTest},
    issue::{Changes, Enclave, Roll},
};
use coterie_model::Name;
use serde_json::json;

use crate::{
    clock,
    directory::Directory,
    disk,
    entropy::MachineEntropy,
    exit::{Exit, Stop},
    output::{self, Format, Paint, count, hex},
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum EnclaveCommand {
    /// Make a new enclave directory, with fresh keys, from an enclave file
    Init {
        /// The enclave file
        file: PathBuf,
        /// The directory to make; it holds the enclave's secrets
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
    },
    /// Check an enclave file and run its tests; changes nothing
    Check {
        /// The enclave file
        file: PathBuf,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Take a changed enclave file; members that are gone are revoked, keys that they held are replaced
    Update {
        /// The enclave file
        file: PathBuf,
        /// The enclave directory
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
    },
    /// Show an enclave: communities with their epochs, members with their bundles
    Show {
        /// The enclave directory
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Give a community a new key; members get it with their next bundle
    Roll {
        /// The community
        #[arg(value_parser = Name::new)]
        community: Name,
        /// The enclave directory
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
        /// At once, to a key that was never handed out: after a member was removed
        #[arg(long)]
        removal: bool,
        /// How long from now the new key is used: time to bring new bundles to all members
        #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = clock::parse_span)]
        #[arg(conflicts_with = "removal")]
        activates_in: Duration,
    },
    /// Refuse a member's keys, and replace the keys of the communities that it held
    Revoke {
        /// The member
        #[arg(value_parser = Name::new)]
        member: Name,
        /// The enclave directory
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
    },
    /// Remove an enclave from the server; its members are members of nothing then
    Remove {
        /// The enclave
        #[arg(value_parser = Name::new)]
        name: Name,
        /// Do not ask before
        #[arg(long, short)]
        yes: bool,
    },
    /// Print the JSON Schema of the enclave file, for editors
    Schema,
}

pub(crate) fn run(command: EnclaveCommand) -> anyhow::Result<()> {
    match command {
        EnclaveCommand::Init { file, directory } => init(&file, &directory),
        EnclaveCommand::Check { file, output } => check(&file, output),
        EnclaveCommand::Update { file, directory } => update(&file, &directory),
        EnclaveCommand::Show { directory, output } => show(&directory, output),
        EnclaveCommand::Roll {
            community,
            directory,
            removal,
            activates_in,
        } => {
            let kind = if removal {
                Roll::Removal
            } else {
                Roll::Scheduled { activates_in }
            };
            roll(&community, &directory, kind)
        }
        EnclaveCommand::Revoke { member, directory } => revoke(&member, &directory),
        EnclaveCommand::Remove { name, yes } => crate::server::remove_enclave(&name, yes),
        EnclaveCommand::Schema => schema(),
    }
}

/// Prints the JSON Schema of the enclave file.
pub(crate) fn schema() -> anyhow::Result<()> {
    output::print(&file::json_schema_text())
}

/// Reads an enclave file; what is wrong with it goes to standard error, in the manner of compilers.
pub(crate) fn read(path: &Path) -> anyhow::Result<(String, EnclaveFile)> {
    let bytes = disk::read(path, file::MAX_BYTES)?;
    match file::parse_bytes(&bytes) {
        Ok(parsed) => {
            eprint!("{}", render(&parsed.warnings, path, Paint::stderr()));
            let text = String::from_utf8(bytes).context("an enclave file that was accepted is UTF-8")?;
            Ok((text, parsed))
        }
        Err(diagnostics) => {
            eprint!("{}", render(&diagnostics, path, Paint::stderr()));
            Err(Stop::said(Exit::Failed))
        }
    }
}

fn render(diagnostics: &Diagnostics, path: &Path, paint: Paint) -> String {
    let style = if paint.is_on() {
        file::Style::Coloured
    } else {
        file::Style::Plain
    };
    diagnostics.render(&path.display().to_string(), style)
}

fn init(file: &Path, directory: &Path) -> anyhow::Result<()> {
    disk::check_free(directory, false).map_err(|_| {
        let directory = directory.display();
        let message = format!(
            "{directory} exists already; name a new directory, or change the enclave that is there with `coterie enclave \
             update`"
        );
        Stop::because(Exit::Failed, message)
    })?;
    let (text, parsed) = read(file)?;
    let enclave = Enclave::init(&text, clock::now(), &mut MachineEntropy)?;
    Directory::create(directory, &enclave)?;
    let directory = directory.display();
    output::print(&format!(
        "made enclave {} in {directory}: {}, {}, {} passed\n\
         root {}\n\
         The directory holds the keys of the enclave: keep it where only its administrators come, and back it up.\n\
         Next, on each machine:  coterie bundle request NAME --keys keys -o NAME.request\n\
         and here:               coterie bundle issue --directory {directory} NAME.request -o NAME.bundle",
        enclave.name(),
        count(parsed.communities.len(), "community"),
        count(parsed.members.len(), "member"),
        count(parsed.tests.len(), "test"),
        hex(&enclave.root_hash()),
    ))
}

fn check(path: &Path, format: Format) -> anyhow::Result<()> {
    let bytes = disk::read(path, file::MAX_BYTES)?;
    let result = file::parse_bytes(&bytes);
    let (diagnostics, tests) = match &result {
        Ok(parsed) => (&parsed.warnings, parsed.tests.as_slice()),
        Err(diagnostics) => (diagnostics, [].as_slice()),
    };
    match format {
        Format::Json => output::print_json(&json!({
            "file": path.display().to_string(),
            "accepted": result.is_ok(),
            "diagnostics": diagnostics,
            "omitted": diagnostics.omitted(),
            "tests": tests,
        }))?,
        Format::Text => {
            let paint = Paint::stdout();
            let mut text = render(diagnostics, path, paint);
            for test in tests {
                writeln!(text, "{}  {}", paint.green("passed"), sentence(test))?;
            }
            if let Ok(parsed) = &result {
                let (communities, members) = (parsed.communities.len(), parsed.members.len());
                writeln!(
                    text,
                    "{}: accepted: enclave {}, {}, {}, {} passed",
                    path.display(),
                    parsed.enclave.name,
                    count(communities, "community"),
                    count(members, "member"),
                    count(tests.len(), "test")
                )?;
            }
            output::print(&text)?;
        }
    }
    if result.is_ok() {
        Ok(())
    } else {
        Err(Stop::said(Exit::Failed))
    }
}

fn sentence(test: &PolicyTest) -> String {
    let verb = if test.reach { "reaches" } else { "does not reach" };
    let mut text = format!("{} {verb} {}", test.from, test.to);
    if let Some(via) = &test.via {
        text.push_str(&format!(" via {via}"));
    }
    match &test.name {
        Some(name) => format!("{name}: {text}"),
        None => text,
    }
}

fn update(file: &Path, path: &Path) -> anyhow::Result<()> {
    let (text, _) = read(file)?;
    let (directory, mut enclave) = Directory::open(path)?;
    let changes = enclave.update(&text, clock::now(), &mut MachineEntropy)?;
    directory.save(&enclave)?;
    output::print(&told(&changes, path))
}

fn told(changes: &Changes, directory: &Path) -> String {
    let groups = [
        ("new communities", &changes.added_communities),
        ("communities that are no more", &changes.removed_communities),
        ("new members, to be given bundles", &changes.added_members),
        ("members that are no more, revoked", &changes.revoked),
        ("communities with a new key", &changes.rolled),
    ];
    let mut text = String::new();
    for (what, names) in groups {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(Name::as_str).collect();
            text.push_str(&format!("{what}: {}\n", names.join(", ")));
        }
    }
    if text.is_empty() {
        text.push_str("no community or member came or went; settings of the file are taken\n");
    }
    text.push_str(&reissue(directory));
    text
}

/// What has to follow when bundles are out of date.
fn reissue(directory: &Path) -> String {
    format!(
        "Members learn of it with their next bundles:  coterie bundle issue --directory {} --all -o NEW-DIRECTORY",
        directory.display()
    )
}

fn show(path: &Path, format: Format) -> anyhow::Result<()> {
    let (_directory, enclave) = Directory::open(path)?;
    let now = clock::now();
    match format {
        Format::Json => output::print_json(&described(&enclave)),
        Format::Text => output::print(&drawn(&enclave, now)),
    }
}

fn described(enclave: &Enclave) -> serde_json::Value {
    let file = enclave.file();
    let communities = file.communities.iter().map(|(name, community)| {
        let epochs = enclave.manifests(name).map(|manifest| {
            json!({
                "epoch": manifest.epoch,
                "activates": manifest.activates.0,
                "retires": manifest.retires.0,
            })
        });
        let holders = file
            .members
            .values()
            .filter(|member| member.communities.contains(name))
            .count();
        json!({
            "name": name,
            "priority": community.priority,
            "holders": holders,
            "epochs": epochs.collect::<Vec<_>>(),
        })
    });
    let enrolled: std::collections::BTreeMap<_, _> = enclave.enrolled().collect();
    let members = file.members.iter().map(|(name, member)| {
        let enrolment = enrolled.get(name);
        json!({
            "name": name,
            "template": member.template,
            "communities": member.communities,
            "addresses": member.addresses,
            "endpoints": member.endpoints,
            "enrolled": enrolment.is_some(),
            "member": enrolment.map(|e| e.member.to_string()),
            "bundle": enrolment.map(|e| e.serial),
            "not_after": enrolment.map(|e| e.not_after.0),
        })
    });
    json!({
        "name": enclave.name(),
        "id": enclave.id().to_string(),
        "root": hex(&enclave.root_hash()),
        "lease": file.enclave.lease.as_secs(),
        "port": file.enclave.port,
        "pools": file.enclave.pools,
        "communities": communities.collect::<Vec<_>>(),
        "members": members.collect::<Vec<_>>(),
        "revision": enclave.revocations().map_or(0, |list| list.revision),
        "revoked": enclave.revocations().map_or(0, |list| list.entries.len()),
        "due": enclave.due(clock::now()),
    })
}

fn drawn(enclave: &Enclave, now: coterie_model::UnixTime) -> String {
    let paint = Paint::stdout();
    let file = enclave.file();
    let mut communities = Table::new(&["COMMUNITY", "PRIORITY", "HOLDERS", "EPOCH", "STATE"]);
    for (name, community) in &file.communities {
        let holders = file
            .members
            .values()
            .filter(|member| member.communities.contains(name))
            .count();
        for manifest in enclave.manifests(name) {
            let state = if manifest.activates > now {
                format!("activates {}", clock::relative(manifest.activates, now))
            } else {
                format!("since {}", clock::date(manifest.activates))
            };
            communities.row([
                name.as_str().into(),
                community.priority.to_string().into(),
                holders.to_string().into(),
                manifest.epoch.to_string().into(),
                state.into(),
            ]);
        }
    }
    let mut members = Table::new(&["MEMBER", "TEMPLATE", "BUNDLE", "ENDS", "ADDRESSES", "COMMUNITIES"]);
    let enrolled: std::collections::BTreeMap<_, _> = enclave.enrolled().collect();
    for (name, member) in &file.members {
        let enrolment = enrolled.get(name);
        let joined = |parts: Vec<String>| parts.join(", ");
        members.row([
            name.as_str().into(),
            member.template.as_str().into(),
            enrolment
                .map_or_else(|| "none".to_owned(), |e| e.serial.to_string())
                .into(),
            enrolment
                .map_or(String::new(), |e| clock::relative(e.not_after, now))
                .into(),
            joined(member.addresses.iter().map(ToString::to_string).collect()).into(),
            joined(member.communities.iter().map(ToString::to_string).collect()).into(),
        ]);
    }
    let revoked = enclave.revocations().map_or(0, |list| list.entries.len());
    let mut text = format!(
        "{}  id {}\nroot {}\nlease {}, UDP port {}, {} revoked\n\n{}\n{}",
        paint.bold(enclave.name().as_str()),
        enclave.id(),
        hex(&enclave.root_hash()),
        clock::span(file.enclave.lease),
        file.enclave.port,
        count(revoked, "key"),
        communities.render(paint),
        members.render(paint),
    );
    let due = enclave.due(now);
    if !due.is_empty() {
        let names: Vec<&str> = due.iter().map(Name::as_str).collect();
        text.push_str(&format!(
            "\nkeys older than the enclave file wants: {}; `coterie enclave roll`\n",
            names.join(", ")
        ));
    }
    text
}

fn roll(community: &Name, path: &Path, kind: Roll) -> anyhow::Result<()> {
    let (directory, mut enclave) = Directory::open(path)?;
    let now = clock::now();
    let rolled = enclave.roll(community, kind, now, &mut MachineEntropy)?;
    directory.save(&enclave)?;
    if !rolled.changed {
        return output::print(&format!(
            "{community}: nobody was given the key of epoch {} yet, so it stays",
            rolled.epoch
        ));
    }
    output::print(&format!(
        "{community}: epoch {} activates {} ({})\n{}",
        rolled.epoch,
        clock::date(rolled.activates),
        clock::relative(rolled.activates, now),
        reissue(path)
    ))
}

fn revoke(member: &Name, path: &Path) -> anyhow::Result<()> {
    let (directory, mut enclave) = Directory::open(path)?;
    let now = clock::now();
    let held = enclave.revoke(member, now)?;
    for community in &held {
        enclave.roll(community, Roll::Removal, now, &mut MachineEntropy)?;
    }
    directory.save(&enclave)?;
    let names: Vec<&str> = held.iter().map(Name::as_str).collect();
    output::print(&format!(
        "{member}: its keys are refused; new keys for {}\n{}\n\
         The enclave file still has the member: it may enrol again with new keys. Remove it there to end that.",
        names.join(", "),
        reissue(path)
    ))
}
