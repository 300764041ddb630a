//! Addresses of interfaces.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Links, context, family_of};

impl Links {
    /// Gives the interface an address; its prefix becomes a route of the main table. An IPv6 address can be used at once:
    /// the kernel does not ask the link first whether somebody has it, and the call returns when it receives (which, in
    /// the kernel, comes up to 10 ms after it can be bound). On an interface that is down, or that has no carrier, it
    /// begins to receive when that has changed; see [`Links::set_up`].
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` for the interface; `PermissionDenied` without `CAP_NET_ADMIN`; `TimedOut` when it did
    /// not begin to receive.
    pub fn add_address(&mut self, name: &str, address: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = self.index(name)?;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        if address.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let result = self
            .netlink
            .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL);
        result.map_err(|error| context(&format!("cannot give {address} to the interface {name:?}"), &error))?;
        self.await_addresses(name)
    }

    /// Takes an address from the interface.
    ///
    /// # Errors
    /// `AddrNotAvailable` when it does not have it; else as [`Links::add_address`].
    pub fn del_address(&mut self, name: &str, address: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.index(name)?;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        let result = self.netlink.request(RouteNetlinkMessage::DelAddress(message), 0);
        result.map_err(|error| context(&format!("cannot take {address} from the interface {name:?}"), &error))
    }

    /// Addresses of the interface with their prefix lengths, sorted. Those that the kernel still asks the link about count.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn addresses(&mut self, name: &str) -> io::Result<Vec<IpNet>> {
        let mut addresses: Vec<IpNet> = self.address_messages(name)?.iter().filter_map(network_of).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Waits until the IPv6 addresses that we gave the interface receive. The kernel makes them receive from a work queue,
    /// some time after it has said that it gave them.
    pub(super) fn await_addresses(&mut self, name: &str) -> io::Result<()> {
        const LIMIT: Duration = Duration::from_secs(1);
        const PAUSE: Duration = Duration::from_micros(200);
        if !self.is_running(name)? {
            return Ok(());
        }
        let messages = self.address_messages(name)?;
        let deadline = Instant::now() + LIMIT;
        for address in messages.iter().filter_map(ours) {
            while !self.receives(address)? {
                if Instant::now() >= deadline {
                    let why = format!("{address} of the interface {name:?} does not receive after {LIMIT:?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Whether the interface is on and has a carrier, without which the kernel keeps its addresses waiting.
    fn is_running(&mut self, name: &str) -> io::Result<bool> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        let found = self.netlink.get(RouteNetlinkMessage::GetLink(message))?;
        let wanted = LinkFlags::Up | LinkFlags::Running;
        Ok(matches!(found, Some(RouteNetlinkMessage::NewLink(link)) if link.header.flags.contains(wanted)))
    }

    /// Whether what is sent to the address is for this machine.
    fn receives(&mut self, address: Ipv6Addr) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 128;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet6(address)));
        match self.netlink.get(RouteNetlinkMessage::GetRoute(message)) {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(route.header.kind == RouteType::Local),
            Ok(_) => Ok(false),
            // No route at all, or one that refuses.
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Ok(false),
                _ => Err(error),
            },
        }
    }

    fn address_messages(&mut self, name: &str) -> io::Result<Vec<AddressMessage>> {
        let index = self.index(name)?;
        let found = self
            .netlink
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) if address.header.index == index => Some(address),
                _ => None,
            })
            .collect())
    }
}

/// An IPv6 address that the link was not asked about. Link-local ones need no route to be known.
fn ours(message: &AddressMessage) -> Option<Ipv6Addr> {
    let flagged = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Nodad));
    match network_of(message)?.addr() {
        IpAddr::V6(address) if message.attributes.iter().any(flagged) && !address.is_unicast_link_local() => {
            Some(address)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn network_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(plain)?, message.header.prefix_len).ok()
}
