//! The small values of an enclave file: durations, sizes, bounds, endpoints, hardware addresses, selectors of tests.
//!
//! Each has one parser from text, whose error says what is wrong and how to write it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use coterie_model::Name;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{
    diagnostic::quoted,
    pattern::{NamePattern, character},
};

/// What is wrong with a text, and what to write in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// Units of a duration with their seconds, the longest first, the order in which they are written.
const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Parses `90s`, `1h30m`, `30d`: whole numbers, each with one of `w d h m s`, the longer unit first.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    let remedy =
        "write whole numbers with units, the longer unit first, as \"90s\", \"15m\", \"1h30m\", \"24h\" or \"30d\"";
    let fault = |why: &str| Fault::new(format!("{} is no duration: {why}", quoted(text)), remedy);
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut seconds = 0_u64;
    if text.is_empty() {
        return Err(fault("it is empty"));
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(|| fault("a number lacks its unit"))?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next().ok_or_else(|| fault("a number lacks its unit"))?;
        if number.is_empty() {
            return Err(fault(&format!("{} is not preceded by a number", character(unit))));
        }
        if !UNITS.iter().any(|(known, _)| *known == unit) {
            return Err(fault(&format!("{} is no unit", character(unit))));
        }
        let (_, factor) = units
            .find(|(known, _)| *known == unit)
            .ok_or_else(|| fault(&format!("unit `{unit}` comes twice or behind a shorter one")))?;
        let number: u64 = number.parse().map_err(|_| fault("a number is too large"))?;
        seconds = number
            .checked_mul(*factor)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(|| fault("it is too long to be counted"))?;
        rest = tail.get(unit.len_utf8()..).unwrap_or_default();
    }
    Ok(Duration::from_secs(seconds))
}

/// Writes a duration of whole seconds as [`duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    // Days read better than weeks: "30d" rather than "4w2d".
    let mut text = String::new();
    for (unit, factor) in UNITS.iter().skip(1) {
        let count = seconds / factor;
        seconds %= factor;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `#[serde(serialize_with)]`: a duration as text.
pub(super) fn serialize_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

/// A range of whole numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bounds {
    /// The least number inside.
    pub least: u64,
    /// The greatest number inside.
    pub most: u64,
}

impl Bounds {
    /// The range that holds `number` alone.
    #[must_use]
    pub fn exactly(number: u64) -> Self {
        Self {
            least: number,
            most: number,
        }
    }

    /// Whether `number` lies inside.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

/// Parses comparisons such as `>=2` or `>=2, <8` over numbers that `number` reads; all of them must hold.
pub(super) fn bounds(text: &str, example: &str, number: impl Fn(&str) -> Result<u64, String>) -> Result<Bounds, Fault> {
    let remedy = format!("write one or several of `>=`, `<=`, `>`, `<`, `=` with a number, as {example}");
    let fault = |why: String| Fault::new(format!("{} is no comparison: {why}", quoted(text)), remedy.clone());
    let mut bounds = Bounds {
        least: 0,
        most: u64::MAX,
    };
    for part in text.split(',').map(str::trim) {
        let digits = part
            .find(|c: char| c.is_ascii_alphanumeric())
            .ok_or_else(|| fault("a number is missing".into()))?;
        let (sign, value) = part.split_at(digits);
        let value = number(value).map_err(&fault)?;
        let (least, most) = match sign.trim_end() {
            ">=" => (value, u64::MAX),
            "<=" => (0, value),
            ">" => (
                value
                    .checked_add(1)
                    .ok_or_else(|| fault("the number is too large".into()))?,
                u64::MAX,
            ),
            "<" => (
                0,
                value
                    .checked_sub(1)
                    .ok_or_else(|| fault("no number is less than 0".into()))?,
            ),
            "=" | "" => (value, value),
            other => return Err(fault(format!("{} is no sign", quoted(other)))),
        };
        bounds = Bounds {
            least: bounds.least.max(least),
            most: bounds.most.min(most),
        };
    }
    if bounds.least > bounds.most {
        return Err(fault("no number meets all of it".into()));
    }
    Ok(bounds)
}

/// Reads a plain whole number, for [`bounds`].
pub(super) fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{} is no whole number", quoted(text)))
}

/// Reads a number of bytes with a binary unit, `512MiB`, for [`bounds`].
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let lacking = || format!("{} needs a whole number and one of KiB, MiB, GiB, TiB", quoted(text));
    let (unit, shift) = UNITS
        .iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or_else(lacking)?;
    let number: u64 = text.trim_end_matches(unit).trim_end().parse().map_err(|_| lacking())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{} is too large", quoted(text)))
}

/// An IPv4 or IPv6 network in its canonical form: no bit set behind the prefix.
pub(super) fn network(text: &str) -> Result<IpNet, Fault> {
    let network = IpNet::from_str(text).map_err(|_| {
        let remedy = match IpAddr::from_str(text) {
            Ok(address) => format!(
                "add the prefix length, as \"{address}/{}\"",
                if address.is_ipv4() { 24 } else { 64 }
            ),
            Err(_) => "write an address and a prefix length, as \"10.77.0.0/16\" or \"fd77::/48\"".to_owned(),
        };
        Fault::new(format!("{} is no network", quoted(text)), remedy)
    })?;
    if network.trunc() == network {
        Ok(network)
    } else {
        Err(Fault::new(
            format!("{} has bits set behind its prefix", quoted(text)),
            format!("write \"{}\", the network that holds it", network.trunc()),
        ))
    }
}

/// An inside address without prefix length.
pub(super) fn address(text: &str) -> Result<IpAddr, Fault> {
    IpAddr::from_str(text).map_err(|_| {
        let remedy = match IpNet::from_str(text) {
            Ok(network) => format!("leave out the prefix length: \"{}\"", network.addr()),
            Err(_) => "write an IPv4 or IPv6 address, as \"10.77.1.1\" or \"fd77::1:1\"".to_owned(),
        };
        Fault::new(format!("{} is no IP address", quoted(text)), remedy)
    })
}

/// An outside address with or without a port: `192.0.2.11`, `192.0.2.11:4747`, `2001:db8::1`, `[2001:db8::1]:4747`.
pub(super) fn endpoint(text: &str, default_port: u16) -> Result<SocketAddr, Fault> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let endpoint = SocketAddr::from_str(text)
        .or_else(|_| IpAddr::from_str(bare).map(|address| SocketAddr::new(address, default_port)))
        .map_err(|_| {
            let named = text.chars().any(|c| c.is_ascii_alphabetic()) && !text.contains("::") && !text.starts_with('[');
            let remedy = if named {
                "write an IP address: names are not looked up, so that no name server can redirect a member"
            } else {
                "write an address and a port, as \"192.0.2.11:4747\" or \"[2001:db8::11]:4747\""
            };
            Fault::new(format!("{} is no endpoint", quoted(text)), remedy)
        })?;
    if endpoint.port() == 0 {
        return Err(Fault::new(
            format!("{} has port 0", quoted(text)),
            format!("write a port from 1 to 65535, or leave it out for the enclave's port {default_port}"),
        ));
    }
    Ok(endpoint)
}

/// A pattern over MAC addresses: six bytes in hexadecimal with `:` between, or fewer and then `:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacPattern {
    prefix: Vec<u8>,
}

impl MacPattern {
    /// Whether `mac` starts with the bytes of the pattern.
    #[must_use]
    pub fn matches(&self, mac: [u8; 6]) -> bool {
        mac.starts_with(&self.prefix)
    }
}

impl fmt::Display for MacPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.prefix.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(
            f,
            "{}{}",
            bytes.join(":"),
            if self.prefix.len() < 6 { ":*" } else { "" }
        )
    }
}

impl Serialize for MacPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(super) fn mac_pattern(text: &str) -> Result<MacPattern, Fault> {
    let (digits, open) = text.strip_suffix(":*").map_or((text, false), |digits| (digits, true));
    let prefix: Option<Vec<u8>> = digits
        .split(':')
        .map(|part| {
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            if digits {
                u8::from_str_radix(part, 16).ok()
            } else {
                None
            }
        })
        .collect();
    match prefix {
        Some(prefix) if prefix.len() < 6 && open || prefix.len() == 6 && !open => Ok(MacPattern { prefix }),
        Some(_) | None => Err(Fault::new(
            format!("{} is no MAC address", quoted(text)),
            "write six bytes, as \"52:54:00:12:34:56\", or the first ones and a star, as \"52:54:00:*\"",
        )),
    }
}

/// An SMBIOS UUID, written as 32 hexadecimal digits in the usual five groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// The UUID with these bytes, in the order in which it is written.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in the same order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(super) fn uuid(text: &str) -> Result<Uuid, Fault> {
    let fault = || {
        Fault::new(
            format!("{} is no UUID", quoted(text)),
            "write it as \"4c4c4544-0042-3510-8054-b4c04f4e3132\", as dmidecode -s system-uuid prints it",
        )
    };
    let groups: Vec<&str> = text.split('-').collect();
    if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
        return Err(fault());
    }
    let digits: String = groups.concat();
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(fault());
    }
    u128::from_str_radix(&digits, 16)
        .map(|number| Uuid(number.to_be_bytes()))
        .map_err(|_| fault())
}

/// Whom a policy test speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Members whose name matches a pattern.
    Members(NamePattern),
    /// Members made from a template.
    Template(Name),
    /// Members that hold a community.
    Community(Name),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members(pattern) => write!(f, "{pattern}"),
            Self::Template(name) => write!(f, "template:{name}"),
            Self::Community(name) => write!(f, "community:{name}"),
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(super) fn selector(text: &str) -> Result<Selector, Fault> {
    let remedy = "write a pattern over member names, as \"web-*\", or \"template:NAME\", or \"community:NAME\"";
    let named = |kind: &str, name: &str| {
        Name::new(name).map_err(|error| Fault::new(format!("{} names no {kind}: {error}", quoted(text)), remedy))
    };
    if let Some(name) = text.strip_prefix("template:") {
        named("template", name).map(Selector::Template)
    } else if let Some(name) = text.strip_prefix("community:") {
        named("community", name).map(Selector::Community)
    } else {
        NamePattern::new(text).map(Selector::Members).map_err(|error| {
            Fault::new(
                format!("{} is no pattern over member names: {error}", quoted(text)),
                remedy,
            )
        })
    }
}

/// Where a policy test's traffic goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Target {
    /// The receivers.
    pub members: Selector,
    /// The port; `None` stands for any.
    pub port: Option<u16>,
    /// The transport protocol; `None` stands for any.
    pub protocol: Option<Protocol>,
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.members)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.protocol {
            Some(Protocol::Tcp) => write!(f, "/tcp"),
            Some(Protocol::Udp) => write!(f, "/udp"),
            None => Ok(()),
        }
    }
}

/// Parses a selector with an optional `:PORT` or `:PORT/PROTOCOL` behind it.
pub(super) fn target(text: &str) -> Result<Target, Fault> {
    let prefix = ["template:", "community:"]
        .iter()
        .find(|prefix| text.starts_with(**prefix))
        .map_or(0, |p| p.len());
    let (members, service) = match text.get(prefix..).and_then(|rest| rest.find(':')) {
        None => (text, None),
        Some(colon) => (
            text.get(..prefix + colon).unwrap_or(text),
            text.get(prefix + colon + 1..),
        ),
    };
    let members = selector(members)?;
    let Some(service) = service else {
        return Ok(Target {
            members,
            port: None,
            protocol: None,
        });
    };
    let (port, protocol) = service
        .split_once('/')
        .map_or((service, None), |(port, protocol)| (port, Some(protocol)));
    let protocol = match protocol {
        None => None,
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        Some(other) => {
            return Err(Fault::new(
                format!("{} is no protocol with ports", quoted(other)),
                "write \"/tcp\" or \"/udp\" behind the port, or leave it out for both",
            ));
        }
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if port > 0 && digits => Ok(Target {
            members,
            port: Some(port),
            protocol,
        }),
        Ok(_) | Err(_) => Err(Fault::new(
            format!("{} is no port", quoted(port)),
            "write a port from 1 to 65535 behind the colon, as \"app-*:8080/tcp\", or leave out both",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_as_written() {
        let seconds = |text: &str| duration(text).map(|d| d.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("1h30m"), Ok(5_400));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        assert_eq!(seconds("1w"), Ok(604_800));
        assert_eq!(seconds("0s"), Ok(0));
        for bad in [
            "",
            "1",
            "h",
            "1x",
            "1m1h",
            "1h1h",
            "1.5h",
            "-1h",
            "1 h",
            "99999999999999999999h",
            "9999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn comparisons_bound_a_number() {
        let read = |text: &str| bounds(text, "\">=2\"", whole).map(|b| (b.least, b.most));
        assert_eq!(read(">=2"), Ok((2, u64::MAX)));
        assert_eq!(read(">2, <=8"), Ok((3, 8)));
        assert_eq!(read("=4"), Ok((4, 4)));
        assert_eq!(read("4"), Ok((4, 4)));
        assert_eq!(bounds("<= 2 GiB", "", bytes).map(|b| b.most), Ok(2 << 30));
        for bad in ["", ">=", "=>2", "<0", ">3, <2", "two", ">=2,", ">18446744073709551615"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(bounds(">=4GB", "", bytes).is_err());
        assert!(bounds(">=99999999999TiB", "", bytes).is_err());
    }

    #[test]
    fn endpoints_take_the_default_port() {
        let read = |text: &str| endpoint(text, 4747).map(|e| e.to_string());
        assert_eq!(read("192.0.2.1"), Ok("192.0.2.1:4747".into()));
        assert_eq!(read("192.0.2.1:1"), Ok("192.0.2.1:1".into()));
        assert_eq!(read("2001:db8::1"), Ok("[2001:db8::1]:4747".into()));
        assert_eq!(read("[2001:db8::1]"), Ok("[2001:db8::1]:4747".into()));
        assert_eq!(read("[2001:db8::1]:2"), Ok("[2001:db8::1]:2".into()));
        for bad in ["", "web.example:1", "192.0.2.1:0", "192.0.2.1:99999", "192.0.2", "[::1"] {
            assert!(endpoint(bad, 4747).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hardware_addresses_match_by_prefix() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        assert!(mac_pattern("52:54:00:*").unwrap().matches(mac));
        assert!(mac_pattern("52:54:00:01:02:03").unwrap().matches(mac));
        assert!(!mac_pattern("52:54:01:*").unwrap().matches(mac));
        assert_eq!(mac_pattern("52:54:0A:*").unwrap().to_string(), "52:54:0a:*");
        for bad in [
            "",
            "*",
            "52:54",
            "52-54-00-01-02-03",
            "52:54:00:01:02:03:04",
            "+1:54:00:01:02:03",
            "52:54:00:01:02:03:*",
        ] {
            assert!(mac_pattern(bad).is_err(), "{bad:?}");
        }
        let text = "4c4c4544-0042-3510-8054-b4c04f4e3132";
        assert_eq!(uuid(text).unwrap().to_string(), text);
        assert!(uuid("4c4c4544").is_err());
    }

    #[test]
    fn targets_split_into_members_and_service() {
        let read = |text: &str| target(text).map(|t| (t.members.to_string(), t.port, t.protocol));
        assert_eq!(
            read("app-*:8080/tcp"),
            Ok(("app-*".into(), Some(8080), Some(Protocol::Tcp)))
        );
        assert_eq!(read("app-1:53"), Ok(("app-1".into(), Some(53), None)));
        assert_eq!(
            read("template:app:1/udp"),
            Ok(("template:app".into(), Some(1), Some(Protocol::Udp)))
        );
        assert_eq!(read("community:web-app"), Ok(("community:web-app".into(), None, None)));
        for bad in [
            "",
            ":80",
            "app:",
            "app:0",
            "app:x",
            "app:1/icmp",
            "app:+1",
            "template:",
            "app:1:2",
            "a b",
        ] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_written_is_the_duration_read(seconds in 0_u64..10_000_000_000) {
            let span = Duration::from_secs(seconds);
            prop_assert_eq!(duration(&duration_text(span)), Ok(span));
        }

        #[test]
        fn a_target_written_is_the_target_read(text in "(template:|community:)?[a-z*?-]{1,5}(:[0-9]{1,6}(/tcp|/udp)?)?") {
            if let Ok(read) = target(&text) {
                prop_assert_eq!(target(&read.to_string()), Ok(read));
            }
        }
    }
}
