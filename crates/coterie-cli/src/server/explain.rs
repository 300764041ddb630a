//! `coterie explain` with a server: what policy says, and what both ends have installed, side by side.

use coterie_api::v1::{Explained, Installed, Verdict};
use coterie_model::{Name, choose};

use super::{EnclaveArgument, Remote, remote::enclave_path};
use crate::{
    exit::{Exit, Stop},
    output::{self, Format, Paint},
    table::{Cell, Table},
};

/// Asks the server, and prints what it says; ends as prohibited where policy says no.
pub(crate) fn run(from: &Name, to: &Name, enclave: &EnclaveArgument, format: Format) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let enclave = enclave.resolve(&remote)?;
    let explained: Explained = remote.get(&enclave_path(&enclave, &format!("/explain?from={from}&to={to}")))?;
    match format {
        Format::Json => output::print_json(&explained)?,
        Format::Text => output::print(&drawn(&explained, Paint::stdout()))?,
    }
    if explained.policy.chosen.is_some() {
        Ok(())
    } else {
        Err(Stop::said(Exit::Prohibited))
    }
}

fn drawn(explained: &Explained, paint: Paint) -> String {
    let policy = &explained.policy;
    let (from, to) = (&policy.from, &policy.to);
    let mut text = match &policy.chosen {
        Some(chosen) => format!("{} {from} reaches {to} by community {chosen}\n", paint.green("yes")),
        None if policy.shared.is_empty() => {
            format!("{} {from} and {to} share no community\n", paint.red("no"))
        }
        None => format!("{} {from} does not reach {to}\n", paint.red("no")),
    };
    let mut table = Table::new(&[
        "COMMUNITY",
        "PRIORITY",
        "MEMBERS",
        "POLICY",
        "SENDER HAS",
        "RECEIVER HAS",
    ]);
    for considered in &policy.shared {
        let verdict = choose::Verdict::from(considered.verdict.clone()).to_string();
        table.row([
            considered.community.as_str().into(),
            considered.priority.to_string().into(),
            considered.members.to_string().into(),
            if considered.verdict == Verdict::Chosen {
                Cell::painted(verdict, Paint::green)
            } else {
                verdict.into()
            },
            installed(&explained.from, &considered.community).into(),
            installed(&explained.to, &considered.community).into(),
        ]);
    }
    if !table.is_empty() {
        text.push_str(&table.render(paint));
    }
    for (whose, name, side) in [("sender", from, &explained.from), ("receiver", to, &explained.to)] {
        match side {
            Installed::Told(explanation) => {
                if let Some(reason) = &explanation.refused {
                    text.push_str(&format!("{whose} {name} sends nothing: {reason}\n"));
                } else if explanation.installed.is_none() {
                    text.push_str(&format!(
                        "{whose} {name} has no session with it now; the first packet makes one\n"
                    ));
                }
            }
            Installed::Untold(failure) => {
                text.push_str(&format!(
                    "{whose} {name} does not say: {}; {}\n",
                    failure.message, failure.remedy
                ));
            }
        }
    }
    if let Some(difference) = difference(explained) {
        text.push_str(&paint.yellow(&difference));
        text.push('\n');
    }
    text
}

/// What a node has of one community.
fn installed(side: &Installed, community: &Name) -> &'static str {
    match side {
        Installed::Told(explanation) if explanation.installed.as_ref() == Some(community) => "live session",
        Installed::Told(explanation) if explanation.chosen.as_ref() == Some(community) => "would choose it",
        Installed::Told(explanation) if explanation.candidates.iter().any(|c| c.community == *community) => "its key",
        Installed::Told(_) => "nothing",
        Installed::Untold(_) => "?",
    }
}

/// Where the sender does not follow the policy yet.
fn difference(explained: &Explained) -> Option<String> {
    let Installed::Told(sender) = &explained.from else {
        return None;
    };
    if sender.chosen == explained.policy.chosen {
        return None;
    }
    let word = |choice: &Option<Name>| choice.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    Some(format!(
        "the policy chooses {}, the sender {}: it has not got the newest bundle yet",
        word(&explained.policy.chosen),
        word(&sender.chosen)
    ))
}

#[cfg(test)]
mod tests {
    use coterie_api::node::{Candidate, Explanation, Failure};
    use coterie_api::v1::{Considered, Policy};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn explained(sender_chooses: Option<&str>) -> Explained {
        let considered = |community: &str, verdict| Considered {
            community: name(community),
            priority: 10,
            members: 2,
            verdict,
        };
        let candidate = |community: &str| Candidate {
            community: name(community),
            priority: 10,
            holders: 2,
            verdict: "chosen".to_owned(),
        };
        Explained {
            policy: Policy {
                from: name("web-1"),
                to: name("app-1"),
                chosen: Some(name("web-app")),
                shared: vec![
                    considered("web-app", Verdict::Chosen),
                    considered("wide", Verdict::MoreHolders),
                ],
                from_communities: vec![],
                to_communities: vec![],
            },
            from: Installed::Told(Explanation {
                destination: "10.77.2.1".parse().unwrap(),
                member: Some(name("app-1")),
                candidates: vec![candidate("web-app"), candidate("wide")],
                chosen: sender_chooses.map(name),
                installed: sender_chooses.map(name),
                refused: None,
            }),
            to: Installed::Untold(Failure {
                code: "not-connected".to_owned(),
                message: "it does not follow the server".to_owned(),
                remedy: "look at it".to_owned(),
            }),
        }
    }

    #[test]
    fn policy_and_both_ends_are_side_by_side() {
        let text = drawn(&explained(Some("web-app")), Paint::off());
        assert_eq!(
            text,
            "yes web-1 reaches app-1 by community web-app\n\
             COMMUNITY  PRIORITY  MEMBERS  POLICY                                                      SENDER HAS    RECEIVER HAS\n\
             web-app    10        2        chosen                                                      live session  ?\n\
             wide       10        2        not chosen: another of the same priority has fewer members  its key       ?\n\
             receiver app-1 does not say: it does not follow the server; look at it\n"
        );
    }

    #[test]
    fn a_sender_that_is_behind_is_seen_to_be() {
        let text = drawn(&explained(Some("wide")), Paint::off());
        assert!(text.contains("the policy chooses web-app, the sender wide"), "{text}");
        let mut apart = explained(None);
        apart.policy.chosen = None;
        apart.policy.shared.clear();
        let text = drawn(&apart, Paint::off());
        assert!(text.starts_with("no web-1 and app-1 share no community\n"), "{text}");
        assert!(!text.contains("COMMUNITY"), "{text}");
    }
}
