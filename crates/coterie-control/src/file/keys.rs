//! Every key of the enclave file, once: the reader checks against these tables, and the JSON Schema is made from them.

use super::{MAX_ADDRESSES, MAX_COMMUNITIES, MAX_ENDPOINTS, MAX_EXCLUSIONS, MAX_POOLS};

/// A table of the file.
#[derive(Debug)]
pub(super) struct Table {
    /// How it is written, with `NAME` where a name goes.
    pub(super) header: &'static str,
    /// What it describes.
    pub(super) about: &'static str,
    /// Its keys.
    pub(super) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// What it sets, with its default.
    pub(super) about: &'static str,
    /// A value as it is written in TOML, and for scalars and lists of text in JSON too.
    pub(super) example: &'static str,
    /// The value that a missing key stands for, in the same notation; empty where there is none that can be written.
    pub(super) default: &'static str,
}

/// What a key holds.
#[derive(Debug)]
pub(super) enum Kind {
    /// Text that follows a pattern (ECMA 262).
    Text(&'static str),
    /// Free text of at most so many characters.
    Prose(usize),
    /// One of several words.
    Choice(&'static [&'static str]),
    /// A whole number, both ends included.
    Integer(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// A list of texts that follow a pattern, with the least and the greatest number of them.
    List(&'static str, usize, usize),
    /// A list of words out of several.
    Choices(&'static [&'static str]),
    /// A whole number, or text with comparisons.
    Comparison,
    /// Texts by name.
    Labels,
    /// A table.
    Table(&'static Table),
    /// Tables by name: `[community.NAME]`.
    Named(&'static Table),
    /// A list of tables: `[[tests]]`.
    Tables(&'static Table),
}

pub(super) const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const GLOB: &str = "^[a-z0-9*?-]{1,63}$";
const DURATION: &str = "^(?=[0-9])([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$";
const NETWORK: &str = "^[0-9A-Fa-f:.]+/[0-9]{1,3}$";
const ADDRESS: &str = "^[0-9A-Fa-f:.]+$";
const ENDPOINT: &str = r"^([0-9.]+(:[0-9]{1,5})?|[0-9A-Fa-f:.]+|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?)$";
const MAC: &str = r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$|^([0-9A-Fa-f]{2}:){1,5}\*$";
const UUID: &str = "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$";
const SELECTOR: &str = "^((template|community):[a-z0-9-]{1,63}|[a-z0-9*?-]{1,63})$";
const TARGET: &str = "^((template|community):[a-z0-9-]{1,63}|[a-z0-9*?-]{1,63})(:[0-9]{1,5}(/(tcp|udp))?)?$";
const MEMORY: &str = "^(>=|<=|>|<|=)? *[0-9]+ *(KiB|MiB|GiB|TiB)( *, *(>=|<=|>|<|=)? *[0-9]+ *(KiB|MiB|GiB|TiB))*$";
/// Comparisons over a plain number.
pub(super) const COMPARISON: &str = "^(>=|<=|>|<|=)? *[0-9]+( *, *(>=|<=|>|<|=)? *[0-9]+)*$";

pub(super) const SUITES: &[&str] = &["aes-256-gcm", "chacha20-poly1305", "aes-256-gcm-siv"];
pub(super) const RETURNS: &[&str] = &["source", "ticket", "tpm", "none"];

const fn key(name: &'static str, kind: Kind, about: &'static str, example: &'static str) -> Key {
    Key {
        name,
        kind,
        required: false,
        about,
        example,
        default: "",
    }
}

impl Key {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

const DESCRIPTION: Key = key(
    "description",
    Kind::Prose(1_000),
    "Free text for people.",
    "\"the web tier\"",
);

/// The file as a whole.
pub(super) static ROOT: Table = Table {
    header: "the top of the file",
    about: "One enclave: its communities, templates and members, and the tests that its policy must pass.",
    keys: &[
        key(
            "version",
            Kind::Integer(1, 1),
            "Version of this format; 1 is the only one.",
            "1",
        )
        .required(),
        key("enclave", Kind::Table(&ENCLAVE), "The enclave itself.", "").required(),
        key(
            "community",
            Kind::Named(&COMMUNITY),
            "Communities of interest by name; at least one.",
            "",
        )
        .required(),
        key("template", Kind::Named(&TEMPLATE), "Templates by name.", ""),
        key(
            "member",
            Kind::Named(&MEMBER),
            "Members whose bundles are issued from this file, by name.",
            "",
        ),
        key(
            "tests",
            Kind::Tables(&TEST),
            "What the policy must and must not allow. A file that fails a test is refused.",
            "",
        ),
    ],
};

pub(super) static ENCLAVE: Table = Table {
    header: "[enclave]",
    about: "The enclave itself.",
    keys: &[
        key("name", Kind::Text(NAME), "Name of the enclave: a DNS label in lower case.", "\"shop\"").required(),
        DESCRIPTION,
        key(
            "pools",
            Kind::List(NETWORK, 1, MAX_POOLS),
            "Networks that inside addresses come from, IPv4 and IPv6. They must not overlap.",
            "[\"10.77.0.0/16\", \"fd77::/48\"]",
        )
        .required(),
        key(
            "lease",
            Kind::Text(DURATION),
            "Membership lease: how long a member goes on without hearing from the server, and how late a revocation can \
             reach one that is cut off. Default 1h; sites without a server choose more, as 30d. 1m to 365d.",
            "\"1h\"",
        )
        .default("\"1h\""),
        key(
            "mtu",
            Kind::Integer(1_280, 8_900),
            "Largest inside packet in bytes. Left out, each node finds it from its outside interface.",
            "1300",
        ),
        key("port", Kind::Integer(1, 65_535), "UDP port of coteried, for endpoints that name none.", "4747").default("4747"),
    ],
};

pub(super) static COMMUNITY: Table = Table {
    header: "[community.NAME]",
    about: "A community of interest: its members, and they alone, can exchange packets under its key.",
    keys: &[
        key(
            "priority",
            Kind::Integer(0, 65_535),
            "Which community two members use when they share several: the lower number comes first. Default 100.",
            "10",
        )
        .default("100"),
        DESCRIPTION,
        key(
            "epoch",
            Kind::Text(DURATION),
            "How often the community's key is replaced; not less than the lease. Default 24h, or the lease where that is \
             longer. At most 365d.",
            "\"24h\"",
        ),
    ],
};

pub(super) static TEMPLATE: Table = Table {
    header: "[template.NAME]",
    about: "What members of one kind have in common.",
    keys: &[
        DESCRIPTION,
        key(
            "communities",
            Kind::List(NAME, 0, MAX_COMMUNITIES),
            "Communities that each member of the template holds.",
            "[\"web\", \"web-app\"]",
        )
        .default("[]"),
        key(
            "exclude",
            Kind::List(NAME, 0, MAX_EXCLUSIONS),
            "Members that those of the template do not want to hear them: they never use a community that holds one.",
            "[\"legacy-1\"]",
        )
        .default("[]"),
        key(
            "lockdown",
            Kind::Boolean,
            "Nothing leaves in the clear on the outside interface but DHCP, ARP and neighbour discovery.",
            "true",
        )
        .default("true"),
        key(
            "return",
            Kind::Choice(RETURNS),
            "What admits a member again after reboot, restore or fork: the hypervisor's event (source), a ticket replaced \
             at each use (ticket), its TPM (tpm), or nothing (none).",
            "\"none\"",
        )
        .default("\"none\""),
        key(
            "forkable",
            Kind::Boolean,
            "Running members may be snapshot and forked: only AES-256-GCM-SIV is used, which bears a repeated nonce.",
            "false",
        )
        .default("false"),
        key(
            "suites",
            Kind::Choices(SUITES),
            "The cipher suites that members may use. Left out: all; aes-256-gcm-siv is used only where it is demanded.",
            "[\"aes-256-gcm\", \"chacha20-poly1305\"]",
        ),
        key("roaming", Kind::Boolean, "Members may change their outside address while sessions live.", "false")
            .default("false"),
        key(
            "door",
            Kind::Boolean,
            "Members let machines with a join token in: they carry what such a machine and the server say to each other, and \
             can read neither.",
            "true",
        )
        .default("false"),
        key("match", Kind::Table(&MATCH), "Which starting machines get this template.", ""),
    ],
};

pub(super) static MATCH: Table = Table {
    header: "[template.NAME.match]",
    about: "Which starting machines get this template: those that meet every key given here.",
    keys: &[
        key(
            "name",
            Kind::Text(GLOB),
            "Pattern over the machine's name: * any run, ? one character.",
            "\"web-*\"",
        ),
        key(
            "labels",
            Kind::Labels,
            "Labels that the machine carries, with patterns over their values.",
            "{ tier = \"web\" }",
        ),
        key(
            "mac",
            Kind::List(MAC, 1, 1_024),
            "MAC addresses, whole or their first bytes; one must fit.",
            "[\"52:54:00:*\"]",
        ),
        key(
            "uuid",
            Kind::List(UUID, 1, 1_024),
            "SMBIOS UUIDs; one must be the machine's.",
            "[\"4c4c4544-0042-3510-8054-b4c04f4e3132\"]",
        ),
        key(
            "cpus",
            Kind::Comparison,
            "Number of processors: a number, or comparisons.",
            "\">=2\"",
        ),
        key(
            "memory",
            Kind::Text(MEMORY),
            "Memory: comparisons with KiB, MiB, GiB or TiB.",
            "\">=4GiB\"",
        ),
    ],
};

pub(super) static MEMBER: Table = Table {
    header: "[member.NAME]",
    about: "One member whose bundle is issued from this file.",
    keys: &[
        key(
            "template",
            Kind::Text(NAME),
            "The template that it is made from.",
            "\"web\"",
        )
        .required(),
        DESCRIPTION,
        key(
            "addresses",
            Kind::List(ADDRESS, 1, MAX_ADDRESSES),
            "Inside addresses out of the pools. Left out: one of each address family, derived from the name.",
            "[\"10.77.1.1\", \"fd77::1:1\"]",
        ),
        key(
            "endpoints",
            Kind::List(ENDPOINT, 0, MAX_ENDPOINTS),
            "Outside addresses where it can be reached by UDP; without a port, the enclave's. \
             Where none is given, a machine that comes with a token is where it applied from.",
            "[\"192.0.2.11:4747\"]",
        )
        .default("[]"),
        key(
            "communities",
            Kind::List(NAME, 0, MAX_COMMUNITIES),
            "Communities that it holds besides those of its template.",
            "[\"vault\"]",
        )
        .default("[]"),
        key(
            "exclude",
            Kind::List(NAME, 0, MAX_EXCLUSIONS),
            "Members that it does not want to hear it, besides those that its template excludes.",
            "[\"legacy-1\"]",
        )
        .default("[]"),
    ],
};

pub(super) static TEST: Table = Table {
    header: "[[tests]]",
    about: "One promise of the policy, tried for every pair of members that `from` and `to` select. Where the file names no \
            member of a template or community that is selected, machines stand in that come with a token for such a template.",
    keys: &[
        key(
            "name",
            Kind::Prose(200),
            "What is promised, for people.",
            "\"web reaches app\"",
        ),
        key(
            "from",
            Kind::Text(SELECTOR),
            "Senders: a pattern over member names, template:NAME or community:NAME.",
            "\"web-*\"",
        )
        .required(),
        key(
            "to",
            Kind::Text(TARGET),
            "Receivers, selected in the same way, with an optional port and protocol behind a colon.",
            "\"app-*:8080/tcp\"",
        )
        .required(),
        key(
            "reach",
            Kind::Boolean,
            "true: each sender must reach each receiver. false: none may reach any.",
            "true",
        )
        .default("true"),
        key(
            "via",
            Kind::Text(NAME),
            "The community that must be the one in use.",
            "\"web-app\"",
        ),
    ],
};

/// All tables, for finding out where a misplaced key belongs.
pub(super) static TABLES: &[&Table] = &[&ENCLAVE, &COMMUNITY, &TEMPLATE, &MATCH, &MEMBER, &TEST];

impl Table {
    /// The key of that name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key>
    where
        Self: 'static,
    {
        let keys: &'static [Key] = self.keys;
        keys.iter().find(|key| key.name == name)
    }
}

impl Kind {
    /// What is expected, as it stands in a sentence.
    pub(super) fn expected(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Prose(_) | Self::Choice(_) => "text",
            Self::Integer(..) => "a whole number",
            Self::Boolean => "true or false",
            Self::List(..) | Self::Choices(_) => "a list of texts",
            Self::Comparison => "a whole number or text with a comparison",
            Self::Labels | Self::Table(_) | Self::Named(_) => "a table",
            Self::Tables(_) => "a list of tables",
        }
    }
}
