//! `coterie status`.

use std::fmt::Write as _;
use std::time::Duration;

use coterie_api::node::{Peer, Status};
use coterie_model::UnixTime;

use super::ReadArguments;
use crate::{
    clock,
    output::{self, Format, Paint, count},
    table::{Cell, Table},
};

pub(crate) fn run(arguments: &ReadArguments) -> anyhow::Result<()> {
    let status = arguments.socket.status()?;
    match arguments.output {
        Format::Json => output::print_json(&status),
        Format::Text => output::print(&drawn(&status, Paint::stdout())),
    }
}

fn drawn(status: &Status, paint: Paint) -> String {
    let mut text = own(status, paint);
    text.push('\n');
    text.push_str(&communities(status).render(paint));
    let peers = peers(status);
    if !peers.is_empty() {
        text.push('\n');
        text.push_str(&peers.render(paint));
    }
    let counters = &status.counters;
    let line = format!(
        "\nsealed {} packets ({}), delivered {} ({}); sessions: {} made, {} answered\n",
        counters.sent_packets,
        output::bytes(counters.sent_bytes),
        counters.delivered_packets,
        output::bytes(counters.delivered_bytes),
        counters.initiated,
        counters.responded
    );
    text.push_str(&line);
    if !counters.drops.is_empty() {
        let mut drops = Table::new(&["DROPPED", "PACKETS"]);
        for (reason, packets) in &counters.drops {
            drops.row([reason.as_str().into(), packets.to_string().into()]);
        }
        text.push('\n');
        text.push_str(&drops.render(paint));
    }
    text
}

fn own(status: &Status, paint: Paint) -> String {
    let now = UnixTime(status.protocol_time);
    let ends = UnixTime(status.membership_ends);
    let up = status.peers.iter().filter(|peer| peer.state == "up").count();
    let mut text = format!(
        "{} in enclave {}, {} of {} up\n",
        paint.bold(status.name.as_str()),
        status.enclave,
        up,
        count(status.peers.len(), "peer")
    );
    let membership = match status.membership.as_str() {
        "" | "current" => format!("ends {} ({})", clock::relative(ends, now), clock::date(ends)),
        ended => ended.to_owned(),
    };
    let lockdown = match status.lockdown.as_str() {
        "in-force" => paint.green("in force"),
        "off" => paint.yellow("off"),
        missing => paint.red(&format!("NOT IN FORCE: {missing}")),
    };
    let lines = [
        (
            "addresses",
            format!("{} on {}", status.addresses.join(", "), status.interface),
        ),
        ("outside", format!("UDP port {}", status.port)),
        (
            "membership",
            if ends <= now || membership.starts_with("ended") {
                paint.red(&membership)
            } else {
                membership
            },
        ),
        ("lockdown", lockdown),
        ("identity", identity(status)),
        ("revision", format!("{} of the revocations", status.revision)),
        (
            "coteried",
            format!(
                "{}, process {}, up {}",
                status.version,
                status.pid,
                clock::span(Duration::try_from_secs_f64(status.uptime).unwrap_or_default())
            ),
        ),
    ];
    for (name, value) in lines.into_iter().chain(served(status, paint)) {
        writeln!(text, "  {name:<11}{value}").expect("a string can be written");
    }
    if status.forked {
        let warning = "this machine was forked or restored: its keys are gone; give it a new bundle";
        writeln!(text, "  {}", paint.red(warning)).expect("a string can be written");
    }
    text
}

/// The lines about server, door and alarms, where there is something to say.
fn served(status: &Status, paint: Paint) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let span = |seconds: f64| clock::span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    if let Some(server) = &status.server {
        let address = server.address.map(|address| address.to_string()).unwrap_or_default();
        let heard = server.heard.map(|seconds| format!(", heard {} ago", span(seconds)));
        let mut line = format!(
            "{address}, {} for {}{}, mark {}, bundle {}",
            server.state,
            span(server.since),
            heard.unwrap_or_default(),
            server.mark,
            server.serial
        );
        if let Some(trouble) = &server.trouble {
            line.push_str(": ");
            line.push_str(trouble);
        }
        let painted = match server.state.as_str() {
            "following" if server.trouble.is_none() => line,
            "away" => paint.red(&line),
            _ => paint.yellow(&line),
        };
        lines.push(("server", painted));
    }
    if let Some(door) = &status.door {
        let line = format!(
            "{} open it, {} under way",
            count(door.tokens, "token"),
            count(door.visits, "visit")
        );
        lines.push(("door", line));
    }
    if !status.alarms.is_empty() {
        let alarms: Vec<String> = status.alarms.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        lines.push(("ALARMS", paint.red(&alarms.join(", "))));
    }
    lines
}

fn identity(status: &Status) -> String {
    match status.identity.as_str() {
        "bundle" => "from the bundle".to_owned(),
        "enrolled" => "by a join token".to_owned(),
        "recovered" => "recovered from the process before".to_owned(),
        other => other.to_owned(),
    }
}

fn communities(status: &Status) -> Table {
    let now = UnixTime(status.protocol_time);
    let mut table = Table::new(&["COMMUNITY", "PRIORITY", "HOLDERS", "EPOCH", "STATEMENT ENDS"]);
    for community in &status.communities {
        let epoch = match community.epoch {
            Some(epoch) => epoch.to_string().into(),
            None => Cell::painted("none", Paint::red),
        };
        table.row([
            community.name.as_str().into(),
            community.priority.to_string().into(),
            community.holders.to_string().into(),
            epoch,
            clock::relative(UnixTime(community.not_after), now).into(),
        ]);
    }
    table
}

fn peers(status: &Status) -> Table {
    let mut table = Table::new(&[
        "PEER",
        "STATE",
        "COMMUNITY",
        "EPOCH",
        "KEYS",
        "SENT",
        "DELIVERED",
        "ENDPOINT",
        "ADDRESSES",
    ]);
    for peer in &status.peers {
        let session = peer.session.as_ref();
        let text = |value: Option<String>| Cell::from(value.unwrap_or_default());
        let packets = |packets: u64| {
            if session.is_some() {
                packets.to_string()
            } else {
                String::new()
            }
        };
        table.row([
            peer.name.as_str().into(),
            state(peer),
            text(session.map(|s| s.community.to_string())),
            text(session.map(|s| s.epoch.to_string())),
            text(session.map(|s| {
                let age = clock::span(Duration::try_from_secs_f64(s.age).unwrap_or_default());
                format!("{}, {age}", s.suite)
            })),
            packets(peer.sent).into(),
            packets(peer.delivered).into(),
            text(peer.endpoint.map(|endpoint| endpoint.to_string())),
            peer.addresses.join(", ").into(),
        ]);
    }
    table
}

fn state(peer: &Peer) -> Cell {
    let paint: fn(Paint, &str) -> String = match peer.state.as_str() {
        "up" => Paint::green,
        "connecting" => Paint::yellow,
        "revoked" => Paint::red,
        _ => Paint::dim,
    };
    Cell::painted(peer.state.as_str(), paint)
}
