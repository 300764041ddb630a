//! The enclave files of the demo: `examples/three-tier.toml` with the lab's addresses and with web machines that are doors, and
//! the same file after an administrator has changed his mind.

use anyhow::{Context as _, bail};

/// The example that people read.
const EXAMPLE: &str = include_str!("../../../../examples/three-tier.toml");

/// Members with the endpoints that they have in the lab: most by IPv4, some by IPv6.
const ENDPOINTS: [(&str, &str); 7] = [
    ("192.0.2.11", r#""192.0.2.11", "2001:db8::11""#),
    ("192.0.2.12", r#""2001:db8::12", "192.0.2.12""#),
    ("192.0.2.21", r#""192.0.2.21", "2001:db8::21""#),
    ("192.0.2.22", r#""192.0.2.22", "2001:db8::22""#),
    ("192.0.2.23", r#""2001:db8::23""#),
    ("192.0.2.31", r#""192.0.2.31", "2001:db8::31""#),
    ("192.0.2.32", r#""2001:db8::32""#),
];

/// What the administrator wants of `app-1` and `db-1`, which share two communities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The example: `app-db` has the better priority.
    Example,
    /// `admin` has the better priority.
    Priority,
    /// Both have the same priority, and fewer members hold `admin`.
    Members,
    /// `app-1` does not want `app-3` to hear it, which holds `app-db`.
    Exclusion,
}

impl Policy {
    /// The community that `app-1` is to use towards `db-1`, and a word of the verdict on the other one.
    pub(super) fn expected(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Example => ("app-db", "admin", "priority"),
            Self::Priority => ("admin", "app-db", "priority"),
            Self::Members => ("admin", "app-db", "fewer members"),
            Self::Exclusion => ("admin", "app-db", "app-3"),
        }
    }

    /// What it is about.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Example => "as before again",
            Self::Priority => "priority changed",
            Self::Members => "equal priority, number of members changed",
            Self::Exclusion => "app-3 excluded",
        }
    }

    /// The enclave file.
    pub(super) fn text(self) -> anyhow::Result<String> {
        let mut text = EXAMPLE.to_owned();
        for (address, endpoints) in ENDPOINTS {
            replace(
                &mut text,
                &format!("endpoints = [\"{address}\"]"),
                &format!("endpoints = [{endpoints}]"),
            )?;
        }
        let web = "description = \"Stateless front ends\"\n";
        replace(&mut text, web, &format!("{web}door = true\n"))?;
        let queries = "[community.app-db]\ndescription = \"Queries from app to db\"\npriority = 10";
        let administration = "priority = 200";
        let template = "communities = [\"web-app\", \"app-db\", \"admin\"]";
        let without_admin = "communities = [\"web-app\", \"app-db\"]";
        let test = "from = \"app-*\"\nto = \"db-*:5432/tcp\"\nvia = \"app-db\"";
        match self {
            Self::Example => {}
            Self::Priority => {
                replace(&mut text, queries, &queries.replace("10", "250"))?;
                replace(&mut text, test, &test.replace("app-db", "admin"))?;
            }
            Self::Members => {
                replace(&mut text, administration, "priority = 10")?;
                replace(&mut text, template, without_admin)?;
                replace(&mut text, "[member.app-1]", "[member.app-1]\ncommunities = [\"admin\"]")?;
                replace(
                    &mut text,
                    test,
                    &test.replace("app-*", "app-1").replace("app-db", "admin"),
                )?;
            }
            Self::Exclusion => {
                replace(&mut text, template, without_admin)?;
                let member = "[member.app-1]\ncommunities = [\"admin\"]\nexclude = [\"app-3\"]";
                replace(&mut text, "[member.app-1]", member)?;
                replace(&mut text, "[member.app-2]", "[member.app-2]\ncommunities = [\"admin\"]")?;
                replace(
                    &mut text,
                    test,
                    &test.replace("app-*", "app-1").replace("app-db", "admin"),
                )?;
            }
        }
        Ok(text)
    }
}

/// Replaces what stands once in the text.
fn replace(text: &mut String, old: &str, new: &str) -> anyhow::Result<()> {
    let at = text
        .find(old)
        .with_context(|| format!("the example has no `{old}` any more"))?;
    if text[at + old.len()..].contains(old) {
        bail!("the example has `{old}` twice");
    }
    text.replace_range(at..at + old.len(), new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use coterie_model::Name;

    use super::*;

    #[test]
    fn each_policy_is_a_good_file_that_chooses_what_it_says() {
        for policy in [Policy::Example, Policy::Priority, Policy::Members, Policy::Exclusion] {
            let file =
                coterie_control::file::parse(&policy.text().unwrap()).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(file.warnings.is_empty(), "{}", file.warnings);
            let (app, db) = (Name::new("app-1").unwrap(), Name::new("db-1").unwrap());
            let explanation = file.explain(&app, &db).unwrap();
            let (chosen, other, why) = policy.expected();
            assert_eq!(explanation.chosen.unwrap().as_str(), chosen, "{policy:?}");
            let verdict = explanation
                .shared
                .iter()
                .find(|c| c.community.as_str() == other)
                .unwrap();
            assert!(
                verdict.verdict.to_string().contains(why),
                "{policy:?}: {}",
                verdict.verdict
            );
        }
    }
}
