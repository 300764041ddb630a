//! From a TOML document to values with places: every key read, nothing compared with anything else yet.

use std::{collections::BTreeMap, net::SocketAddr, ops::Range, time::Duration};

use coterie_model::Name;
use ipnet::IpNet;

use super::{
    DEFAULT_PORT,
    diagnostic::{At, Finding, Report, quoted},
    keys::{ROOT, SUITES},
    matching::Match,
    model::{Return, Suite},
    pattern::NamePattern,
    reader::{Fields, List, parsed},
    syntax::Document,
    value::{self, Fault, Selector, Target, duration_text},
};

/// A year, the longest lease and epoch.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// A lease is renewed at a third of it, and heads of the revocation list live for 60 s.
const SHORTEST: Duration = Duration::from_secs(60);
const DEFAULT_LEASE: Duration = Duration::from_secs(3_600);

/// The file, read and not yet checked.
pub(super) struct Draft {
    pub(super) enclave: DraftEnclave,
    pub(super) communities: BTreeMap<Name, DraftCommunity>,
    pub(super) templates: BTreeMap<Name, DraftTemplate>,
    pub(super) members: BTreeMap<Name, DraftMember>,
    pub(super) tests: Vec<DraftTest>,
    pub(super) whole: Whole,
}

/// Of which kinds every table could be read, so that a name that is not among them is nowhere.
pub(super) struct Whole {
    pub(super) communities: bool,
    pub(super) templates: bool,
    pub(super) members: bool,
}

pub(super) struct DraftEnclave {
    pub(super) name: Option<At<Name>>,
    pub(super) description: Option<String>,
    pub(super) pools: List<IpNet>,
    pub(super) lease: At<Duration>,
    pub(super) mtu: Option<u16>,
    pub(super) port: u16,
}

pub(super) struct DraftCommunity {
    pub(super) name: At<Name>,
    pub(super) priority: u16,
    pub(super) description: Option<String>,
    pub(super) epoch: Option<At<Duration>>,
}

pub(super) struct DraftTemplate {
    pub(super) name: At<Name>,
    pub(super) description: Option<String>,
    pub(super) communities: List<Name>,
    pub(super) exclude: List<Name>,
    pub(super) lockdown: bool,
    pub(super) returning: Return,
    pub(super) forkable: Option<At<bool>>,
    pub(super) suites: Option<At<List<Suite>>>,
    pub(super) roaming: bool,
    pub(super) door: bool,
    pub(super) matching: Option<Match>,
}

pub(super) struct DraftMember {
    pub(super) name: At<Name>,
    /// The place of its table.
    pub(super) table: Range<usize>,
    pub(super) description: Option<String>,
    pub(super) template: Option<At<Name>>,
    pub(super) addresses: Option<Vec<At<std::net::IpAddr>>>,
    pub(super) endpoints: Vec<At<SocketAddr>>,
    pub(super) communities: List<Name>,
    pub(super) exclude: List<Name>,
}

pub(super) struct DraftTest {
    pub(super) at: At<()>,
    pub(super) name: Option<String>,
    pub(super) from: Option<At<Selector>>,
    pub(super) to: Option<At<Target>>,
    pub(super) reach: Option<At<bool>>,
    pub(super) via: Option<At<Name>>,
}

/// Reads every key of a document. `None` where the document is no TOML: behind the first mistake the reader may have
/// taken one thing for another, so only what stands before it is judged, and nothing is said to be missing.
pub(super) fn read(document: Document<'_>, report: &mut Report) -> Option<Draft> {
    let Document {
        table,
        mistakes,
        broken_at,
    } = document;
    let top = At {
        value: (),
        span: 0..0,
        path: String::new(),
    };
    let Some(broken_at) = broken_at else {
        return Some(whole(&Fields::open(&ROOT, &table, top, report), report));
    };
    let mut found = Report::new();
    let fields = Fields::open(&ROOT, &table, top, &mut found);
    whole(&fields, &mut found);
    report.set_partial();
    report.extend(found, |finding| !finding.is_missing() && finding.span.end <= broken_at);
    for mistake in mistakes {
        report.push(mistake);
    }
    None
}

fn whole(root: &Fields<'_, '_>, report: &mut Report) -> Draft {
    if let Some(version) = root.integer::<u64>("version", report) {
        debug_assert_eq!(version.value, 1, "the reader lets no other version through");
    }
    let enclave = match root.table("enclave", report) {
        Some(fields) => enclave(&fields, report),
        None => DraftEnclave::absent(&root.at),
    };
    let port = enclave.port;
    let (communities, all_communities) = root.named("community", report);
    let communities = communities
        .into_iter()
        .map(|(name, fields)| (name.value.clone(), community(name, &fields, report)))
        .collect();
    let (templates, all_templates) = root.named("template", report);
    let templates = templates
        .into_iter()
        .map(|(name, fields)| (name.value.clone(), template(name, &fields, report)))
        .collect();
    let (members, all_members) = root.named("member", report);
    let members = members
        .into_iter()
        .map(|(name, fields)| (name.value.clone(), member(name, &fields, port, report)))
        .collect();
    let tests = root
        .tables("tests", report)
        .iter()
        .map(|fields| test(fields, report))
        .collect();
    // An unknown key at the top may be a table of any kind, misspelt.
    let known = root.all_known();
    let whole = Whole {
        communities: known && all_communities,
        templates: known && all_templates,
        members: known && all_members,
    };
    Draft {
        enclave,
        communities,
        templates,
        members,
        tests,
        whole,
    }
}

impl DraftEnclave {
    fn absent(at: &At<()>) -> Self {
        Self {
            name: None,
            description: None,
            pools: List {
                entries: Vec::new(),
                whole: false,
            },
            lease: at.with(DEFAULT_LEASE),
            mtu: None,
            port: DEFAULT_PORT,
        }
    }
}

fn enclave(fields: &Fields<'_, '_>, report: &mut Report) -> DraftEnclave {
    let pools = match fields.parsed_list("pools", report, value::network) {
        Some(pools) => pools.value,
        None => List {
            entries: Vec::new(),
            whole: false,
        },
    };
    DraftEnclave {
        name: fields.name("name", "enclave", report),
        description: text(fields, "description", report),
        pools,
        lease: span_of_time(fields, "lease", report).unwrap_or_else(|| fields.at.with(DEFAULT_LEASE)),
        mtu: fields.integer("mtu", report).map(|mtu| mtu.value),
        port: fields.integer("port", report).map_or(DEFAULT_PORT, |port| port.value),
    }
}

fn community(name: At<Name>, fields: &Fields<'_, '_>, report: &mut Report) -> DraftCommunity {
    const DEFAULT_PRIORITY: u16 = 100;
    DraftCommunity {
        name,
        priority: fields
            .integer("priority", report)
            .map_or(DEFAULT_PRIORITY, |priority| priority.value),
        description: text(fields, "description", report),
        epoch: span_of_time(fields, "epoch", report),
    }
}

fn template(name: At<Name>, fields: &Fields<'_, '_>, report: &mut Report) -> DraftTemplate {
    DraftTemplate {
        name,
        description: text(fields, "description", report),
        communities: fields.names("communities", "community", report),
        exclude: fields.names("exclude", "member", report),
        lockdown: fields.boolean("lockdown", report).is_none_or(|lockdown| lockdown.value),
        returning: fields
            .parsed("return", report, returning)
            .map_or(Return::None, |returning| returning.value),
        forkable: fields.boolean("forkable", report),
        suites: fields.parsed_list("suites", report, suite),
        roaming: fields.boolean("roaming", report).is_some_and(|roaming| roaming.value),
        door: fields.boolean("door", report).is_some_and(|door| door.value),
        matching: fields.table("match", report).map(|fields| matching(&fields, report)),
    }
}

fn member(name: At<Name>, fields: &Fields<'_, '_>, port: u16, report: &mut Report) -> DraftMember {
    let endpoints = fields.parsed_list("endpoints", report, |text| value::endpoint(text, port));
    DraftMember {
        name,
        table: fields.at.span.clone(),
        description: text(fields, "description", report),
        template: fields.name("template", "template", report),
        addresses: fields
            .parsed_list("addresses", report, value::address)
            .map(|addresses| addresses.value.entries),
        endpoints: endpoints.map(|endpoints| endpoints.value.entries).unwrap_or_default(),
        communities: fields.names("communities", "community", report),
        exclude: fields.names("exclude", "member", report),
    }
}

fn test(fields: &Fields<'_, '_>, report: &mut Report) -> DraftTest {
    DraftTest {
        at: fields.at.clone(),
        name: text(fields, "name", report),
        from: fields.parsed("from", report, value::selector),
        to: fields.parsed("to", report, value::target),
        reach: fields.boolean("reach", report),
        via: fields.name("via", "community", report),
    }
}

fn matching(fields: &Fields<'_, '_>, report: &mut Report) -> Match {
    let cpus = fields.number_or_text("cpus", report);
    let cpus = cpus.and_then(|text| parsed(text, report, |text| value::bounds(text, "cpus = \">=2\"", value::whole)));
    let memory = |text: &str| value::bounds(text, "memory = \">=4GiB\"", value::bytes);
    let errors = report.errors();
    let matching = Match {
        name: fields.parsed("name", report, pattern).map(|name| name.value),
        labels: labels(fields, report),
        mac: values(fields.parsed_list("mac", report, value::mac_pattern)),
        uuid: values(fields.parsed_list("uuid", report, value::uuid)),
        cpus: cpus.map(|cpus| cpus.value),
        memory: fields.parsed("memory", report, memory).map(|memory| memory.value),
    };
    if matching.is_empty() && fields.is_empty() && report.errors() == errors {
        let remedy =
            "add a selector, as name = \"web-*\", or remove the table: then no machine gets the template by itself";
        report.push(Finding::error(&fields.at, format!("`{}` selects nothing", fields.at.path), remedy).missing());
    }
    matching
}

fn labels(fields: &Fields<'_, '_>, report: &mut Report) -> BTreeMap<String, NamePattern> {
    let mut labels = BTreeMap::new();
    for (label, found) in fields.entries("labels", report).unwrap_or_default() {
        match found.value.as_str() {
            Some(text) => {
                if let Some(pattern) = parsed(found.with(text.to_owned()), report, pattern) {
                    labels.insert(label.value, pattern.value);
                }
            }
            None => {
                let message = format!("a label must be text, not {}", super::reader::described(found.value));
                let remedy = "write the value in quotes, as labels = { tier = \"web\" }";
                report.push(Finding::error(&found, message, remedy).label("expected text"));
            }
        }
    }
    labels
}

fn text(fields: &Fields<'_, '_>, name: &str, report: &mut Report) -> Option<String> {
    fields.text(name, report).map(|text| text.value)
}

fn values<T>(list: Option<At<List<T>>>) -> Vec<T> {
    list.map(|list| list.value.entries.into_iter().map(|item| item.value).collect())
        .unwrap_or_default()
}

/// A duration from a minute to a year.
fn span_of_time(fields: &Fields<'_, '_>, name: &str, report: &mut Report) -> Option<At<Duration>> {
    let found = fields.parsed(name, report, value::duration)?;
    if (SHORTEST..=LONGEST).contains(&found.value) {
        return Some(found);
    }
    let (shortest, longest) = (duration_text(SHORTEST), duration_text(LONGEST));
    let message = format!("`{name}` is out of range: {}", duration_text(found.value));
    report.push(Finding::error(
        &found,
        message,
        format!("write a duration from {shortest} to {longest}"),
    ));
    None
}

fn pattern(text: &str) -> Result<NamePattern, Fault> {
    NamePattern::new(text).map_err(|error| {
        let remedy = "write a-z, 0-9 and -, with * for any run of characters and ? for one, as \"web-*\"";
        Fault::new(format!("{} is no pattern: {error}", quoted(text)), remedy)
    })
}

fn returning(text: &str) -> Result<Return, Fault> {
    match text {
        "source" => Ok(Return::Source),
        "ticket" => Ok(Return::Ticket),
        "tpm" => Ok(Return::Tpm),
        "none" => Ok(Return::None),
        other => Err(Fault::new(
            format!("{} is no way to return", quoted(other)),
            "write \"source\", \"ticket\", \"tpm\" or \"none\"",
        )),
    }
}

fn suite(text: &str) -> Result<Suite, Fault> {
    match text {
        "aes-256-gcm" => Ok(Suite::Aes256Gcm),
        "chacha20-poly1305" => Ok(Suite::ChaCha20Poly1305),
        "aes-256-gcm-siv" => Ok(Suite::Aes256GcmSiv),
        other => {
            let words: Vec<String> = SUITES.iter().map(|suite| format!("\"{suite}\"")).collect();
            Err(Fault::new(
                format!("{} is no cipher suite", quoted(other)),
                format!("write {}", words.join(" or ")),
            ))
        }
    }
}
