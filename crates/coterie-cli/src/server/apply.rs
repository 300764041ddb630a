//! `coterie apply` and `coterie diff`: what an enclave file would change, and changing it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use coterie_api::remote::RemoteError;
use coterie_api::v1::{self, Applied, ReachChange, problem::code};
use coterie_control::file::{self, EnclaveFile};
use coterie_model::Name;
use http::{Method, header};
use serde_json::Value;

use super::{
    Remote, ask,
    remote::{Carried, condition, enclave_path},
};
use crate::{
    enclave,
    exit::{Exit, Stop},
    output::{self, Format, Paint, count},
};

/// Most lines of a group that people are shown.
const MAX_LINES: usize = 40;

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// The enclave file
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Do not ask before it is applied
    #[arg(long, short)]
    yes: bool,
    /// Say what would change, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  the enclave is as the file says\n  1  it is not\n  2  wrong usage, or it could not \
                        be found out\n  3  no server answers"
)]
pub(crate) struct DiffArguments {
    /// The enclave file
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// A file, and what it would change.
struct Plan {
    remote: Remote,
    name: Name,
    text: String,
    applied: Applied,
    /// Settings, by their key, with the value before and after.
    settings: BTreeMap<String, [Option<String>; 2]>,
}

pub(crate) fn apply(arguments: &ApplyArguments) -> anyhow::Result<()> {
    let plan = Plan::make(&arguments.file)?;
    if arguments.dry_run || !plan.applied.changed {
        return plan.print(arguments.output);
    }
    if arguments.output == Format::Text {
        plan.print(Format::Text)?;
    }
    if !arguments.yes {
        let question = if plan.applied.created { "Make it?" } else { "Apply it?" };
        ask(question, "say --yes to apply, or --dry-run to look")?;
    }
    let applied = plan.put()?;
    match arguments.output {
        Format::Json => output::print_json(&applied),
        Format::Text => output::print(&done(&plan.name, &applied)),
    }
}

pub(crate) fn diff(arguments: &DiffArguments) -> anyhow::Result<()> {
    let compared = Plan::make(&arguments.file).and_then(|plan| {
        plan.print(arguments.output)?;
        Ok(plan.applied.changed)
    });
    match compared {
        Ok(false) => Ok(()),
        Ok(true) => Err(Stop::said(Exit::Differs)),
        // Of the two meanings that a 1 could have here, one has to be another number.
        Err(error) => match crate::exit::exit_of(&error) {
            Exit::Failed => Err(error.context(Stop::new(Exit::NotCompared))),
            Exit::Done
            | Exit::Differs
            | Exit::NotCompared
            | Exit::Usage
            | Exit::NotReachable
            | Exit::Prohibited
            | Exit::Timeout => Err(error),
        },
    }
}

impl Plan {
    /// Reads the file, checks it here, and asks the server what it would change.
    fn make(path: &std::path::Path) -> anyhow::Result<Self> {
        let (text, parsed) = enclave::read(path)?;
        let remote = Remote::connect()?;
        let name = parsed.enclave.name.clone();
        let carried = Carried {
            headers: condition(header::CONTENT_TYPE, v1::FILE_TYPE)?,
            body: text.clone().into(),
        };
        let path = enclave_path(&name, "?dry_run=true");
        let applied: Applied = remote.call(Method::PUT, &path, carried)?;
        let before = if applied.created {
            None
        } else {
            // A server may take files that this program does not; then settings are not compared.
            file::parse(&remote.get_text(&enclave_path(&name, "/file"))?).ok()
        };
        let settings = before.map_or_else(BTreeMap::new, |before| settings(&before, &parsed));
        Ok(Self {
            remote,
            name,
            text,
            applied,
            settings,
        })
    }

    fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => output::print_json(&self.applied),
            Format::Text => {
                let text = drawn(&self.name, &self.applied, &self.settings, Paint::stdout());
                output::print(&text)
            }
        }
    }

    /// Has it done, if nothing has changed since it was asked for.
    fn put(&self) -> anyhow::Result<Applied> {
        let mut headers = if self.applied.created {
            condition(header::IF_NONE_MATCH, "*")?
        } else {
            condition(header::IF_MATCH, &format!("\"{}\"", self.applied.version))?
        };
        headers.extend(condition(header::CONTENT_TYPE, v1::FILE_TYPE)?);
        let carried = Carried {
            headers,
            body: self.text.clone().into(),
        };
        let applied = self.remote.call(Method::PUT, &enclave_path(&self.name, ""), carried);
        applied.map_err(|error| match error.downcast_ref::<RemoteError>() {
            Some(refused) if refused.code() == Some(code::CHANGED) => {
                let message = format!(
                    "enclave {} was changed by somebody else in the meantime; nothing was applied; look at the difference again",
                    self.name
                );
                Stop::because(Exit::Failed, message)
            }
            Some(_) | None => error,
        })
    }
}

fn done(name: &Name, applied: &Applied) -> String {
    let verb = if applied.created { "made" } else { "changed" };
    format!(
        "{verb} enclave {name}, version {}; {} passed",
        applied.version,
        count(usize::try_from(applied.tests_passed).unwrap_or(usize::MAX), "test")
    )
}

/// What changes: who reaches whom first.
fn drawn(name: &Name, applied: &Applied, settings: &BTreeMap<String, [Option<String>; 2]>, paint: Paint) -> String {
    if !applied.changed {
        return format!("enclave {name} is as the file says, version {}\n", applied.version);
    }
    let mut text = if applied.created {
        format!("enclave {name} is new\n")
    } else {
        format!("enclave {name}, version {}, would change\n", applied.version)
    };
    let (lines, left_out) = reach(applied, paint);
    group(&mut text, "who reaches whom", &lines, left_out);
    let names = |sign: &str, colour: fn(Paint, &str) -> String, names: &[Name], why: &str| -> Vec<String> {
        names
            .iter()
            .map(|name| colour(paint, &format!("{sign} {name}{why}")))
            .collect()
    };
    let communities = [
        names("+", Paint::green, &applied.communities_added, ""),
        names("-", Paint::red, &applied.communities_removed, ""),
        names("~", Paint::yellow, &applied.communities_rolled, ": a new key"),
    ];
    group(&mut text, "communities", &communities.concat(), 0);
    let members = [
        names("+", Paint::green, &applied.members_added, ""),
        names(
            "-",
            Paint::red,
            &applied.members_revoked,
            ": no member any more, its keys refused",
        ),
    ];
    group(&mut text, "members", &members.concat(), 0);
    let settings: Vec<String> = settings
        .iter()
        .map(|(key, [before, after])| match (before, after) {
            (Some(before), Some(after)) => paint.yellow(&format!("~ {key}: {before} -> {after}")),
            (None, Some(after)) => paint.green(&format!("+ {key}: {after}")),
            (Some(before), None) => paint.red(&format!("- {key}: {before}")),
            (None, None) => String::new(),
        })
        .collect();
    group(&mut text, "settings", &settings, 0);
    let _ = writeln!(
        text,
        "{} passed",
        count(usize::try_from(applied.tests_passed).unwrap_or(usize::MAX), "test")
    );
    text
}

fn group(text: &mut String, title: &str, lines: &[String], further: usize) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    for line in lines.iter().take(MAX_LINES) {
        let _ = writeln!(text, "  {line}");
    }
    let left_out = lines.len().saturating_sub(MAX_LINES) + further;
    if left_out > 0 {
        let _ = writeln!(text, "  and {left_out} more; -o json has them");
    }
}

/// Lines for who reaches whom, and how many pairs the server left out. Both ways of a pair are one line where they change
/// alike.
fn reach(applied: &Applied, paint: Paint) -> (Vec<String>, usize) {
    let by_pair: BTreeMap<(&Name, &Name), &ReachChange> = applied
        .reach
        .iter()
        .map(|change| ((&change.from, &change.to), change))
        .collect();
    let mut lines = Vec::new();
    for ((from, to), change) in &by_pair {
        let back = by_pair.get(&(*to, *from));
        let alike = back.is_some_and(|back| back.before == change.before && back.after == change.after);
        if alike && from > to {
            continue;
        }
        let arrow = if alike { "<->" } else { "->" };
        let pair = format!("{from} {arrow} {to}");
        lines.push(match (&change.before, &change.after) {
            (None, Some(after)) => paint.green(&format!("+ {pair} by {after}")),
            (Some(before), None) => paint.red(&format!("- {pair}, until now by {before}")),
            (Some(before), Some(after)) => paint.yellow(&format!("~ {pair} by {after}, until now by {before}")),
            (None, None) => continue,
        });
    }
    let total = usize::try_from(applied.reach_total).unwrap_or(usize::MAX);
    (lines, total.saturating_sub(applied.reach.len()))
}

/// Keys of the file whose values differ, but for communities and members that come and go as a whole.
fn settings(before: &EnclaveFile, after: &EnclaveFile) -> BTreeMap<String, [Option<String>; 2]> {
    let mut found: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for (side, file) in [before, after].into_iter().enumerate() {
        let mut leaves = BTreeMap::new();
        flatten("", &serde_json::to_value(file).unwrap_or_default(), &mut leaves);
        for (key, value) in leaves {
            if let Some(place) = found.entry(key).or_default().get_mut(side) {
                *place = Some(value);
            }
        }
    }
    let comes_or_goes = |key: &str| {
        let mut parts = key.split('.');
        let (kind, name) = (parts.next(), parts.next().and_then(|name| Name::new(name).ok()));
        match (kind, name) {
            (Some("community"), Some(name)) => {
                before.communities.contains_key(&name) != after.communities.contains_key(&name)
            }
            (Some("member"), Some(name)) => before.members.contains_key(&name) != after.members.contains_key(&name),
            _ => false,
        }
    };
    found.retain(|key, [before, after]| before != after && !comes_or_goes(key));
    found
}

/// Values by their keys; a list is one value, as a person reads it.
fn flatten(key: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                flatten(&key, value, into);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (at, value) in items.iter().enumerate() {
                flatten(&format!("{key}[{at}]"), value, into);
            }
        }
        Value::String(text) => {
            into.insert(key.to_owned(), text.clone());
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            into.insert(key.to_owned(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn applied() -> Applied {
        Applied {
            version: 7,
            dry_run: true,
            created: false,
            changed: true,
            communities_added: vec![name("new")],
            communities_removed: vec![],
            communities_rolled: vec![name("data")],
            members_added: vec![],
            members_revoked: vec![name("web-9")],
            reach: vec![],
            reach_total: 0,
            tests_passed: 1,
        }
    }

    fn change(from: &str, to: &str, before: Option<&str>, after: Option<&str>) -> ReachChange {
        ReachChange {
            from: name(from),
            to: name(to),
            before: before.map(name),
            after: after.map(name),
        }
    }

    #[test]
    fn who_reaches_whom_comes_first_and_both_ways_in_one_line() {
        let mut applied = applied();
        applied.reach = vec![
            change("a", "b", None, Some("x")),
            change("b", "a", None, Some("x")),
            change("a", "c", Some("x"), None),
            change("c", "a", Some("y"), None),
            change("d", "e", Some("x"), Some("y")),
        ];
        applied.reach_total = 9;
        let text = drawn(&name("shop"), &applied, &BTreeMap::new(), Paint::off());
        assert_eq!(
            text,
            "enclave shop, version 7, would change\n\
             \n\
             who reaches whom:\n  \
               + a <-> b by x\n  \
               - a -> c, until now by x\n  \
               - c -> a, until now by y\n  \
               ~ d -> e by y, until now by x\n  \
               and 4 more; -o json has them\n\
             \n\
             communities:\n  \
               + new\n  \
               ~ data: a new key\n\
             \n\
             members:\n  \
               - web-9: no member any more, its keys refused\n\
             1 test passed\n"
        );
    }

    #[test]
    fn long_groups_are_cut() {
        let mut applied = applied();
        applied.members_added = (0..100).map(|n| name(&format!("m{n}"))).collect();
        let text = drawn(&name("shop"), &applied, &BTreeMap::new(), Paint::off());
        assert!(text.contains("and 61 more"), "{text}");
    }

    #[test]
    fn nothing_to_do_is_said() {
        let applied = Applied {
            changed: false,
            ..applied()
        };
        let text = drawn(&name("shop"), &applied, &BTreeMap::new(), Paint::off());
        assert_eq!(text, "enclave shop is as the file says, version 7\n");
    }

    #[test]
    fn settings_that_differ_are_named_by_their_keys() {
        let file = |lease: &str, members: &str| {
            let text = format!(
                "version = 1\n[enclave]\nname = \"shop\"\npools = [\"10.77.0.0/16\"]\nlease = \"{lease}\"\n[community.web]\npriority = 1\n\
                 [template.t]\ncommunities = [\"web\"]\n{members}"
            );
            file::parse(&text).unwrap()
        };
        let before = file(
            "1h",
            "[member.a]\ntemplate = \"t\"\n[member.b]\ntemplate = \"t\"\naddresses = [\"10.77.9.1\"]\n",
        );
        let after = file(
            "2h",
            "[member.b]\ntemplate = \"t\"\naddresses = [\"10.77.9.2\"]\n[member.c]\ntemplate = \"t\"\n",
        );
        let found = settings(&before, &after);
        let expected = [
            ("enclave.lease", ["1h", "2h"]),
            ("member.b.addresses", ["[\"10.77.9.1\"]", "[\"10.77.9.2\"]"]),
        ];
        let expected = expected.map(|(key, values)| (key.to_owned(), values.map(|value| Some(value.to_owned()))));
        assert_eq!(found, BTreeMap::from(expected));
        assert!(settings(&before, &before).is_empty());
    }
}
