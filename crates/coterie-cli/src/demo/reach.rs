//! Who reaches whom: with programs that others wrote, on one server and across, by IPv4 and by IPv6.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use coterie_api::{Answer, CallError, Request};
use coterie_lab::programs::{Fetch, HttpServer, IperfServer, Ping, SshServer, Transfer};

use super::{
    report::Report,
    sight,
    world::{Machine, World},
};
use crate::clock::milliseconds;

const HTTP_PORT: u16 = 8080;
const SSH_PORT: u16 = 2222;
const IPERF_PORT: u16 = 5201;
/// Bytes of canaries that iperf3 sends.
const BULK: usize = 16 << 20;

/// Members of a common community.
const FRIENDS: [(&str, &str); 8] = [
    ("web-1", "web-2"),
    ("web-2", "web-1"),
    ("web-1", "app-1"),
    ("web-1", "app-3"),
    ("web-2", "app-2"),
    ("app-1", "db-1"),
    ("app-2", "db-1"),
    ("app-3", "db-2"),
];

/// Members without one.
const STRANGERS: [(&str, &str); 3] = [("web-1", "db-1"), ("web-2", "db-1"), ("db-2", "web-1")];

pub(super) fn check(world: &World, report: &mut Report) {
    report.section("Members of a common community reach one another");
    let servers = serve(world);
    for (from, to) in FRIENDS {
        let Ok((from, to)) = world.machine(from).and_then(|from| Ok((from, world.machine(to)?))) else {
            continue;
        };
        let place = if from.server == to.server {
            "one server"
        } else {
            "across servers"
        };
        report.check(format!("{} → {} ({place})", from.name(), to.name()), || {
            if let Err(error) = &servers {
                return Err(anyhow::anyhow!("no web server: {error:#}"));
            }
            fetch_and_ping(world, from, to)
        });
    }
    bulk(world, report);
    shell(world, report);

    report.section("Without a common community there is silence, and the sender is told");
    for (from, to) in STRANGERS {
        let Ok((from, to)) = world.machine(from).and_then(|from| Ok((from, world.machine(to)?))) else {
            continue;
        };
        report.check(format!("{} ⇸ {}", from.name(), to.name()), || {
            silence(world, from, to)
        });
    }
}

/// A web server on every machine, whose page is a canary.
fn serve(world: &World) -> anyhow::Result<Vec<HttpServer>> {
    let page = format!("{}\n", world.canary);
    let start = |machine: &Machine| {
        Ok(HttpServer::start(
            &machine.host,
            HTTP_PORT,
            &[("page", page.as_bytes())],
        )?)
    };
    world.machines.iter().map(start).collect()
}

fn url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("http://{address}:{HTTP_PORT}/page"),
        IpAddr::V6(address) => format!("http://[{address}]:{HTTP_PORT}/page"),
    }
}

fn fetch_and_ping(world: &World, from: &Machine, to: &Machine) -> anyhow::Result<String> {
    let (mut fetches, mut pings) = (Vec::new(), Vec::new());
    for address in to.inside {
        let fetched = Fetch::new(url(address))
            .header(format!("X-Canary: {}", world.canary))
            .from(&from.host)?;
        ensure!(
            fetched.is_success(),
            "curl {} got {:?}: {}",
            url(address),
            fetched.status,
            fetched.said
        );
        ensure!(
            fetched.body.trim() == world.canary,
            "curl {} got another page",
            url(address)
        );
        fetches.push(milliseconds(fetched.took.as_secs_f64() * 1e3));
        let pinged = Ping::new(address)
            .count(5)
            .interval(sight::INTERVAL)
            .canary(world.canary.as_bytes())
            .from(&from.host)?;
        ensure!(
            pinged.is_success(),
            "ping {address}: {} of {} answered",
            pinged.received,
            pinged.sent
        );
        let [_, mean, _] = pinged.times.context("ping measured no times")?;
        pings.push(milliseconds(mean.as_secs_f64() * 1e3));
    }
    Ok(format!(
        "curl 200 in {}, ping {} (IPv4, IPv6)",
        fetches.join(" and "),
        pings.join(" and ")
    ))
}

/// Streams by iperf3.
fn bulk(world: &World, report: &mut Report) {
    for (from, to, family) in [("web-1", "app-1", 0), ("app-2", "db-1", 1)] {
        let name = ["IPv4", "IPv6"][family];
        report.check(format!("{from} → {to}, iperf3 over {name}"), || {
            let (from, to) = (world.machine(from)?, world.machine(to)?);
            let server = IperfServer::start(&to.host, IPERF_PORT)?;
            let mut canaries = world.canary.repeat(BULK / world.canary.len()).into_bytes();
            canaries.truncate(BULK);
            let file = from.host.write_file("canaries", canaries)?;
            let measured =
                Transfer::tcp(Duration::from_secs(5))
                    .file(file)
                    .run(&from.host, &server, to.inside[family])?;
            server.child().kill()?;
            ensure!(measured.bits_per_second > 0.0, "nothing arrived");
            Ok(format!(
                "{:.0} Mbit/s of TCP, {} segments sent again",
                measured.bits_per_second / 1e6,
                measured.retransmits
            ))
        });
    }
}

/// A command by SSH.
fn shell(world: &World, report: &mut Report) {
    for (from, to, family) in [("web-2", "app-1", 1), ("app-1", "db-2", 0)] {
        let name = ["IPv4", "IPv6"][family];
        report.check(format!("{from} → {to}, ssh over {name}"), || {
            let (from, to) = (world.machine(from)?, world.machine(to)?);
            let server = SshServer::start(&to.host, SSH_PORT)?;
            let command = format!("echo {}; hostname", world.canary);
            let output = server
                .command(&from.host, to.inside[family], &command)?
                .run()?
                .check()?;
            server.child().kill()?;
            let expected = format!("{}\n{}", world.canary, to.name());
            ensure!(output.stdout.trim() == expected, "it said {:?}", output.stdout.trim());
            let took = milliseconds(output.took.as_secs_f64() * 1e3);
            Ok(format!("`hostname` there says {} after {took}", to.name()))
        });
    }
}

/// Nothing on the wire, and an answer to the sender at once.
fn silence(world: &World, from: &Machine, to: &Machine) -> anyhow::Result<String> {
    let since = sight::now()?;
    let mut told = Vec::new();
    for address in to.inside {
        let fetched = Fetch::new(url(address))
            .header(format!("X-Canary: {}", world.canary))
            .from(&from.host)?;
        ensure!(!fetched.is_success(), "curl {address} got the page");
        ensure!(
            !fetched.is_timeout(),
            "curl {address} was not told and waited {:?}",
            fetched.took
        );
        told.push(milliseconds(fetched.took.as_secs_f64() * 1e3));
        let pinged = Ping::new(address).canary(world.canary.as_bytes()).from(&from.host)?;
        ensure!(
            pinged.is_prohibited(),
            "ping {address} was not told that it is prohibited: {}",
            pinged.said.trim()
        );
    }
    let refused = match from.call(&Request::Ping {
        destination: to.inside[0].to_string(),
        timeout_ms: 1000,
    }) {
        Err(CallError::Refused(failure)) => failure.code,
        Ok(Answer::Pong(_)) => anyhow::bail!("coteried measured a round trip"),
        other => anyhow::bail!("coteried answered {other:?}"),
    };
    let frames = sight::between(&world.neighbour, &from.host, &to.host, since);
    let inside = sight::concerning(&world.neighbour, &from.inside, &to.inside, since);
    ensure!(
        frames + inside == 0,
        "{} frames passed between the two",
        frames + inside
    );
    Ok(format!(
        "0 frames on the wire; ping is told \"prohibited\", curl after {} (IPv4, IPv6); coteried says {refused}",
        told.join(" and ")
    ))
}
