//! Routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};

use super::{Links, context, family_of};

/// The table that the kernel looks into unless a rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

/// What becomes of a packet that a route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// It goes out by the route's interface.
    #[default]
    Unicast,
    /// Its sender is told that the destination cannot be reached (`EHOSTUNREACH`).
    Unreachable,
    /// Its sender is told that it is forbidden (`EACCES`).
    Prohibit,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destinations that it matches.
    pub destination: IpNet,
    /// What becomes of their packets.
    pub kind: RouteKind,
    /// The interface that they go out by; none for the kinds that refuse.
    pub device: Option<String>,
    /// The next router; none when destinations are on the link itself.
    pub via: Option<IpAddr>,
    /// The table that it belongs to.
    pub table: u32,
    /// Among routes of one table to one destination the lowest wins; `None` lets the kernel choose.
    pub metric: Option<u32>,
}

impl Links {
    /// Adds a route.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` for the interface; `NetworkUnreachable` for a router that is on no link;
    /// `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let message = self.encode_route(route)?;
        let result = self
            .netlink
            .request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL);
        result.map_err(|error| context(&format!("cannot add the route to {}", route.destination), &error))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// `NotFound` when there is no such route; `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn del_route(&mut self, route: &Route) -> io::Result<()> {
        let message = self.encode_route(route)?;
        let result = self.netlink.request(RouteNetlinkMessage::DelRoute(message), 0);
        result.map_err(|error| context(&format!("cannot remove the route to {}", route.destination), &error))
    }

    /// The routes of a table, both families, without those that the kernel keeps for itself (local, broadcast, multicast).
    ///
    /// # Errors
    /// What netlink reports.
    pub fn routes(&mut self, table: u32) -> io::Result<Vec<Route>> {
        let links = self.links()?;
        let mut routes = Vec::new();
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let mut message = RouteMessage::default();
            message.header.address_family = family_of(any);
            for found in self.netlink.dump(RouteNetlinkMessage::GetRoute(message))? {
                let RouteNetlinkMessage::NewRoute(found) = found else {
                    continue;
                };
                let name = |index| {
                    links
                        .iter()
                        .find(|link| link.index == index)
                        .map(|link| link.name.clone())
                };
                routes.extend(decode(&found, any, name).filter(|route| route.table == table));
            }
        }
        Ok(routes)
    }

    fn encode_route(&mut self, route: &Route) -> io::Result<RouteMessage> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family_of(route.destination.addr());
        header.destination_prefix_length = route.destination.prefix_len();
        header.protocol = RouteProtocol::Static;
        header.kind = match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Prohibit => RouteType::Prohibit,
        };
        let on_link = route.kind == RouteKind::Unicast && route.via.is_none() && route.destination.addr().is_ipv4();
        header.scope = if on_link {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(RouteAddress::from(
            route.destination.network(),
        )));
        attributes.push(RouteAttribute::Table(route.table));
        if let Some(via) = route.via {
            attributes.push(RouteAttribute::Gateway(RouteAddress::from(via)));
        }
        if let Some(metric) = route.metric {
            attributes.push(RouteAttribute::Priority(metric));
        }
        if let Some(device) = &route.device {
            let index = self.index(device)?;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        Ok(message)
    }
}

fn decode(message: &RouteMessage, any: IpAddr, name: impl Fn(u32) -> Option<String>) -> Option<Route> {
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => return None,
    };
    let plain = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let mut route = Route {
        destination: IpNet::new(any, message.header.destination_prefix_length).ok()?,
        kind,
        device: None,
        via: None,
        table: u32::from(message.header.table),
        metric: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = IpNet::new(plain(address)?, message.header.destination_prefix_length).ok()?;
            }
            // The kernel hangs refusing routes of IPv6 on the loopback interface.
            RouteAttribute::Oif(index) if kind == RouteKind::Unicast => route.device = name(*index),
            RouteAttribute::Gateway(address) => route.via = plain(address),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            _ => {}
        }
    }
    Some(route)
}
