//! The machine's network around the node: the inside interface with its addresses and routes, and lockdown.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, bail};
use coterie_control::bundle::Opened;
use coterie_io::{
    link::{Links, Protocol, Route, RouteKind},
    lockdown::{Allow, Lockdown, Routing, Who},
    tun::Tun,
    udp::{UdpOptions, UdpPort},
};
use ipnet::IpNet;

use crate::options::{LockdownChoice, Options};

/// The mark of the daemon's own socket: "COTE". Setting it takes a capability that ordinary programs do not have.
pub const MARK: u32 = 0x434f_5445;
/// Bytes of receive buffer: about 3 ms at 10 Gbit/s.
const RECV_BUFFER: usize = 4 * 1024 * 1024;
/// What sealing, UDP and IPv6 add to a packet: 32 + 8 + 40 bytes.
pub const OVERHEAD: u16 = 80;
/// The least MTU that IPv6 works with (RFC 8200 section 5).
const MIN_MTU: u16 = 1280;
const MAIN_TABLE: u32 = 254;

/// Makes the inside interface with the member's addresses and the enclave's routes.
///
/// # Errors
/// What could not be made, and what to do.
pub fn make_inside(options: &Options, opened: &Opened) -> anyhow::Result<(Tun, u16)> {
    let tun = Tun::create(&options.interface)
        .with_context(|| format!("cannot make the inside interface {:?}", options.interface))?;
    let mut links = Links::open().context("cannot open netlink")?;
    let mtu = opened.mtu.unwrap_or_else(|| inside_mtu(&mut links, options));
    links.set_mtu(tun.name(), u32::from(mtu))?;
    links.without_link_local(tun.name())?;
    links.set_up(tun.name())?;
    set_addresses(&mut links, tun.name(), opened)?;
    for pool in pools(opened)? {
        links.add_route(&route_to(pool, tun.name())).with_context(|| {
            format!("the enclave's addresses {pool} are in use on this machine already; choose other pools or remove that route")
        })?;
    }
    Ok((tun, mtu))
}

fn route_to(pool: IpNet, interface: &str) -> Route {
    Route {
        destination: pool,
        kind: RouteKind::Unicast,
        device: Some(interface.to_owned()),
        via: None,
        table: MAIN_TABLE,
        metric: None,
    }
}

/// Makes a live inside interface what a newer bundle says: addresses, and routes to pools that are new.
///
/// # Errors
/// What netlink reports.
pub fn adapt(interface: &str, opened: &Opened) -> anyhow::Result<()> {
    let mut links = Links::open().context("cannot open netlink")?;
    set_addresses(&mut links, interface, opened)?;
    for pool in pools(opened)? {
        match links.add_route(&route_to(pool, interface)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The file of the state directory that says which lockdown was in force last.
const LAST_LOCKDOWN: &str = "lockdown";

/// Remembers which lockdown is in force, for a start whose bundle cannot be opened.
///
/// # Errors
/// What the file system reports.
pub fn remember_lockdown(options: &Options, lockdown: Option<&Lockdown>) -> anyhow::Result<()> {
    let path = options.state.join(LAST_LOCKDOWN);
    let text = lockdown.map_or_else(String::new, |l| {
        let pools: Vec<String> = l.routing.inside.iter().map(ToString::to_string).collect();
        let servers: BTreeSet<String> = l.allow.iter().map(|allow| allow.remote.to_string()).collect();
        let servers: Vec<String> = servers.into_iter().collect();
        format!("{}\n{}\n{}\n", l.port, pools.join(" "), servers.join(" "))
    });
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The lockdown that was in force last, unless the command line says off. A file that cannot be read counts as one that
/// says on.
///
/// # Errors
/// When no outside interface can be found.
pub fn last_lockdown(options: &Options) -> anyhow::Result<Option<Lockdown>> {
    let text = match std::fs::read_to_string(options.state.join(LAST_LOCKDOWN)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(_) => "4747\n".to_owned(),
    };
    let mut lines = text.lines();
    let Some(port) = lines.next().filter(|_| options.lockdown != LockdownChoice::Off) else {
        return Ok(None);
    };
    let inside = words(lines.next());
    let servers: Vec<SocketAddr> = words(lines.next());
    make_lockdown(options, port.parse().unwrap_or(4747), inside, &servers).map(Some)
}

fn words<T: std::str::FromStr>(line: Option<&str>) -> Vec<T> {
    line.unwrap_or_default()
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Gives the interface the member's addresses and takes away those that are no longer its own.
///
/// # Errors
/// What netlink reports.
pub fn set_addresses(links: &mut Links, interface: &str, opened: &Opened) -> anyhow::Result<()> {
    let mut wanted: Vec<IpNet> = Vec::new();
    for prefix in opened.statements.iter().flat_map(|s| s.addresses.iter()) {
        if prefix.is_host() {
            wanted.push(IpNet::new(prefix.addr(), prefix.len()).context("a host prefix is a network")?);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let present = links.addresses(interface)?;
    for old in present
        .iter()
        .filter(|p| !wanted.contains(p) && !is_link_local(p.addr()))
    {
        links.del_address(interface, *old)?;
    }
    for new in wanted.iter().filter(|w| !present.contains(w)) {
        links.add_address(interface, *new)?;
    }
    Ok(())
}

/// Opens the outside port.
///
/// # Errors
/// When it is taken, or without the capability to mark its packets.
pub fn open_outside(options: &Options, opened: &Opened) -> anyhow::Result<UdpPort> {
    bind_outside(options, (IpAddr::from([0u16; 8]), opened.port).into())
}

/// Opens the outside port, at `any` where the command line says nothing.
///
/// # Errors
/// When it is taken, or without the capability to mark its packets.
pub fn bind_outside(options: &Options, any: SocketAddr) -> anyhow::Result<UdpPort> {
    let udp = UdpOptions {
        mark: Some(MARK),
        recv_buffer: RECV_BUFFER,
        dont_fragment: true,
        ..UdpOptions::default()
    };
    bind(options, any, &udp)
}

/// Opens a port with settings of its own.
///
/// # Errors
/// When it is taken.
pub fn bind(options: &Options, any: SocketAddr, udp: &UdpOptions) -> anyhow::Result<UdpPort> {
    let address = options.listen.unwrap_or(any);
    match UdpPort::bind(address, udp) {
        // A kernel without IPv6 has no [::] to listen at.
        Err(e) if options.listen.is_none() && e.kind() != std::io::ErrorKind::AddrInUse => {
            UdpPort::bind((IpAddr::from([0u8; 4]), address.port()).into(), udp)
        }
        bound => bound,
    }
    .with_context(|| format!("cannot listen at {address}; is another coteried running?"))
}

/// Where the outside port is to be.
#[must_use]
pub fn outside(options: &Options, opened: &Opened) -> SocketAddr {
    options
        .listen
        .unwrap_or_else(|| (IpAddr::from([0u16; 8]), opened.port).into())
}

/// The lockdown that template and command line ask for.
///
/// # Errors
/// When no outside interface can be found.
pub fn lockdown(options: &Options, opened: &Opened) -> anyhow::Result<Option<Lockdown>> {
    let wanted = match options.lockdown {
        LockdownChoice::On => true,
        LockdownChoice::Off => false,
        LockdownChoice::Auto => opened.template.lockdown,
    };
    if !wanted {
        return Ok(None);
    }
    make_lockdown(options, opened.port, pools(opened)?, &opened.servers).map(Some)
}

/// The lockdown of a machine that is no member yet and finds its server at `servers`: what a token's holder sends is sealed too.
/// One that was in force stays as it was otherwise.
///
/// # Errors
/// When no outside interface can be found.
pub fn lockdown_before(
    options: &Options,
    last: Option<&Lockdown>,
    servers: &[SocketAddr],
) -> anyhow::Result<Option<Lockdown>> {
    if options.lockdown == LockdownChoice::Off {
        return Ok(None);
    }
    let (port, inside) = last.map_or_else(
        || (coterie_control::file::DEFAULT_PORT, Vec::new()),
        |last| (last.port, last.routing.inside.clone()),
    );
    let known = last.into_iter().flat_map(|last| &last.allow).map(|allow| allow.remote);
    let servers: BTreeSet<SocketAddr> = servers.iter().copied().chain(known).collect();
    let servers: Vec<SocketAddr> = servers.into_iter().collect();
    make_lockdown(options, port, inside, &servers).map(Some)
}

/// Servers are let through for our own sockets, where they are not inside.
fn allowed(outside: &[String], inside: &[IpNet], servers: &[SocketAddr]) -> Vec<Allow> {
    let away = servers
        .iter()
        .filter(|server| !inside.iter().any(|net| net.contains(&server.ip())));
    away.flat_map(|server| {
        outside.iter().map(|interface| Allow {
            who: Who::Marked,
            interface: interface.clone(),
            protocol: Protocol::Tcp,
            remote: *server,
        })
    })
    .collect()
}

fn make_lockdown(options: &Options, port: u16, inside: Vec<IpNet>, servers: &[SocketAddr]) -> anyhow::Result<Lockdown> {
    let outside = if options.outside.is_empty() {
        find_outside(options)?
    } else {
        options.outside.clone()
    };
    if outside.is_empty() {
        bail!("no outside interface found to lock down; name it with --outside, or start with --lockdown off");
    }
    Ok(Lockdown {
        table_name: coterie_api::LOCKDOWN_TABLE.into(),
        allow: allowed(&outside, &inside, servers),
        outside,
        port: options.listen.map_or(port, |a| a.port()),
        mark: MARK,
        dhcp: true,
        routing: Routing {
            priority: coterie_api::LOCKDOWN_PRIORITY,
            inside_table: None,
            inside,
        },
    })
}

/// Every interface that is up, has an address and is neither loopback nor ours.
fn find_outside(options: &Options) -> anyhow::Result<Vec<String>> {
    let mut links = Links::open()?;
    let mut found = Vec::new();
    for link in links.links()? {
        let ours = link.name == options.interface || link.name == "lo";
        let is_hardware = Path::new("/sys/class/net").join(&link.name).join("device").exists();
        if !ours && (is_hardware || !links.addresses(&link.name)?.is_empty()) {
            found.push(link.name);
        }
    }
    Ok(found)
}

/// The largest inside packet that every outside interface carries sealed.
fn inside_mtu(links: &mut Links, options: &Options) -> u16 {
    let names = if options.outside.is_empty() {
        find_outside(options).unwrap_or_default()
    } else {
        options.outside.clone()
    };
    let smallest = names
        .iter()
        .filter_map(|name| links.link(name).ok())
        .map(|l| l.mtu)
        .min()
        .unwrap_or(1500);
    u16::try_from(smallest.saturating_sub(u32::from(OVERHEAD)))
        .unwrap_or(u16::MAX - OVERHEAD)
        .clamp(MIN_MTU, 8_900)
}

fn pools(opened: &Opened) -> anyhow::Result<Vec<IpNet>> {
    opened
        .pools
        .iter()
        .map(|p| IpNet::new(p.addr(), p.len()).context("a pool is a network"))
        .collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}
