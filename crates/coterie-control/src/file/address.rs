//! Pools, inside addresses and endpoints: which are usable, and which member gets which.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use coterie_model::Name;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    diagnostic::{At, Finding, Report},
    draft::DraftMember,
    reader::List,
};

/// What a range of addresses is there for.
struct Range {
    network: IpNet,
    what: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, what: &'static str) -> Range {
    Range {
        network: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)),
        what,
    }
}

const fn v6(first: u16, second: u16, prefix: u8, what: &'static str) -> Range {
    let address = Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0);
    Range {
        network: IpNet::V6(Ipv6Net::new_assert(address, prefix)),
        what,
    }
}

/// Ranges that are neither inside nor outside addresses (IANA's registries of special-purpose addresses, RFC 6890).
static UNUSABLE: &[Range] = &[
    v4(0, 0, 0, 0, 8, "\"this network\""),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(169, 254, 0, 0, 16, "link-local"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(240, 0, 0, 0, 4, "reserved"),
    // ::/96 holds the unspecified address and loopback.
    v6(0, 0, 96, "unspecified or loopback"),
    Range {
        network: IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96)),
        what: "IPv4 written as IPv6",
    },
    v6(0xfe80, 0, 10, "link-local"),
    v6(0xff00, 0, 8, "multicast"),
];

const SHARED: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10));

/// Ranges that are nobody's on the Internet, so that a pool may lie in them.
static PRIVATE: &[IpNet] = &[
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20)),
];

/// Checks each pool for itself and against those before it.
pub(super) fn check_pools(pools: &[At<IpNet>], report: &mut Report) {
    for (index, pool) in pools.iter().enumerate() {
        if let Some(earlier) = pools
            .iter()
            .take(index)
            .find(|earlier| overlap(&earlier.value, &pool.value))
        {
            let message = format!("pool {} overlaps pool {}", pool.value, earlier.value);
            let remedy = "keep the larger one alone, or choose pools apart from each other";
            report.push(Finding::error(pool, message, remedy).related(earlier.span.clone(), "overlaps this pool"));
        }
        check_pool(pool, report);
    }
}

fn check_pool(pool: &At<IpNet>, report: &mut Report) {
    let network = pool.value;
    let (widest, narrowest, example) = match network {
        IpNet::V4(_) => (8, 30, "10.77.0.0/16"),
        IpNet::V6(_) => (16, 126, "fd77::/48"),
    };
    let length = network.prefix_len();
    if let Some(range) = UNUSABLE.iter().find(|range| overlap(&range.network, &network)) {
        let message = format!("pool {network} holds {} addresses ({})", range.what, range.network);
        report.push(Finding::error(
            pool,
            message,
            format!("choose a private network, as \"{example}\""),
        ));
    } else if length < widest || length > narrowest {
        let size = if length < widest { "large" } else { "small" };
        let message = format!("pool {network} is too {size}");
        report.push(Finding::error(
            pool,
            message,
            format!("choose a prefix length from {widest} to {narrowest}"),
        ));
    } else if overlap(&SHARED, &network) {
        let message = format!("pool {network} lies in {SHARED}, which providers use between their customers and them");
        let remedy = format!("choose a private network, as \"{example}\", unless no member's provider uses it");
        report.push(Finding::warning(pool, message, remedy));
    } else if !PRIVATE.iter().any(|private| private.contains(&network)) {
        let message = format!("pool {network} is public address space: members no longer reach the hosts that own it");
        let remedy = format!("choose a private network, as \"{example}\", unless the network is yours");
        report.push(Finding::warning(pool, message, remedy));
    }
}

/// Whether none of a pool's addresses is there for something else.
fn is_usable(network: &IpNet) -> bool {
    !UNUSABLE.iter().any(|range| overlap(&range.network, network))
}

fn in_file_order(members: &BTreeMap<Name, DraftMember>) -> Vec<(&Name, &DraftMember)> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(_, member)| (member.table.start, member.name.span.start));
    members
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Checks the inside addresses that the file gives, and assigns some to the members that have none.
///
/// An assigned address follows from the member's name and the pool, so that it stays when members are added or removed.
/// Where two names fall on the same address the one that stands first in the file has it and the other the next free one;
/// an address written in the file is never assigned to another.
pub(super) fn assign(
    pools: &List<IpNet>,
    members: &BTreeMap<Name, DraftMember>,
    report: &mut Report,
) -> BTreeMap<Name, Vec<IpAddr>> {
    let mut free: Vec<Free> = pools.entries.iter().map(|pool| Free::new(pool.value)).collect();
    let mut addresses: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, (&Name, &At<IpAddr>)> = BTreeMap::new();
    for (name, member) in in_file_order(members) {
        let Some(given) = &member.addresses else {
            continue;
        };
        for address in given {
            if let Some((owner, first)) = owners.get(&address.value) {
                let message = format!("address {} is given to `{owner}` and to `{name}`", address.value);
                let remedy = "give one of them another address, or leave `addresses` out to have one assigned";
                let finding = Finding::error(address, message, remedy).label("again here");
                report.push(finding.related(first.span.clone(), "first here"));
                continue;
            }
            owners.insert(address.value, (name, address));
            check_address(pools, address, report);
            free.iter_mut().for_each(|free| free.take(address.value));
        }
        addresses.insert(name.clone(), given.iter().map(|address| address.value).collect());
    }

    for (name, member) in in_file_order(members)
        .into_iter()
        .filter(|(_, member)| member.addresses.is_none())
    {
        let mut assigned = Vec::new();
        for v4 in [true, false] {
            let mut pools = free
                .iter_mut()
                .filter(|free| free.network.addr().is_ipv4() == v4)
                .peekable();
            if pools.peek().is_none() {
                continue;
            }
            match pools.find_map(|pool| pool.next(name)) {
                Some(address) => assigned.push(address),
                None => {
                    let family = if v4 { "IPv4" } else { "IPv6" };
                    let message = format!("the {family} pools have no address left for `{name}`");
                    report.push(Finding::error(&member.name, message, "add a pool, or make one larger"));
                }
            }
        }
        addresses.insert(name.clone(), assigned);
    }
    addresses
}

fn check_address(pools: &List<IpNet>, address: &At<IpAddr>, report: &mut Report) {
    let ip = address.value;
    if let Some(range) = UNUSABLE.iter().find(|range| range.network.contains(&ip)) {
        let message = format!("address {ip} is a {} address ({})", range.what, range.network);
        report.push(Finding::error(
            address,
            message,
            "choose an address out of the enclave's pools",
        ));
        return;
    }
    let Some(pool) = pools
        .entries
        .iter()
        .map(|pool| pool.value)
        .find(|pool| pool.contains(&ip))
    else {
        if pools.whole {
            let listed: Vec<String> = pools.entries.iter().map(|pool| pool.value.to_string()).collect();
            let message = format!("address {ip} lies in no pool of the enclave");
            let remedy = format!(
                "choose an address out of {}, or add a pool that holds it",
                listed.join(", ")
            );
            report.push(Finding::error(address, message, remedy));
        }
        return;
    };
    let role = match pool {
        IpNet::V4(network) if IpAddr::V4(network.network()) == ip => Some("network"),
        IpNet::V4(network) if IpAddr::V4(network.broadcast()) == ip => Some("broadcast"),
        // RFC 4291, section 2.6.1.
        IpNet::V6(network) if IpAddr::V6(network.network()) == ip => Some("subnet-router anycast"),
        IpNet::V4(_) | IpNet::V6(_) => None,
    };
    if let Some(role) = role {
        let message = format!("address {ip} is the {role} address of pool {pool}");
        report.push(Finding::error(
            address,
            message,
            "choose an address between the first and the last of the pool",
        ));
    }
}

/// Checks the outside addresses of all members.
pub(super) fn check_endpoints(pools: &[At<IpNet>], members: &BTreeMap<Name, DraftMember>, report: &mut Report) {
    let mut owners: BTreeMap<SocketAddr, (&Name, &At<SocketAddr>)> = BTreeMap::new();
    for (name, member) in in_file_order(members) {
        for endpoint in &member.endpoints {
            if let Some((owner, first)) = owners.get(&endpoint.value) {
                let message = if *owner == name {
                    format!("endpoint {} is listed twice for `{name}`", endpoint.value)
                } else {
                    format!("endpoint {} is given to `{owner}` and to `{name}`", endpoint.value)
                };
                let remedy = "give each member its own address or port";
                let finding = Finding::error(endpoint, message, remedy).label("again here");
                report.push(finding.related(first.span.clone(), "first here"));
                continue;
            }
            owners.insert(endpoint.value, (name, endpoint));
            let ip = endpoint.value.ip();
            if let Some(range) = UNUSABLE.iter().find(|range| range.network.contains(&ip)) {
                let message = format!(
                    "endpoint {} is a {} address ({})",
                    endpoint.value, range.what, range.network
                );
                report.push(Finding::error(
                    endpoint,
                    message,
                    "write an address that other members can send to",
                ));
            } else if let Some(pool) = pools
                .iter()
                .find(|pool| is_usable(&pool.value) && pool.value.contains(&ip))
            {
                let message = format!("endpoint {} lies inside pool {}", endpoint.value, pool.value);
                let remedy =
                    "write the member's outside address: sealed packets to an inside one would go round in circles";
                report.push(Finding::error(endpoint, message, remedy).related(pool.span.clone(), "this pool"));
            }
        }
    }
}

/// The addresses of a pool that are still to be had, as numbers from its first address.
struct Free {
    network: IpNet,
    first: u128,
    last: u128,
    /// Taken ranges, both ends included, apart from each other.
    taken: BTreeMap<u128, u128>,
}

impl Free {
    /// In IPv4 all but the network and broadcast addresses. In IPv6 the last 64 bits vary, all but the subnet-router anycast
    /// address and the 128 reserved for other anycast (RFC 2526).
    fn new(network: IpNet) -> Self {
        let last = match network {
            IpNet::V4(network) => (1_u128 << (32 - u32::from(network.prefix_len()))).saturating_sub(2),
            IpNet::V6(network) => {
                let bits = (128 - u32::from(network.prefix_len())).min(64);
                let size = 1_u128 << bits;
                if size > 256 { size - 129 } else { size - 1 }
            }
        };
        Self {
            network,
            first: 1,
            last,
            taken: BTreeMap::new(),
        }
    }

    /// Marks an address as taken; one outside the pool changes nothing.
    fn take(&mut self, address: IpAddr) {
        let offset = match (self.network, address) {
            (IpNet::V4(network), IpAddr::V4(address)) if network.contains(&address) => {
                u128::from(u32::from(address) - u32::from(network.network()))
            }
            (IpNet::V6(network), IpAddr::V6(address)) if network.contains(&address) => {
                u128::from(address) - u128::from(network.network())
            }
            (IpNet::V4(_) | IpNet::V6(_), IpAddr::V4(_) | IpAddr::V6(_)) => return,
        };
        self.insert(offset);
    }

    fn insert(&mut self, offset: u128) {
        if self.holding(offset).is_some() {
            return;
        }
        let end = self.taken.remove(&(offset + 1)).unwrap_or(offset);
        match self.taken.range_mut(..offset).next_back() {
            Some((_, before)) if *before + 1 == offset => *before = end,
            Some(_) | None => {
                self.taken.insert(offset, end);
            }
        }
    }

    /// The end of the taken range that holds an offset.
    fn holding(&self, offset: u128) -> Option<u128> {
        self.taken
            .range(..=offset)
            .next_back()
            .map(|(_, end)| *end)
            .filter(|end| *end >= offset)
    }

    /// Takes the address that belongs to a name, or else the next free one behind it, round the end of the pool.
    fn next(&mut self, name: &Name) -> Option<IpAddr> {
        if self.last < self.first {
            return None;
        }
        let wanted = self.first + u128::from(hash(&self.network, name)) % (self.last - self.first + 1);
        let free_from = |start: u128| match self.holding(start) {
            None => Some(start),
            Some(end) => Some(end + 1).filter(|next| *next <= self.last),
        };
        let offset = free_from(wanted).or_else(|| free_from(self.first))?;
        self.insert(offset);
        Some(match self.network {
            IpNet::V4(network) => {
                let offset = u32::try_from(offset).expect("an IPv4 pool has at most 2^32 addresses");
                IpAddr::V4(Ipv4Addr::from(u32::from(network.network()) + offset))
            }
            IpNet::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network.network()) + offset)),
        })
    }
}

/// The addresses of a name that no file gives any: one of each address family that the pools have, where a name's address
/// stays the same as long as it is free. `is_free` tells what is in use; `None` when a family's pools are used up.
pub(crate) fn assign_one(pools: &[IpNet], name: &Name, is_free: impl Fn(IpAddr) -> bool) -> Option<Vec<IpAddr>> {
    let mut assigned = Vec::new();
    for v4 in [true, false] {
        let mut pools = pools.iter().filter(|pool| pool.addr().is_ipv4() == v4).peekable();
        if pools.peek().is_none() {
            continue;
        }
        let free = |pool: &IpNet| {
            let mut free = Free::new(*pool);
            // In a pool that is nearly full this walks over what is in use, once around at the most.
            let tries = usize::try_from(free.last).unwrap_or(usize::MAX);
            (0..tries).find_map(|_| free.next(name).filter(|address| is_free(*address)))
        };
        assigned.push(pools.find_map(free)?);
    }
    Some(assigned)
}

/// Spreads names over a pool: FNV-1a with 64 bits, then the mixer of SplitMix64. Names are no secrets and their author is
/// the enclave's own: no more is needed, and it has to stay the same for ever.
fn hash(network: &IpNet, name: &Name) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in network.to_string().bytes().chain([0]).chain(name.as_str().bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> Free {
        Free::new(text.parse().unwrap())
    }

    #[test]
    fn a_pool_gives_each_address_once_and_then_none() {
        let mut free = pool("10.0.0.0/28");
        free.take("10.0.0.7".parse().unwrap());
        free.take("10.9.0.7".parse().unwrap());
        let given: BTreeSet<IpAddr> = (0..13)
            .map(|index| free.next(&Name::new(&format!("m{index}")).unwrap()).unwrap())
            .collect();
        assert_eq!(given.len(), 13);
        for never in ["10.0.0.0", "10.0.0.7", "10.0.0.15"] {
            assert!(!given.contains(&never.parse::<IpAddr>().unwrap()), "{never}");
        }
        assert_eq!(free.next(&Name::new("late").unwrap()), None);
    }

    #[test]
    fn the_address_of_a_name_never_changes() {
        let name = Name::new("web-1").unwrap();
        let given: Vec<String> = ["10.77.0.0/16", "fd77::/48"]
            .map(|text| pool(text).next(&name).unwrap().to_string())
            .into();
        assert_eq!(given, ["10.77.61.30", "fd77::fbd0:a6b1:6a05:b05b"]);
    }

    proptest! {
        #[test]
        fn taken_ranges_say_what_a_set_says(offsets in prop::collection::vec(0_u8..40, 0..60)) {
            let mut free = pool("10.0.0.0/26");
            let mut set = BTreeSet::new();
            for offset in offsets {
                free.insert(u128::from(offset));
                set.insert(u128::from(offset));
                for probe in 0..41 {
                    prop_assert_eq!(free.holding(probe).is_some(), set.contains(&probe));
                }
                let ranges: Vec<_> = free.taken.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| *pair[0].1 + 1 < *pair[1].0));
            }
        }
    }
}
