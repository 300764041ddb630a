//! The enclave file as a value: what an administrator changes before it is written out and handed to the server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::action::Edit;

/// An enclave file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The membership lease.
    pub lease: Duration,
    /// Communities, with their priorities.
    pub communities: BTreeMap<String, u16>,
    /// Templates.
    pub templates: BTreeMap<String, Template>,
    /// Members that the file names.
    pub members: BTreeMap<String, Seat>,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// What its members hold.
    pub communities: BTreeSet<String>,
    /// Whether a ticket lets its members back in.
    pub ticket: bool,
    /// Whether its members let visitors in.
    pub door: bool,
    /// Whether its members may move while sessions live.
    pub roaming: bool,
}

/// A member that the file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// What it is made from.
    pub template: String,
    /// What it holds beside what its template says.
    pub communities: BTreeSet<String>,
    /// Where it is.
    pub endpoint: SocketAddr,
}

impl Site {
    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _written = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let lease = self.lease.as_secs();
        let pools = r#"["10.77.0.0/24", "fd77::/64"]"#;
        writeln!(
            out,
            "version = 1\n[enclave]\nname = \"shop\"\npools = {pools}\nlease = \"{lease}s\""
        )?;
        for (name, priority) in &self.communities {
            writeln!(out, "[community.{name}]\npriority = {priority}")?;
        }
        for (name, template) in &self.templates {
            let communities = list(&template.communities);
            let returning = if template.ticket { "ticket" } else { "source" };
            writeln!(
                out,
                "[template.{name}]\ncommunities = {communities}\nreturn = \"{returning}\"\ndoor = {}\nroaming = {}",
                template.door, template.roaming
            )?;
        }
        for (name, seat) in &self.members {
            let communities = list(&seat.communities);
            writeln!(
                out,
                "[member.{name}]\ntemplate = \"{}\"\ncommunities = {communities}\nendpoints = [\"{}\"]",
                seat.template, seat.endpoint
            )?;
        }
        Ok(())
    }
}

impl Site {
    /// Makes a change; what it makes may be no file that is accepted ([`Self::is_whole`]).
    pub fn change(&mut self, edit: &Edit) {
        match edit {
            Edit::Move { member, community } => {
                if let Some(seat) = self.members.get_mut(member) {
                    toggle(&mut seat.communities, community);
                }
            }
            Edit::Add { community, template } => {
                self.communities.entry(community.clone()).or_insert(50);
                if let Some(template) = self.templates.get_mut(template) {
                    template.communities.insert(community.clone());
                }
            }
            Edit::Remove { community } => {
                self.communities.remove(community);
                let templates = self.templates.values_mut().map(|template| &mut template.communities);
                let seats = self.members.values_mut().map(|seat| &mut seat.communities);
                for held in templates.chain(seats) {
                    held.remove(community);
                }
            }
            Edit::Hold { template, community } => {
                if let Some(template) = self.templates.get_mut(template) {
                    toggle(&mut template.communities, community);
                }
            }
            Edit::Roam { template } => {
                if let Some(template) = self.templates.get_mut(template) {
                    template.roaming = !template.roaming;
                }
            }
        }
    }

    /// Whether each template holds a community, and all that are held are there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let templates = || self.templates.values().map(|template| &template.communities);
        let held = templates().chain(self.members.values().map(|seat| &seat.communities));
        templates().all(|held| !held.is_empty()) && held.flatten().all(|name| self.communities.contains_key(name))
    }
}

fn toggle(set: &mut BTreeSet<String>, name: &str) {
    if !set.remove(name) {
        set.insert(name.to_owned());
    }
}

fn list(names: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_accepted() {
        let template = Template {
            communities: ["web".to_owned()].into(),
            ticket: true,
            door: true,
            roaming: false,
        };
        let seat = Seat {
            template: "edge".into(),
            communities: ["db".to_owned()].into(),
            endpoint: "203.0.113.1:4747".parse().unwrap(),
        };
        let site = Site {
            lease: Duration::from_secs(300),
            communities: [("web".to_owned(), 10), ("db".to_owned(), 20)].into(),
            templates: [("edge".to_owned(), template)].into(),
            members: [("door-1".to_owned(), seat)].into(),
        };
        let file = coterie_control::file::parse(&site.text()).unwrap();
        assert_eq!(file.enclave.lease, site.lease);
        assert_eq!(file.members.values().next().unwrap().communities.len(), 2);
        assert!(file.templates.values().all(|t| t.door));
    }
}
