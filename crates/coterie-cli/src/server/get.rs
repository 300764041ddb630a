//! `coterie get`: what there is, as tables or JSON.

use clap::{Args, ValueEnum};
use coterie_api::v1::{Community, EnclaveSummary, Member, MemberState, Principal, Tenant, Token};
use coterie_model::{Name, UnixTime};
use serde::Serialize;

use super::{EnclaveArgument, Remote, joined, relative, remote::enclave_path};
use crate::{
    clock,
    exit::{Exit, Stop},
    output::{self, Format, Paint},
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// What
    #[arg(value_enum)]
    kind: Kind,
    /// Only this one: its name, of a token its id
    name: Option<String>,
    #[command(flatten)]
    enclave: EnclaveArgument,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Enclaves of the tenant
    #[value(alias = "enclave")]
    Enclaves,
    /// Members of an enclave
    #[value(alias = "member")]
    Members,
    /// Communities of an enclave, with their epochs
    #[value(alias = "community")]
    Communities,
    /// Join tokens of an enclave
    #[value(alias = "token")]
    Tokens,
    /// Principals of the tenant, or of the operator
    #[value(alias = "principal")]
    Principals,
    /// Tenants; for the server's operator
    #[value(alias = "tenant")]
    Tenants,
}

/// What has a row in a table.
pub(super) trait Row: Serialize {
    /// Heads of the columns.
    const HEAD: &'static [&'static str];

    /// What it is called for by.
    fn key(&self) -> &str;

    /// A cell for each head.
    fn cells(&self, now: UnixTime) -> Vec<Cell>;
}

pub(crate) fn run(arguments: &GetArguments) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let name = arguments.name.as_deref();
    let format = arguments.output;
    match arguments.kind {
        Kind::Enclaves => show(&remote.enclaves()?, name, format),
        Kind::Members => {
            let enclave = arguments.enclave.resolve(&remote)?;
            match name {
                None => show::<Member>(&remote.list(&enclave_path(&enclave, "/members"))?, None, format),
                Some(name) => {
                    let name = parse(name)?;
                    let member: Member = remote.get(&enclave_path(&enclave, &format!("/members/{name}")))?;
                    match format {
                        Format::Json => output::print_json(&member),
                        Format::Text => output::print(&member_text(&member, clock::now())),
                    }
                }
            }
        }
        Kind::Communities => {
            let enclave = arguments.enclave.resolve(&remote)?;
            show::<Community>(&remote.list(&enclave_path(&enclave, "/communities"))?, name, format)
        }
        Kind::Tokens => {
            let enclave = arguments.enclave.resolve(&remote)?;
            match name {
                None => show::<Token>(&remote.list(&enclave_path(&enclave, "/tokens"))?, None, format),
                Some(id) => super::token::show(&remote, &enclave, id, format),
            }
        }
        Kind::Principals => show::<Principal>(&remote.list("/v1/principals")?, name, format),
        Kind::Tenants => show::<Tenant>(&remote.list("/v1/tenants")?, name, format),
    }
}

fn parse(text: &str) -> anyhow::Result<Name> {
    Name::new(text).map_err(|error| Stop::because(Exit::Usage, format!("`{text}` is no name: {error}")))
}

/// Prints all of them, or the one that is called `name`.
pub(super) fn show<T: Row>(items: &[T], name: Option<&str>, format: Format) -> anyhow::Result<()> {
    let chosen: Vec<&T> = items
        .iter()
        .filter(|item| name.is_none_or(|name| item.key() == name))
        .collect();
    match (name, chosen.first()) {
        (Some(name), None) => {
            let known: Vec<&str> = items.iter().map(Row::key).take(20).collect();
            let message = format!("there is no `{name}`; there is {}", joined(&known));
            Err(Stop::because(Exit::Failed, message))
        }
        (Some(_), Some(one)) if format == Format::Json => output::print_json(one),
        (Some(_) | None, _) => match format {
            Format::Json => output::print_json(&chosen),
            Format::Text => output::print(&table(&chosen, clock::now(), Paint::stdout())),
        },
    }
}

fn table<T: Row>(items: &[&T], now: UnixTime, paint: Paint) -> String {
    let mut table = Table::new(T::HEAD);
    for item in items {
        table.cells(item.cells(now));
    }
    if table.is_empty() {
        return "none\n".to_owned();
    }
    table.render(paint)
}

impl Row for EnclaveSummary {
    const HEAD: &'static [&'static str] = &[
        "NAME",
        "VERSION",
        "MEMBERS",
        "ENROLLED",
        "CONNECTED",
        "COMMUNITIES",
        "MADE",
    ];

    fn key(&self) -> &str {
        self.name.as_str()
    }

    fn cells(&self, now: UnixTime) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            self.version.to_string().into(),
            self.members.to_string().into(),
            self.enrolled.to_string().into(),
            self.connected.to_string().into(),
            self.communities.to_string().into(),
            relative(Some(self.created), now).into(),
        ]
    }
}

impl Row for Member {
    const HEAD: &'static [&'static str] = &[
        "NAME",
        "STATE",
        "TEMPLATE",
        "ADDRESSES",
        "COMMUNITIES",
        "LEASE ENDS",
        "LAST SEEN",
    ];

    fn key(&self) -> &str {
        self.name.as_str()
    }

    fn cells(&self, now: UnixTime) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            state(self.state),
            self.template.as_str().into(),
            joined(&self.addresses).into(),
            joined(&self.communities).into(),
            relative(self.not_after, now).into(),
            relative(self.last_seen, now).into(),
        ]
    }
}

fn state(state: MemberState) -> Cell {
    match state {
        MemberState::Expected | MemberState::Enrolled => state.as_str().into(),
        MemberState::Connected => Cell::painted(state.as_str(), Paint::green),
        MemberState::Isolated => Cell::painted(state.as_str(), Paint::red),
    }
}

/// One member, all that is known of it.
fn member_text(member: &Member, now: UnixTime) -> String {
    let time = |time: Option<u64>| {
        time.map_or_else(
            || "never".to_owned(),
            |time| {
                let time = UnixTime(time);
                format!("{} ({})", clock::date(time), clock::relative(time, now))
            },
        )
    };
    let mut rows = vec![
        ("member", member.name.to_string()),
        ("state", member.state.as_str().to_owned()),
        ("template", member.template.to_string()),
        ("communities", joined(&member.communities)),
        ("addresses", joined(&member.addresses)),
        ("endpoints", joined(&member.endpoints)),
    ];
    if let Some(id) = &member.member_id {
        rows.extend([
            ("enrolment", id.clone()),
            ("fingerprint", member.fingerprint.clone().unwrap_or_default()),
            ("bundle", format!("serial {}", member.serial)),
            ("lease ends", time(member.not_after)),
            ("last seen", time(member.last_seen)),
        ]);
    }
    if let Some(since) = member.connected_since {
        rows.push(("connected", format!("since {}", time(Some(since)))));
    }
    if let Some(revision) = member.acknowledged_revision {
        rows.push(("acknowledged", format!("revision {revision}")));
    }
    if let Some(seconds) = member.ephemeral_ttl {
        let span = clock::span(std::time::Duration::from_secs(seconds));
        rows.push(("ephemeral", format!("ends {span} after it was last seen")));
    }
    if let Some(version) = &member.version {
        rows.push(("coteried", version.clone()));
    }
    rows.iter()
        .map(|(what, value)| format!("{what:<13} {value}").trim_end().to_owned() + "\n")
        .collect()
}

impl Row for Community {
    const HEAD: &'static [&'static str] = &["NAME", "PRIORITY", "MEMBERS", "EPOCH", "SINCE", "NEXT"];

    fn key(&self) -> &str {
        self.name.as_str()
    }

    fn cells(&self, now: UnixTime) -> Vec<Cell> {
        let next = self.next.map_or_else(String::new, |next| {
            format!("{} {}", next.epoch, clock::relative(UnixTime(next.activates), now))
        });
        vec![
            self.name.as_str().into(),
            self.priority.to_string().into(),
            self.members.to_string().into(),
            self.epoch.to_string().into(),
            relative(Some(self.activates), now).into(),
            next.into(),
        ]
    }
}

impl Row for Principal {
    const HEAD: &'static [&'static str] = &["NAME", "ROLE", "KEY", "MADE", "LAST USED", "ID"];

    fn key(&self) -> &str {
        self.name.as_str()
    }

    fn cells(&self, now: UnixTime) -> Vec<Cell> {
        let key = match (self.revoked, self.not_after) {
            (Some(_), _) => Cell::painted("revoked", Paint::red),
            (None, Some(end)) if end < now.0 => Cell::painted("expired", Paint::red),
            (None, Some(end)) => format!("ends {}", clock::relative(UnixTime(end), now)).into(),
            (None, None) => "good".into(),
        };
        vec![
            self.name.as_str().into(),
            self.role.as_str().into(),
            key,
            relative(Some(self.created), now).into(),
            relative(self.last_used, now).into(),
            self.id.as_str().into(),
        ]
    }
}

impl Row for Tenant {
    const HEAD: &'static [&'static str] = &["NAME", "ENCLAVES", "MADE", "ID"];

    fn key(&self) -> &str {
        self.name.as_str()
    }

    fn cells(&self, now: UnixTime) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            self.enclaves.to_string().into(),
            relative(Some(self.created), now).into(),
            self.id.as_str().into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member {
            name: Name::new("web-1").unwrap(),
            template: Name::new("web").unwrap(),
            communities: vec![Name::new("front").unwrap(), Name::new("web-app").unwrap()],
            addresses: vec!["10.77.1.1".parse().unwrap(), "fd77::1:1".parse().unwrap()],
            endpoints: vec!["192.0.2.1:4747".parse().unwrap()],
            state: MemberState::Connected,
            member_id: Some("00".repeat(16)),
            serial: 3,
            not_after: Some(1_000 + 3_600),
            connected_since: Some(900),
            last_seen: Some(998),
            acknowledged_revision: Some(12),
            ephemeral_ttl: Some(600),
            fingerprint: Some("AAAA-BBBB".to_owned()),
            version: Some("0.1.0".to_owned()),
        }
    }

    #[test]
    fn members_have_a_row_each() {
        let text = table(&[&member()], UnixTime(1_000), Paint::off());
        assert_eq!(
            text,
            "NAME   STATE      TEMPLATE  ADDRESSES             COMMUNITIES     LEASE ENDS  LAST SEEN\n\
             web-1  connected  web       10.77.1.1, fd77::1:1  front, web-app  in 60 min   2 s ago\n"
        );
        assert_eq!(table::<Member>(&[], UnixTime(1_000), Paint::off()), "none\n");
    }

    #[test]
    fn one_member_has_all_that_is_known() {
        let text = member_text(&member(), UnixTime(1_000));
        for expected in [
            "state         connected\n",
            "bundle        serial 3\n",
            "lease ends    1970-01-01T01:16:40Z (in 60 min)\n",
            "ephemeral     ends 10 min after it was last seen\n",
            "fingerprint   AAAA-BBBB\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let unknown = Member {
            member_id: None,
            not_after: None,
            ..member()
        };
        assert!(!member_text(&unknown, UnixTime(1_000)).contains("lease"));
    }

    #[test]
    fn keys_that_are_over_are_seen_to_be() {
        let principal = |revoked, not_after| Principal {
            id: "00".to_owned(),
            name: Name::new("a").unwrap(),
            role: coterie_api::v1::Role::Admin,
            created: 1,
            not_after,
            revoked,
            last_used: None,
        };
        let text = |principal: &Principal| table(&[principal], UnixTime(1_000), Paint::off());
        assert!(text(&principal(Some(5), None)).contains("revoked"));
        assert!(text(&principal(None, Some(999))).contains("expired"));
        assert!(text(&principal(None, Some(1_060))).contains("ends in 60 s"));
        assert!(text(&principal(None, None)).contains("good"));
    }
}
