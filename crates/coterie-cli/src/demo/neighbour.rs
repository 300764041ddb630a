//! The neighbour: what he sees, and what comes back when he sends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use coterie_lab::programs::{Fetch, Ping};
use coterie_lab::{Frame, Kind, Mutation, Network};

use super::{
    report::Report,
    sight,
    world::{Machine, PORT, World},
};
use coterie_api::v1::DEFAULT_PORT as SERVER_PORT;

/// Random datagrams that he sends.
const RANDOM: u64 = 100_000;
/// Replayed and mutated handshakes that he sends.
const REPLAYS: u64 = 10_000;
/// First bytes of a handshake's messages: initiation, response, cookie (WIRE section 3).
const HANDSHAKE: std::ops::RangeInclusive<u8> = 1..=3;
/// Ports that he tries: of what runs on the machines, and the usual ones.
const PORTS: [u16; 10] = [22, 80, 443, PORT, 5201, 5432, 8080, 2222, 1, 65535];

pub(super) fn check(world: &World, report: &mut Report) {
    report.section("The neighbour sees and gets nothing");
    report.check("clear text from locked machines", || clear_text(world));
    report.check("kinds of frames from locked machines", || kinds(world));
    report.check("connections to the machines' ports", || scan(world));
    report.check("replayed and mutated handshakes", || replays(world));
    report.check("random datagrams", || random(world));
    report.check("after all that", || still_works(world));
    report.check("frames of the whole run", || canaries(world));
}

/// Programs on locked machines try to speak in the clear.
fn clear_text(world: &World) -> anyhow::Result<String> {
    let since = sight::now()?;
    let (from, to) = (world.machine("web-1")?, world.machine("app-1")?);
    let targets = [
        to.host.ipv4(),
        to.host.ipv6(),
        world.neighbour.host().ipv4(),
        world.neighbour.host().ipv6(),
    ];
    let mut tried = 0_u32;
    for address in targets.into_iter().flatten() {
        let url = match address {
            IpAddr::V4(address) => format!("http://{address}:8080/page"),
            IpAddr::V6(address) => format!("http://[{address}]:8080/page"),
        };
        let fetched = Fetch::new(url)
            .timeout(Duration::from_secs(1))
            .header(&world.canary)
            .from(&from.host)?;
        ensure!(!fetched.is_success(), "curl reached {address} in the clear");
        let pinged = Ping::new(address)
            .timeout(Duration::from_millis(300))
            .canary(world.canary.as_bytes());
        ensure!(
            !pinged.from(&from.host)?.is_success(),
            "ping reached {address} in the clear"
        );
        tried += 2;
    }
    // To the server alone coteried's own TCP goes out, and nobody else's.
    let server = world.site.address()?;
    let connected = from
        .host
        .within(|| TcpStream::connect_timeout(&server, Duration::from_millis(300)).is_ok())?;
    ensure!(!connected, "a program on web-1 reached the server in the clear");
    let left = world.neighbour.capture().frames();
    let left = left
        .iter()
        .filter(|frame| frame.time >= since)
        .filter_map(|frame| frame.parse());
    let left = left
        .filter(|frame| frame.source == from.host.mac() && !is_allowed(frame.kind()))
        .count();
    ensure!(left == 0, "{left} frames left web-1 in the clear");
    Ok(format!(
        "{tried} attempts by curl and ping on web-1, as root, and one to the server's port; 0 frames left it"
    ))
}

/// Not one canary in all that passed.
fn canaries(world: &World) -> anyhow::Result<String> {
    let capture = world.neighbour.capture();
    let (frames, bytes) = capture.totals();
    let sightings = capture.sightings(&world.canary);
    ensure!(
        sightings == 0,
        "the canary was seen {sightings} times in {frames} frames"
    );
    ensure!(frames > 1000, "only {frames} frames were seen at all");
    let lost = capture.lost();
    ensure!(
        lost == 0,
        "{lost} frames passed too fast for the capture, so that nothing can be said about them"
    );
    Ok(format!(
        "{frames} frames, {} captured, 0 bytes of the canary that every flow carried",
        crate::output::bytes(bytes)
    ))
}

fn kinds(world: &World) -> anyhow::Result<String> {
    let capture = world.neighbour.capture().kinds();
    let (mut sealed, mut followed, mut discovery) = (0, 0, 0);
    let mut others: BTreeMap<String, u64> = BTreeMap::new();
    for ((source, kind), (frames, _)) in &capture {
        let Some(machine) = world.machines.iter().find(|machine| machine.host.mac() == *source) else {
            continue;
        };
        let before = world.locked.get(&(*source, *kind)).map_or(0, |(frames, _)| *frames);
        let since = frames - before;
        if kind.is_udp_to(PORT) {
            sealed += since;
        } else if is_to_server(*kind) {
            followed += since;
        } else if kind.is_discovery() {
            discovery += since;
        } else if since > 0 {
            *others.entry(format!("{kind} from {}", machine.name())).or_default() += since;
        }
    }
    ensure!(others.is_empty(), "also {others:?}");
    ensure!(sealed > 0, "nothing was sealed");
    ensure!(followed > 0, "nobody followed the server");
    Ok(format!(
        "{sealed} of Coterie's UDP, {followed} of TLS to the server, {discovery} of ARP and neighbour discovery, 0 others"
    ))
}

fn is_allowed(kind: Kind) -> bool {
    kind.is_udp_to(PORT) || is_to_server(kind) || kind.is_discovery()
}

/// TCP to the port of the server, which the lab has on one machine alone.
fn is_to_server(kind: Kind) -> bool {
    const TCP: u8 = 6;
    kind.protocol == Some(TCP) && kind.detail == Some(SERVER_PORT)
}

fn scan(world: &World) -> anyhow::Result<String> {
    let quiet = Quiet::begin(world)?;
    let mut sent = 0;
    for machine in &world.machines {
        for address in machine.host.addresses() {
            sent += world.neighbour.probe(address, PORTS, 7)?.sent;
        }
    }
    quiet.end(&format!(
        "{sent} connection requests to {} ports of each address",
        PORTS.len()
    ))
}

fn random(world: &World) -> anyhow::Result<String> {
    let quiet = Quiet::begin(world)?;
    let targets = endpoints(world);
    let each = RANDOM.div_ceil(u64::try_from(targets.len())?);
    let (mut sent, mut took) = (0, Duration::ZERO);
    for (seed, target) in (1..).zip(&targets) {
        let spent = world.neighbour.send_random(*target, each, 0..=1400, seed)?;
        sent += spent.sent;
        took += spent.took;
    }
    ensure!(sent >= RANDOM, "only {sent} could be sent");
    let outcome = quiet.end(&format!(
        "{sent} to {} endpoints in {:.1} s",
        targets.len(),
        took.as_secs_f64()
    ))?;
    Ok(format!("{outcome}; {} judged and dropped", quiet.judged(sent / 10)?))
}

fn replays(world: &World) -> anyhow::Result<String> {
    let quiet = Quiet::begin(world)?;
    let mutations = [Mutation::None, Mutation::Bits, Mutation::Length, Mutation::Source];
    let each = REPLAYS.div_ceil(u64::try_from(mutations.len())?);
    let since = sight::now()?;
    let (mut sent, mut took) = (0, Duration::ZERO);
    for (seed, mutation) in (1..).zip(mutations) {
        let spent = world.neighbour.replay(is_handshake, mutation, each, seed)?;
        sent += spent.sent;
        took += spent.took;
    }
    ensure!(sent >= REPLAYS, "only {sent} could be sent");
    let outcome = quiet.end(&format!("{sent} in {:.1} s", took.as_secs_f64()))?;
    // Answers to replays would go to whom the replayed frames name as their sender. The machines' own handshakes go on meanwhile.
    let answers = answers(world);
    ensure!(
        answers.asked > 0,
        "not one response was seen in the whole run, so that this shows nothing"
    );
    let unasked = answers.unasked.iter().filter(|time| **time >= since).count();
    ensure!(unasked == 0, "{unasked} responses went out that no machine asked for");
    Ok(format!(
        "{outcome}, no response but to what the machines asked; {} judged and dropped",
        quiet.judged(sent / 2)?
    ))
}

/// The machines' responses and cookies in the whole run.
#[derive(Default)]
struct Answers {
    /// How many name an initiation that a machine itself has sent, and that had no response yet.
    asked: usize,
    /// When the others passed.
    unasked: Vec<Duration>,
}

fn answers(world: &World) -> Answers {
    let (mut answers, mut open) = (Answers::default(), BTreeSet::new());
    let frames = world.neighbour.capture().frames();
    for captured in frames.iter().filter(|frame| !frame.outgoing) {
        let Some(frame) = captured.parse().filter(is_handshake) else {
            continue;
        };
        let index = |at: usize| frame.payload.get(at..at + 4).map(<[u8]>::to_vec);
        // WIRE sections 3.1, 3.4 and 3.5: an initiation names its sender's index, what answers it names that index as its receiver's.
        let is_asked = match frame.payload.first() {
            Some(1) => {
                open.insert(index(4));
                continue;
            }
            Some(2) => open.remove(&index(8)),
            _ => open.contains(&index(4)),
        };
        match is_asked {
            true => answers.asked += 1,
            false => answers.unasked.push(captured.time),
        }
    }
    answers
}

fn is_handshake(frame: &Frame<'_>) -> bool {
    let is_ours = matches!(
        frame.network,
        Network::Ip {
            ports: Some((_, PORT)),
            ..
        }
    );
    is_ours && frame.payload.first().is_some_and(|first| HANDSHAKE.contains(first))
}

/// The machines have better things to do than to mind him.
fn still_works(world: &World) -> anyhow::Result<String> {
    let (mut sent, mut answered) = (0, 0);
    for (from, to) in [
        ("web-1", "app-1"),
        ("web-2", "app-3"),
        ("app-2", "db-1"),
        ("app-3", "db-2"),
    ] {
        let (from, to) = (world.machine(from)?, world.machine(to)?);
        for address in to.inside {
            let pinged = Ping::new(address)
                .count(3)
                .canary(world.canary.as_bytes())
                .from(&from.host)?;
            ensure!(
                pinged.received > 0,
                "{} no longer reaches {address}; {}",
                from.name(),
                condition(&[from, to])
            );
            sent += pinged.sent;
            answered += pinged.received;
        }
    }
    Ok(format!("traffic flows as before, {answered} of {sent} pings answered"))
}

/// How machines are, for whoever has to find out what went wrong.
fn condition(machines: &[&Machine]) -> String {
    let one = |machine: &&Machine| match machine.status() {
        Ok(status) => format!("{}: {:?}", machine.name(), status.counters.drops),
        Err(error) => format!("{}: {error:#}", machine.name()),
    };
    machines.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn endpoints(world: &World) -> Vec<SocketAddr> {
    let addresses = |machine: &Machine| machine.host.addresses();
    world
        .machines
        .iter()
        .flat_map(addresses)
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

/// What has come back to the neighbour until now, and what the machines had dropped.
struct Quiet<'w> {
    world: &'w World,
    frames: u64,
    bytes: u64,
    dropped: u64,
}

impl<'w> Quiet<'w> {
    fn begin(world: &'w World) -> anyhow::Result<Self> {
        let answers = world.neighbour.answers();
        let (frames, bytes) = (answers.frames, answers.bytes);
        Ok(Self {
            world,
            frames,
            bytes,
            dropped: dropped(world)?,
        })
    }

    /// Checks that nothing more has come back.
    fn end(&self, what: &str) -> anyhow::Result<String> {
        let answers = self.world.neighbour.answers();
        let (frames, bytes) = (answers.frames - self.frames, answers.bytes - self.bytes);
        ensure!(frames == 0, "{what}: {frames} frames, {bytes} bytes came back");
        Ok(format!("{what}, 0 bytes back"))
    }

    /// How many of what was sent the machines have judged and dropped: at least `least`, or the check showed nothing.
    fn judged(&self, least: u64) -> anyhow::Result<u64> {
        let judged = dropped(self.world)? - self.dropped;
        ensure!(judged >= least, "the machines judged only {judged}");
        Ok(judged)
    }
}

fn dropped(world: &World) -> anyhow::Result<u64> {
    let of = |machine: &Machine| Ok(machine.status()?.counters.drops.values().sum::<u64>());
    world.machines.iter().map(of).sum()
}
