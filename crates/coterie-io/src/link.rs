//! Interfaces, addresses, routes and routing rules, by netlink.
//!
//! Everything happens in the network namespace of the thread that called [`Links::open`].

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's messages and attributes are open sets, of which we read what we know and leave the rest"
)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::Netlink;

mod address;
mod route;
mod rule;

pub use route::{MAIN_TABLE, Route, RouteKind};
pub use rule::{Family, Mark, Protocol, Rule, RuleAction};

/// An interface, as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Hardware address; empty for a TUN.
    pub hardware_address: Vec<u8>,
    /// Number of the bridge that it is a port of.
    pub bridge: Option<u32>,
}

/// The interfaces of a network namespace, and what belongs to them.
#[derive(Debug)]
pub struct Links {
    netlink: Netlink,
}

impl Links {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open(None)?,
        })
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let found = self
            .netlink
            .get(RouteNetlinkMessage::GetLink(message))
            .map_err(|error| no_link(name, &error))?;
        match found {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(describe(&link)),
            Some(_) | None => Err(no_link(name, &io::Error::from_raw_os_error(libc::ENODEV))),
        }
    }

    /// The number of the interface of that name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        Ok(self.link(name)?.index)
    }

    /// Whether there is an interface of that name.
    ///
    /// # Errors
    /// What netlink reports, except that there is none.
    pub fn exists(&mut self, name: &str) -> io::Result<bool> {
        match self.link(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All interfaces, by number.
    ///
    /// # Errors
    /// What netlink reports.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let found = self
            .netlink
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let mut links: Vec<Link> = found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(describe(link)),
                _ => None,
            })
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// Switches the interface on. When it returns, the addresses that [`Links::add_address`] gave it receive, if the
    /// interface has a carrier by then.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` without `CAP_NET_ADMIN`; `TimedOut` when an address did not begin to receive.
    pub fn set_up(&mut self, name: &str) -> io::Result<()> {
        self.switch(name, LinkFlags::Up)?;
        self.await_addresses(name)
    }

    /// Switches the interface off. Its routes vanish.
    ///
    /// # Errors
    /// As [`Links::set_up`].
    pub fn set_down(&mut self, name: &str) -> io::Result<()> {
        self.switch(name, LinkFlags::empty())
    }

    fn switch(&mut self, name: &str, flags: LinkFlags) -> io::Result<()> {
        self.change(name, "switch", |message| {
            message.header.flags = flags;
            message.header.change_mask = LinkFlags::Up;
        })
    }

    /// Sets the largest packet, in bytes.
    ///
    /// # Errors
    /// As [`Links::set_up`]; `InvalidInput` for a size that the interface cannot have.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        self.change(name, "set the MTU of", |message| {
            message.attributes.push(LinkAttribute::Mtu(mtu))
        })
    }

    /// Makes the interface `port` a port of the bridge `bridge`.
    ///
    /// # Errors
    /// As [`Links::set_up`]; `Unsupported` or `InvalidInput` when they do not go together.
    pub fn set_bridge(&mut self, port: &str, bridge: &str) -> io::Result<()> {
        let bridge = self.index(bridge)?;
        self.change(port, "give a bridge to", |message| {
            message.attributes.push(LinkAttribute::Controller(bridge))
        })
    }

    /// Moves the interface into another network namespace ([`crate::netns::NetNs`]). It arrives switched off and without
    /// addresses.
    ///
    /// # Errors
    /// As [`Links::set_up`]; `AlreadyExists` when the name is taken there.
    pub fn move_to_netns(&mut self, name: &str, namespace: impl AsFd) -> io::Result<()> {
        let descriptor = namespace.as_fd().as_raw_fd();
        self.change(name, "move", |message| {
            message.attributes.push(LinkAttribute::NetNsFd(descriptor))
        })
    }

    fn change(&mut self, name: &str, verb: &str, change: impl FnOnce(&mut LinkMessage)) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        change(&mut message);
        let result = self.netlink.request(RouteNetlinkMessage::SetLink(message), 0);
        result.map_err(|error| context(&format!("cannot {verb} the interface {name:?}"), &error))
    }

    /// Makes two Ethernet interfaces joined by a cable.
    ///
    /// # Errors
    /// `AlreadyExists` when a name is taken; `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn add_veth(&mut self, name: &str, peer: &str) -> io::Result<()> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other)));
        self.add(name, vec![LinkInfo::Kind(InfoKind::Veth), data])
    }

    /// Makes an Ethernet bridge.
    ///
    /// # Errors
    /// As [`Links::add_veth`].
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        self.add(name, vec![LinkInfo::Kind(InfoKind::Bridge)])
    }

    fn add(&mut self, name: &str, kind: Vec<LinkInfo>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(kind));
        let result = self
            .netlink
            .request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL);
        result.map_err(|error| context(&format!("cannot make the interface {name:?}"), &error))
    }

    /// Removes the interface.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for one that cannot be removed; `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        let result = self.netlink.request(RouteNetlinkMessage::DelLink(message), 0);
        result.map_err(|error| context(&format!("cannot remove the interface {name:?}"), &error))
    }

    /// Keeps the kernel from giving the interface a link-local IPv6 address of its own, and so from announcing it. Call it
    /// before the interface is switched on.
    ///
    /// # Errors
    /// What writing the setting reports; nothing on a kernel without IPv6.
    pub fn without_link_local(&mut self, name: &str) -> io::Result<()> {
        if !has_ipv6() {
            return Ok(());
        }
        write_setting("ipv6", name, "addr_gen_mode", "1")
    }
}

/// Whether this kernel has IPv6 switched on.
pub(crate) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// Writes a setting of an interface, in the network namespace of the calling thread.
pub(crate) fn write_setting(family: &str, interface: &str, key: &str, value: &str) -> io::Result<()> {
    let path = setting(family, interface, key);
    std::fs::write(&path, value).map_err(|error| context(&format!("cannot write {value} to {path}"), &error))
}

/// Reads a setting of an interface.
pub(crate) fn read_setting(family: &str, interface: &str, key: &str) -> io::Result<String> {
    let path = setting(family, interface, key);
    let text = std::fs::read_to_string(&path).map_err(|error| context(&format!("cannot read {path}"), &error))?;
    Ok(text.trim().to_owned())
}

fn setting(family: &str, interface: &str, key: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{interface}/{key}")
}

fn describe(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) => link.hardware_address.clone_from(address),
            LinkAttribute::Controller(bridge) => link.bridge = Some(*bridge),
            _ => {}
        }
    }
    link
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(kind(error), format!("{what}: {error}"))
}

/// The kind of an error, for codes to which the standard library gives none.
fn kind(error: &io::Error) -> io::ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO | libc::ESRCH) => io::ErrorKind::NotFound,
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => io::ErrorKind::Unsupported,
        _ => error.kind(),
    }
}

fn no_link(name: &str, error: &io::Error) -> io::Error {
    context(&format!("interface {name:?}"), error)
}
