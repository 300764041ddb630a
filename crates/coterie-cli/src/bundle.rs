//! `coterie bundle`: requests, bundles, and what is in them.

mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use coterie_control::{
    bundle::{self, Bundle, Keys, Opened, Request},
    issue::{Admission, Enclave},
};
use coterie_model::Name;

use crate::{
    clock,
    directory::Directory,
    disk::{self, Access},
    entropy::MachineEntropy,
    exit::{Exit, Stop},
    output::{self, Format},
};

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// On a machine: make its private keys, which stay here, and a request to be carried to the issuer
    Request {
        /// The member's name in the enclave file
        #[arg(value_parser = Name::new)]
        name: Name,
        /// Where the private keys go, for their owner alone
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// Where the request goes
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Replace files that exist
        #[arg(long)]
        force: bool,
    },
    /// At the issuer: enrol the machine that made a request, or renew what was issued
    Issue(IssueArguments),
    /// Show what is in a bundle
    Show {
        /// The bundle
        file: PathBuf,
        /// Open it with the keys of its machine
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// Print the member's secrets too, as JSON, for other implementations of the protocol
        #[arg(long, requires = "keys")]
        secrets: bool,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Check everything about a bundle as its machine would
    Verify {
        /// The bundle
        file: PathBuf,
        /// The keys of its machine
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// The root that the enclave must have, as `coterie enclave show` prints it
        #[arg(long, value_name = "HASH", value_parser = root_hash)]
        root: Option<[u8; 32]>,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true))]
pub(crate) struct IssueArguments {
    /// The request, as the machine made it
    #[arg(group = "whom")]
    request: Option<PathBuf>,
    /// The enclave directory
    #[arg(long, short, value_name = "DIR")]
    directory: PathBuf,
    /// Make keys and request here, in one step; the keys then have to be carried to the machine in secret
    #[arg(long, value_name = "NAME", value_parser = Name::new, group = "whom", requires = "keys")]
    new: Option<Name>,
    /// Where the private keys of --new go
    #[arg(long, value_name = "FILE", requires = "new")]
    keys: Option<PathBuf>,
    /// Renew the bundle of a member that is enrolled
    #[arg(long, value_name = "NAME", value_parser = Name::new, group = "whom")]
    member: Option<Name>,
    /// Renew the bundles of all members that are enrolled, into the directory --output
    #[arg(long, group = "whom")]
    all: bool,
    /// What the machine said is the fingerprint of its request; refuse another one
    #[arg(long, value_name = "TEXT", requires = "request")]
    fingerprint: Option<String>,
    /// Where the bundle goes; with --all a directory, for files NAME.bundle
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(command: BundleCommand) -> anyhow::Result<()> {
    match command {
        BundleCommand::Request {
            name,
            keys,
            output,
            force,
        } => request(name, &keys, &output, force),
        BundleCommand::Issue(arguments) => issue(&arguments),
        BundleCommand::Show {
            file,
            keys,
            secrets,
            output,
        } => show::run(&file, keys.as_deref(), secrets, output),
        BundleCommand::Verify { file, keys, root } => verify(&file, &keys, root),
    }
}

/// Reads a bundle file and checks its form.
pub(crate) fn read_bundle(path: &Path) -> anyhow::Result<Bundle> {
    Bundle::parse(&disk::read(path, bundle::MAX_BYTES)?)
        .with_context(|| format!("cannot use bundle {}", path.display()))
}

/// Reads a keys file.
pub(crate) fn read_keys(path: &Path) -> anyhow::Result<Keys> {
    Keys::parse(&disk::read_secret(path, bundle::MAX_BYTES)?)
        .with_context(|| format!("cannot use keys {}", path.display()))
}

/// Reads a bundle and opens it with keys of its machine.
pub(crate) fn open(path: &Path, keys: &Keys, root: Option<[u8; 32]>) -> anyhow::Result<Opened> {
    let opened = read_bundle(path)?.open(keys, root, clock::now(), 0);
    opened.with_context(|| format!("cannot use bundle {}", path.display()))
}

fn request(name: Name, keys_path: &Path, output: &Path, force: bool) -> anyhow::Result<()> {
    disk::check_free(keys_path, force)?;
    disk::check_free(output, force)?;
    let keys = Keys::generate(name, &mut MachineEntropy);
    let request = Request::new(&keys)?;
    disk::write(keys_path, keys.to_text().as_bytes(), Access::Owner, force)?;
    disk::write(output, request.to_text().as_bytes(), Access::All, force)?;
    output::print(&format!(
        "made keys {} and request {} for member {}\n\
         fingerprint {}\n\
         Carry the request to the issuer, who runs `coterie bundle issue` and compares the fingerprint. The keys stay here.",
        keys_path.display(),
        output.display(),
        keys.name(),
        request.fingerprint()
    ))
}

fn issue(arguments: &IssueArguments) -> anyhow::Result<()> {
    if arguments.all {
        return issue_all(arguments);
    }
    let (output, force) = (&arguments.output, arguments.force);
    disk::check_free(output, force)?;
    let new_keys = match (&arguments.new, &arguments.keys) {
        (Some(name), Some(path)) => {
            disk::check_free(path, force)?;
            Some((path, Keys::generate(name.clone(), &mut MachineEntropy)))
        }
        (_, _) => None,
    };
    let request = match (&arguments.request, &new_keys) {
        (Some(path), _) => Some(read_request(path, arguments.fingerprint.as_deref())?),
        (None, Some((_, keys))) => Some(Request::new(keys)?),
        (None, None) => None,
    };
    let (directory, mut enclave) = Directory::open(&arguments.directory)?;
    let now = clock::now();
    let admission = request
        .as_ref()
        .map(|request| enclave.admit(request, now, &mut MachineEntropy))
        .transpose()?;
    let name = request.as_ref().map(Request::name).or(arguments.member.as_ref());
    let name = name.context("a request, --new, --member or --all is needed")?;
    let text = enclave.issue(name, now, &mut MachineEntropy)?;
    // What was promised is written before it leaves the house: a serial must never be used twice.
    if let Some((path, keys)) = &new_keys {
        disk::write(path, keys.to_text().as_bytes(), Access::Owner, force)?;
    }
    directory.save(&enclave)?;
    disk::write(output, text.as_bytes(), Access::All, force)?;
    output::print(&issued(&enclave, name, output, request.as_ref(), admission))
}

/// Reads a request, and compares its fingerprint with what the machine said.
pub(crate) fn read_request(path: &Path, fingerprint: Option<&str>) -> anyhow::Result<Request> {
    let request = Request::parse(&disk::read(path, bundle::MAX_BYTES)?)
        .with_context(|| format!("cannot use request {}", path.display()))?;
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_hexdigit)
            .collect::<String>()
            .to_lowercase()
    };
    if let Some(expected) = fingerprint.filter(|expected| digits(expected) != digits(&request.fingerprint())) {
        bail!(
            "the fingerprint of {} is {}, not {expected}; another machine made this request, or it was changed on its way",
            path.display(),
            request.fingerprint()
        );
    }
    Ok(request)
}

fn issued(
    enclave: &Enclave,
    name: &Name,
    output: &Path,
    request: Option<&Request>,
    admission: Option<Admission>,
) -> String {
    let enrolment = enclave
        .enrolled()
        .find(|(known, _)| *known == name)
        .map(|(_, enrolment)| enrolment);
    let mut text = format!(
        "issued bundle {} for member {name} of enclave {}",
        output.display(),
        enclave.name()
    );
    if let Some(enrolment) = enrolment {
        let ends = clock::relative(enrolment.not_after, clock::now());
        text.push_str(&format!(", serial {}, ends {ends}", enrolment.serial));
    }
    if let Some(request) = request {
        text.push_str(&format!("\nfingerprint of the request {}", request.fingerprint()));
    }
    match admission {
        Some(Admission::Replaced) => text.push_str(
            "\nThe member had other keys, which are refused from now on. If the old machine is not trusted any more, roll \
             the communities that it held: coterie enclave roll COMMUNITY --removal",
        ),
        Some(Admission::New) => text.push_str(
            "\nThe member is new: others start sessions with it at once, and know its keys from their next bundles.",
        ),
        Some(Admission::Known) | None => {}
    }
    text
}

fn issue_all(arguments: &IssueArguments) -> anyhow::Result<()> {
    let (directory, mut enclave) = Directory::open(&arguments.directory)?;
    let names: Vec<Name> = enclave.enrolled().map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return Err(Stop::because(
            Exit::Failed,
            "nobody is enrolled yet; issue a first bundle from each machine's request",
        ));
    }
    let path = |name: &Name| arguments.output.join(format!("{name}.bundle"));
    names
        .iter()
        .try_for_each(|name| disk::check_free(&path(name), arguments.force))?;
    let now = clock::now();
    let bundles = names
        .iter()
        .map(|name| Ok((name, enclave.issue(name, now, &mut MachineEntropy)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    std::fs::create_dir_all(&arguments.output)
        .with_context(|| format!("cannot create {}", arguments.output.display()))?;
    directory.save(&enclave)?;
    for (name, text) in &bundles {
        disk::write(&path(name), text.as_bytes(), Access::All, arguments.force)?;
    }
    output::print(&format!(
        "issued {} into {}",
        output::count(bundles.len(), "bundle"),
        arguments.output.display()
    ))
}

fn verify(path: &Path, keys: &Path, root: Option<[u8; 32]>) -> anyhow::Result<()> {
    let keys = read_keys(keys)?;
    let opened = open(path, &keys, root)?;
    let now = clock::now();
    let trusted = if root.is_some() {
        ""
    } else {
        " (the bundle's own: compare it)"
    };
    output::print(&format!(
        "{}: good: member {} of enclave {}, serial {}, ends {} ({})\nroot {}{trusted}",
        path.display(),
        opened.name,
        opened.authority.name,
        opened.serial,
        clock::date(opened.not_after),
        clock::relative(opened.not_after, now),
        output::hex(&bundle::root_hash(&opened.root)),
    ))
}

fn root_hash(text: &str) -> Result<[u8; 32], String> {
    let fault =
        || format!("`{text}` is no root hash; it has 64 hexadecimal digits, as `coterie enclave show` prints it");
    let digits: Vec<char> = text.chars().collect();
    if digits.len() != 64 {
        return Err(fault());
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        let pair: String = pair.iter().collect();
        *byte = u8::from_str_radix(&pair, 16).map_err(|_| fault())?;
    }
    Ok(hash)
}
