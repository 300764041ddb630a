//! `coterie bundle show`.

use std::path::Path;

use coterie_control::bundle::{Bundle, Freshness, Keys, Opened};
use coterie_model::{CommunityTag, DirectoryEntry, Name, UnixTime};
use serde_json::{Value, json};

use crate::{
    clock,
    output::{self, Format, Paint, hex},
    table::Table,
};

pub(super) fn run(path: &Path, keys: Option<&Path>, secrets: bool, format: Format) -> anyhow::Result<()> {
    let Some(keys) = keys else {
        let bundle = super::read_bundle(path)?;
        return match format {
            Format::Json => output::print_json(&json!({ "claimed": claims(&bundle) })),
            Format::Text => output::print(&claimed_text(&bundle)),
        };
    };
    let keys = super::read_keys(keys)?;
    let opened = super::open(path, &keys, None)?;
    match format {
        Format::Text | Format::Json if secrets => output::print_json(&identity(&opened, &keys)),
        Format::Json => output::print_json(&content(&opened)),
        Format::Text => output::print(&content_text(&opened)),
    }
}

fn claims(bundle: &Bundle) -> Value {
    json!({
        "name": bundle.claimed_name(),
        "serial": bundle.claimed_serial(),
        "not_after": bundle.claimed_not_after().0,
        "root": hex(&bundle.claimed_root()),
    })
}

fn claimed_text(bundle: &Bundle) -> String {
    let ends = bundle.claimed_not_after();
    format!(
        "member   {}\nserial   {}\nends     {} ({})\nroot     {}\n\
         Nothing of this was checked; --keys FILE checks and opens it.",
        bundle.claimed_name(),
        bundle.claimed_serial(),
        clock::date(ends),
        clock::relative(ends, clock::now()),
        hex(&bundle.claimed_root()),
    )
}

fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Offline => "offline",
        Freshness::Heads => "heads",
    }
}

/// Addresses of the member itself: every statement has them.
fn own_addresses(opened: &Opened) -> Vec<String> {
    opened
        .statements
        .first()
        .map(|s| s.addresses.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

fn content(opened: &Opened) -> Value {
    let communities = opened.statements.iter().map(|statement| {
        let manifests = opened.manifests.iter().filter(|manifest| manifest.tag == statement.tag);
        let epochs = manifests.clone().map(|manifest| {
            let has_key = opened
                .keys
                .iter()
                .any(|key| (key.tag, key.epoch) == (manifest.tag, manifest.epoch));
            json!({
                "epoch": manifest.epoch,
                "activates": manifest.activates.0,
                "retires": manifest.retires.0,
                "key": has_key,
            })
        });
        let newest = manifests.clone().next_back();
        json!({
            "name": newest.map(|manifest| &manifest.name),
            "priority": newest.map(|manifest| manifest.priority),
            "holders": newest.map(|manifest| manifest.holders),
            "not_after": statement.not_after.0,
            "epochs": epochs.collect::<Vec<_>>(),
        })
    });
    let template = &opened.template;
    json!({
        "name": opened.name,
        "enclave": opened.authority.name,
        "member": opened.member.to_string(),
        "serial": opened.serial,
        "issued": opened.issued.0,
        "not_after": opened.not_after.0,
        "root": hex(&coterie_control::bundle::root_hash(&opened.root)),
        "addresses": own_addresses(opened),
        "pools": texts(&opened.pools),
        "port": opened.port,
        "mtu": opened.mtu,
        "freshness": freshness(opened.freshness),
        "template": {
            "name": template.name,
            "lockdown": template.lockdown,
            "forkable": template.forkable,
            "roaming": template.roaming,
            "return": template.returning,
            "exclude": template.exclude,
        },
        "communities": communities.collect::<Vec<_>>(),
        "directory": opened.directory.iter().map(|entry| peer(opened, entry)).collect::<Vec<_>>(),
        "revision": opened.revocations.as_ref().map_or(0, |list| list.revision),
        "revoked": opened.revocations.as_ref().map_or(0, |list| list.entries.len()),
    })
}

fn peer(opened: &Opened, entry: &DirectoryEntry) -> Value {
    json!({
        "name": entry.name,
        "communities": names(opened, entry),
        "addresses": texts(&entry.addresses),
        "endpoints": texts(&entry.endpoints),
        "enrolled": !entry.statements.is_empty(),
    })
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn names<'a>(opened: &'a Opened, entry: &DirectoryEntry) -> Vec<&'a Name> {
    let named = |tag: &CommunityTag| {
        opened
            .manifests
            .iter()
            .find(|manifest| manifest.tag == *tag)
            .map(|manifest| &manifest.name)
    };
    entry.communities.iter().filter_map(named).collect()
}

fn content_text(opened: &Opened) -> String {
    let (paint, now) = (Paint::stdout(), clock::now());
    let ends = |t: UnixTime| format!("{} ({})", clock::date(t), clock::relative(t, now));
    let mut communities = Table::new(&["COMMUNITY", "PRIORITY", "HOLDERS", "EPOCH", "ACTIVATES", "KEY"]);
    for manifest in &opened.manifests {
        let has_key = opened
            .keys
            .iter()
            .any(|key| (key.tag, key.epoch) == (manifest.tag, manifest.epoch));
        communities.row([
            manifest.name.as_str().into(),
            manifest.priority.to_string().into(),
            manifest.holders.to_string().into(),
            manifest.epoch.to_string().into(),
            clock::relative(manifest.activates, now).into(),
            (if has_key { "yes" } else { "no" }).into(),
        ]);
    }
    let mut directory = Table::new(&["PEER", "COMMUNITIES", "ENDPOINTS", "ADDRESSES", "ENROLLED"]);
    for entry in &opened.directory {
        let shared: Vec<&str> = names(opened, entry).into_iter().map(Name::as_str).collect();
        directory.row([
            entry.name.as_str().into(),
            shared.join(", ").into(),
            texts(&entry.endpoints).join(", ").into(),
            texts(&entry.addresses).join(", ").into(),
            (if entry.statements.is_empty() { "no" } else { "yes" }).into(),
        ]);
    }
    let template = &opened.template;
    format!(
        "{} in enclave {}\n\
         serial     {}, issued {}\n\
         ends       {}\n\
         addresses  {} in {}\n\
         outside    UDP port {}\n\
         template   {}: lockdown {}, roaming {}, forkable {}\n\
         root       {}\n\n{}\n{}",
        paint.bold(opened.name.as_str()),
        opened.authority.name,
        opened.serial,
        clock::date(opened.issued),
        ends(opened.not_after),
        own_addresses(opened).join(", "),
        texts(&opened.pools).join(", "),
        opened.port,
        template.name,
        on(template.lockdown),
        on(template.roaming),
        on(template.forkable),
        hex(&coterie_control::bundle::root_hash(&opened.root)),
        communities.render(paint),
        directory.render(paint),
    )
}

fn on(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// All that another implementation needs to be this member, secrets and all.
fn identity(opened: &Opened, keys: &Keys) -> Value {
    let signed = |bytes: &[u8]| Value::from(hex(bytes));
    let peers = opened.directory.iter().map(|entry| {
        let addresses: Vec<String> = entry.addresses.iter().map(|prefix| prefix.addr().to_string()).collect();
        json!({
            "name": entry.name,
            "static": entry.statements.first().map_or_else(String::new, |statement| hex(&statement.static_key)),
            "addresses": addresses,
            "endpoints": texts(&entry.endpoints),
            "statements": entry.statements.iter().map(|s| signed(s.bytes())).collect::<Vec<_>>(),
        })
    });
    let community_keys = opened
        .keys
        .iter()
        .map(|key| json!({ "tag": key.tag.to_string(), "epoch": key.epoch, "key": hex(key.key.expose()) }));
    json!({
        "name": opened.name,
        "static_private": hex(keys.static_key().private().expose()),
        "authority": signed(opened.authority.bytes()),
        "root_key": hex(&opened.root.0),
        "keys": community_keys.collect::<Vec<_>>(),
        "manifests": opened.manifests.iter().map(|m| signed(m.bytes())).collect::<Vec<_>>(),
        "statements": opened.statements.iter().map(|s| signed(s.bytes())).collect::<Vec<_>>(),
        "peers": peers.collect::<Vec<_>>(),
        "revocations": opened.revocations.as_ref().map_or_else(String::new, |list| hex(list.bytes())),
        "head": opened.head.as_ref().map_or_else(String::new, |head| hex(head.bytes())),
        "counter": 1,
        "port": opened.port,
    })
}
