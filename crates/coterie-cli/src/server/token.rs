//! `coterie token`: what lets machines ask to become members.

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use coterie_api::v1::{NewToken, Token, TokenMade};
use coterie_model::{Name, UnixTime};
use ipnet::IpNet;

use super::{
    EnclaveArgument, Remote,
    get::{self, Row},
    relative,
    remote::enclave_path,
};
use crate::{
    clock,
    exit::{Exit, Stop},
    output::{self, Format, Paint},
    table::Cell,
};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it; it is shown this once
    Create(CreateArguments),
    /// List tokens
    List {
        #[command(flatten)]
        enclave: EnclaveArgument,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// End a token: nobody can use it any more; whom it made stays
    Revoke {
        /// Ids, as `coterie token list` prints them; the first digits are enough
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        enclave: EnclaveArgument,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The template of the members that it makes
    #[arg(long, short, value_parser = Name::new)]
    template: Name,
    /// The one name that its member may have: the machine's host name, unless `coteried --name` says another; without it the
    /// machine may say any
    #[arg(long, short, value_parser = Name::new, conflicts_with = "uses")]
    name: Option<Name>,
    /// How many members it makes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it can be used
    #[arg(long, value_name = "SPAN", default_value = "30m", value_parser = clock::parse_lasting_span)]
    ttl: Duration,
    /// Its members end when they were not seen for so long
    #[arg(long, value_name = "SPAN", num_args = 0..=1, require_equals = true, default_missing_value = "10m")]
    #[arg(value_parser = clock::parse_lasting_span)]
    ephemeral: Option<Duration>,
    /// Where it can be used from, such as 192.0.2.0/24 or 192.0.2.7
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    from: Option<IpNet>,
    #[command(flatten)]
    enclave: EnclaveArgument,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(arguments) => create(arguments),
        TokenCommand::List { enclave, output } => {
            let remote = Remote::connect()?;
            let enclave = enclave.resolve(&remote)?;
            get::show(&tokens(&remote, &enclave)?, None, *output)
        }
        TokenCommand::Revoke { ids, enclave } => revoke(ids, enclave),
    }
}

fn create(arguments: &CreateArguments) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let enclave = arguments.enclave.resolve(&remote)?;
    let request = NewToken {
        template: arguments.template.clone(),
        member: arguments.name.clone(),
        uses: arguments.uses,
        ttl_seconds: arguments.ttl.as_secs(),
        ephemeral_seconds: arguments.ephemeral.map(|span| span.as_secs()),
        from: arguments.from.map(|network| network.trunc().to_string()),
    };
    let made: TokenMade = remote.post(&enclave_path(&enclave, "/tokens"), &request)?;
    if arguments.output == Format::Json {
        return output::print_json(&made);
    }
    output::print(made.text.expose())?;
    if std::io::stdout().is_terminal() {
        eprintln!("{}", told(&made, &request, clock::now()));
    }
    Ok(())
}

/// A network, or an address, which is a network of one.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let fault =
        || format!("`{text}` is no network; write an address, or one with the length of its prefix: 192.0.2.0/24");
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => text.parse().map_err(|_| fault()),
    }
}

fn told(made: &TokenMade, request: &NewToken, now: UnixTime) -> String {
    let whom = match &request.member {
        Some(member) => format!("member {member}"),
        None => output::count(usize::try_from(request.uses).unwrap_or(usize::MAX), "member"),
    };
    format!(
        "token {} makes {whom} of template {}, ends {}; it is not shown again",
        made.id,
        request.template,
        clock::relative(UnixTime(made.not_after), now)
    )
}

fn tokens(remote: &Remote, enclave: &Name) -> anyhow::Result<Vec<Token>> {
    remote.list(&enclave_path(enclave, "/tokens"))
}

/// Prints one token with its uses.
pub(super) fn show(remote: &Remote, enclave: &Name, id: &str, format: Format) -> anyhow::Result<()> {
    let id = find(&tokens(remote, enclave)?, id)?;
    let token: Token = remote.get(&enclave_path(enclave, &format!("/tokens/{id}")))?;
    match format {
        Format::Json => output::print_json(&token),
        Format::Text => output::print(&text(&token, clock::now())),
    }
}

fn text(token: &Token, now: UnixTime) -> String {
    let mut rows = vec![
        ("token", token.id.clone()),
        ("template", token.template.to_string()),
        ("uses", format!("{} of {}", token.uses_made, token.uses_allowed)),
        ("state", state(token, now).to_owned()),
        (
            "ends",
            format!(
                "{} ({})",
                clock::date(UnixTime(token.not_after)),
                relative(Some(token.not_after), now)
            ),
        ),
        (
            "made",
            format!("{} by {}", relative(Some(token.created), now), token.made_by),
        ),
    ];
    if let Some(member) = &token.member {
        rows.push(("for member", member.to_string()));
    }
    if let Some(from) = &token.from {
        rows.push(("from", from.clone()));
    }
    if let Some(seconds) = token.ephemeral_seconds {
        let span = clock::span(Duration::from_secs(seconds));
        rows.push(("ephemeral", format!("its members end {span} after they were last seen")));
    }
    for used in &token.uses {
        let member = used
            .member
            .as_ref()
            .map_or_else(|| format!("{} (gone)", used.member_id), ToString::to_string);
        rows.push((
            "used",
            format!("{} by {member} from {}", relative(Some(used.time), now), used.source),
        ));
    }
    rows.iter()
        .map(|(what, value)| format!("{what:<11} {value}\n"))
        .collect()
}

fn revoke(ids: &[String], enclave: &EnclaveArgument) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let enclave = enclave.resolve(&remote)?;
    let known = tokens(&remote, &enclave)?;
    let ids: Vec<String> = ids.iter().map(|id| find(&known, id)).collect::<anyhow::Result<_>>()?;
    for id in ids {
        remote.delete(&enclave_path(&enclave, &format!("/tokens/{id}")))?;
        output::print(&format!("token {id} is revoked"))?;
    }
    Ok(())
}

/// The one token whose id begins so.
fn find(tokens: &[Token], start: &str) -> anyhow::Result<String> {
    let start = start.to_lowercase();
    let mut found = tokens.iter().filter(|token| token.id.starts_with(&start));
    let message = match (found.next(), found.next()) {
        (Some(token), None) if !start.is_empty() => return Ok(token.id.clone()),
        (Some(_), _) => format!("several tokens begin with `{start}`; write more of the id"),
        (None, _) => format!("no token begins with `{start}`; `coterie token list` names them"),
    };
    Err(Stop::because(Exit::Failed, message))
}

fn state(token: &Token, now: UnixTime) -> &'static str {
    if token.revoked.is_some() {
        "revoked"
    } else if token.uses_made >= token.uses_allowed {
        "spent"
    } else if token.not_after < now.0 {
        "expired"
    } else {
        "good"
    }
}

impl Row for Token {
    const HEAD: &'static [&'static str] = &["ID", "TEMPLATE", "MEMBER", "USES", "STATE", "ENDS", "FROM", "MADE BY"];

    fn key(&self) -> &str {
        &self.id
    }

    fn cells(&self, now: UnixTime) -> Vec<Cell> {
        let state = state(self, now);
        let member = self.member.as_ref().map_or_else(String::new, ToString::to_string);
        vec![
            self.id.as_str().into(),
            self.template.as_str().into(),
            member.into(),
            format!("{}/{}", self.uses_made, self.uses_allowed).into(),
            if state == "good" {
                Cell::painted(state, Paint::green)
            } else {
                state.into()
            },
            relative(Some(self.not_after), now).into(),
            self.from.clone().unwrap_or_default().into(),
            self.made_by.as_str().into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use coterie_api::v1::TokenUse;

    use super::*;

    fn token(id: &str) -> Token {
        Token {
            id: id.to_owned(),
            template: Name::new("web").unwrap(),
            member: None,
            uses_allowed: 2,
            uses_made: 1,
            not_after: 2_000,
            from: Some("192.0.2.0/24".to_owned()),
            ephemeral_seconds: Some(600),
            made_by: "ada".to_owned(),
            created: 900,
            revoked: None,
            uses: vec![TokenUse {
                member: Some(Name::new("web-1").unwrap()),
                member_id: "11".repeat(16),
                time: 940,
                source: "192.0.2.7".parse().unwrap(),
            }],
        }
    }

    #[test]
    fn the_first_digits_of_an_id_are_enough() {
        let tokens = [token("ab01"), token("ab02"), token("cd03")];
        assert_eq!(find(&tokens, "CD").unwrap(), "cd03");
        assert_eq!(find(&tokens, "ab02").unwrap(), "ab02");
        for bad in ["", "ab", "ff"] {
            assert!(find(&tokens, bad).is_err(), "{bad}");
        }
        assert!(find(&tokens[..1], "").is_err(), "nothing is no id");
    }

    #[test]
    fn where_a_token_is_used_from_may_be_one_address() {
        for (text, expected) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("fd00::1", "fd00::1/128"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), expected);
        }
        for bad in ["", "nonsense", "192.0.2.0/33"] {
            assert!(parse_network(bad).unwrap_err().contains("192.0.2.0/24"), "{bad}");
        }
    }

    #[test]
    fn a_token_says_what_it_is_and_who_used_it() {
        let text = text(&token("ab01"), UnixTime(1_000));
        for expected in [
            "uses        1 of 2\n",
            "state       good\n",
            "from        192.0.2.0/24\n",
            "used        60 s ago by web-1 from 192.0.2.7\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn why_a_token_is_good_no_more_is_told_apart() {
        let mut spent = token("a");
        spent.uses_made = 2;
        let mut revoked = spent.clone();
        revoked.revoked = Some(1);
        assert_eq!(state(&spent, UnixTime(1_000)), "spent");
        assert_eq!(state(&revoked, UnixTime(1_000)), "revoked");
        assert_eq!(state(&token("a"), UnixTime(2_001)), "expired");
        assert_eq!(state(&token("a"), UnixTime(2_000)), "good");
    }
}
