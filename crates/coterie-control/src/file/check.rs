//! What one entry of the file demands of another: references, communities, suites, leases and epochs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coterie_model::Name;

use super::{
    MAX_COMMUNITIES, address,
    diagnostic::{At, Diagnostics, Finding, Report},
    draft::{Draft, DraftCommunity, DraftMember, DraftTemplate},
    model::{Community, Enclave, EnclaveFile, Member, Suite, Template},
    policy,
    reader::List,
    value::duration_text,
};

/// Makes an enclave file of a draft, and reports whatever does not fit together. The result is good only where the report
/// holds no error.
pub(super) fn check(draft: Draft, report: &mut Report) -> Option<EnclaveFile> {
    let Draft {
        enclave,
        communities,
        templates,
        members,
        tests,
        whole,
    } = draft;
    let names = Names {
        communities: Kind {
            noun: "community",
            names: communities.keys().cloned().collect(),
            whole: whole.communities,
        },
        templates: Kind {
            noun: "template",
            names: templates.keys().cloned().collect(),
            whole: whole.templates,
        },
        members: Kind {
            noun: "member",
            names: members.keys().cloned().collect(),
            whole: whole.members,
        },
    };
    references(&names, &templates, &members, report);
    if whole.templates && whole.members {
        unused(&communities, &templates, &members, report);
    }

    address::check_pools(&enclave.pools.entries, report);
    let addresses = address::assign(&enclave.pools, &members, report);
    address::check_endpoints(&enclave.pools.entries, &members, report);

    let communities = epochs(communities, &enclave.lease, report);
    let templates: BTreeMap<Name, (Template, bool)> = templates
        .into_iter()
        .map(|(name, template)| (name, finished(template, report)))
        .collect();
    let drafted = members.len();
    let members = join(members, &templates, addresses, report);
    let whole = whole.members && members.len() == drafted;
    let templates = templates
        .into_iter()
        .map(|(name, (template, _))| (name, template))
        .collect();
    common_suites(&communities, &templates, &members, report);

    // Where the name is missing, which was reported, the tests are looked at all the same.
    let named = enclave.name.map(|name| name.value);
    let enclave = Enclave {
        name: named
            .clone()
            .unwrap_or_else(|| Name::new("enclave").expect("a label in lower case")),
        description: enclave.description,
        pools: enclave.pools.entries.into_iter().map(|pool| pool.value).collect(),
        lease: enclave.lease.value,
        mtu: enclave.mtu,
        port: enclave.port,
    };
    let members = members.into_iter().map(|(name, (_, member))| (name, member)).collect();
    let mut file = EnclaveFile {
        enclave,
        communities,
        templates,
        members,
        tests: Vec::new(),
        warnings: Diagnostics::default(),
    };
    file.tests = policy::check(&file, tests, &names, whole, report);
    named.map(|_| file)
}

/// The names that can be referred to.
pub(super) struct Names {
    pub(super) communities: Kind,
    pub(super) templates: Kind,
    members: Kind,
}

/// The names of one kind.
pub(super) struct Kind {
    noun: &'static str,
    names: BTreeSet<Name>,
    /// Whether these are all: where a table could not be read, a name that is not here may be its.
    whole: bool,
}

impl Kind {
    /// Reports a name that no table of the kind has.
    pub(super) fn look_up(&self, name: &At<Name>, report: &mut Report) {
        if !self.whole || self.names.contains(&name.value) {
            return;
        }
        let remedy = match report.nearest(name.value.as_str(), self.names.iter().map(Name::as_str)) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("add a table [{}.{}], or name one that is there", self.noun, name.value),
        };
        report.push(Finding::error(
            name,
            format!("there is no {} `{}`", self.noun, name.value),
            remedy,
        ));
    }

    fn look_up_each(&self, list: &List<Name>, report: &mut Report) {
        for name in each_once(&list.entries, |name| format!("`{name}`"), report) {
            self.look_up(name, report);
        }
    }
}

/// Every name that is referred to must be there, and no list may hold one twice.
fn references(
    names: &Names,
    templates: &BTreeMap<Name, DraftTemplate>,
    members: &BTreeMap<Name, DraftMember>,
    report: &mut Report,
) {
    for template in templates.values() {
        names.communities.look_up_each(&template.communities, report);
        names.members.look_up_each(&template.exclude, report);
    }
    for member in members.values() {
        if let Some(template) = &member.template {
            names.templates.look_up(template, report);
        }
        names.communities.look_up_each(&member.communities, report);
        names.members.look_up_each(&member.exclude, report);
        if let Some(own) = member
            .exclude
            .entries
            .iter()
            .find(|name| name.value == member.name.value)
        {
            let message = format!("`{}` excludes itself", own.value);
            report.push(Finding::error(own, message, "remove it: a member always hears itself"));
        }
    }
}

/// The entries of a list without those that it holds already, which are reported.
fn each_once<'l, T: Ord>(list: &'l [At<T>], shown: impl Fn(&T) -> String, report: &mut Report) -> Vec<&'l At<T>> {
    let mut seen: BTreeMap<&T, &At<T>> = BTreeMap::new();
    let mut once = Vec::new();
    for entry in list {
        if let Some(first) = seen.get(&entry.value) {
            let message = format!("{} is listed twice", shown(&entry.value));
            let finding = Finding::error(entry, message, "keep one of the two").label("again here");
            report.push(finding.related(first.span.clone(), "first here"));
        } else {
            seen.insert(&entry.value, entry);
            once.push(entry);
        }
    }
    once
}

/// Warns of communities that nobody can hold.
fn unused(
    communities: &BTreeMap<Name, DraftCommunity>,
    templates: &BTreeMap<Name, DraftTemplate>,
    members: &BTreeMap<Name, DraftMember>,
    report: &mut Report,
) {
    let by_templates = templates.values().flat_map(|template| &template.communities.entries);
    let by_members = members.values().flat_map(|member| &member.communities.entries);
    let held: BTreeSet<&Name> = by_templates.chain(by_members).map(|name| &name.value).collect();
    for (name, community) in communities {
        if !held.contains(name) {
            let message = format!("no template and no member holds community `{name}`");
            let remedy = "list it under `communities` of a template or member, or remove it";
            report.push(Finding::warning(&community.name, message, remedy));
        }
    }
}

/// An epoch must outlast the lease: the key before the current one is accepted for one lease, and no more than one.
fn epochs(
    communities: BTreeMap<Name, DraftCommunity>,
    lease: &At<Duration>,
    report: &mut Report,
) -> BTreeMap<Name, Community> {
    const DEFAULT_EPOCH: Duration = Duration::from_secs(24 * 3_600);
    let mut finished = BTreeMap::new();
    for (name, community) in communities {
        let epoch = match &community.epoch {
            None => DEFAULT_EPOCH.max(lease.value),
            Some(epoch) => {
                if epoch.value < lease.value {
                    let (epoch_text, lease_text) = (duration_text(epoch.value), duration_text(lease.value));
                    let message =
                        format!("the epoch of `{name}` ({epoch_text}) is shorter than the lease ({lease_text})");
                    let remedy = format!("write at least {lease_text}, leave `epoch` out, or shorten the lease");
                    report.push(Finding::error(epoch, message, remedy).note(
                        "a member may be away for a whole lease, and only the key before the current one is accepted",
                    ));
                }
                epoch.value
            }
        };
        finished.insert(
            name,
            Community {
                priority: community.priority,
                description: community.description,
                epoch,
            },
        );
    }
    finished
}

/// The template, and whether its communities are all known.
fn finished(template: DraftTemplate, report: &mut Report) -> (Template, bool) {
    let forkable = template.forkable.as_ref().is_some_and(|forkable| forkable.value);
    let siv = Suite::Aes256GcmSiv;
    let all = BTreeSet::from([Suite::Aes256Gcm, Suite::ChaCha20Poly1305, siv]);
    let suites: BTreeSet<Suite> = match (&template.suites, forkable) {
        (None, true) => [siv].into(),
        (None, false) => all,
        (Some(suites), _) if !suites.value.whole => all,
        (Some(suites), _) => {
            let once = each_once(&suites.value.entries, |_| "the suite".to_owned(), report);
            once.into_iter().map(|suite| suite.value).collect()
        }
    };
    if let (Some(suites_at), Some(forkable_at), true) = (&template.suites, &template.forkable, forkable)
        && suites_at.value.whole
        && suites.iter().any(|suite| *suite != siv)
    {
        let message = format!(
            "template `{}` is forkable and allows suites that a fork breaks",
            template.name.value
        );
        let remedy = "leave `suites` out or write suites = [\"aes-256-gcm-siv\"], or set forkable = false";
        let finding = Finding::error(suites_at, message, remedy);
        report.push(finding.related(forkable_at.span.clone(), "two forks of one machine repeat nonces"));
    }
    let whole = template.communities.whole;
    let set = |names: List<Name>| names.entries.into_iter().map(|name| name.value).collect();
    let template = Template {
        description: template.description,
        communities: set(template.communities),
        exclude: set(template.exclude),
        lockdown: template.lockdown,
        returning: template.returning,
        forkable,
        suites,
        roaming: template.roaming,
        door: template.door,
        matching: template.matching,
    };
    (template, whole)
}

/// Gives every member what its template has; those without a known template were reported and are left out.
fn join(
    members: BTreeMap<Name, DraftMember>,
    templates: &BTreeMap<Name, (Template, bool)>,
    mut addresses: BTreeMap<Name, Vec<std::net::IpAddr>>,
    report: &mut Report,
) -> BTreeMap<Name, (At<Name>, Member)> {
    let mut joined = BTreeMap::new();
    for (name, member) in members {
        let known = member.template.and_then(|at| templates.get_key_value(&at.value));
        let Some((template_name, (template, whole))) = known else {
            continue;
        };
        let mut communities = template.communities.clone();
        for community in &member.communities.entries {
            if !communities.insert(community.value.clone()) && template.communities.contains(&community.value) {
                let message = format!(
                    "`{name}` holds `{}` already by its template `{template_name}`",
                    community.value
                );
                report.push(Finding::warning(community, message, "remove it here"));
            }
        }
        if communities.len() > MAX_COMMUNITIES {
            let message = format!(
                "`{name}` holds {} communities, more than {MAX_COMMUNITIES}",
                communities.len()
            );
            let remedy = format!(
                "remove {} from the member or from its template `{template_name}`",
                plural_communities(communities.len() - MAX_COMMUNITIES)
            );
            report.push(Finding::error(&member.name, message, remedy));
        } else if communities.is_empty() && *whole && member.communities.whole {
            let message = format!("`{name}` holds no community, so that it can talk to nobody");
            let remedy = format!("list one under `communities` of the member or of its template `{template_name}`");
            report.push(Finding::error(&member.name, message, remedy));
        }
        let mut exclude = template.exclude.clone();
        exclude.extend(member.exclude.entries.into_iter().map(|name| name.value));
        exclude.remove(&name);
        let member_value = Member {
            template: template_name.clone(),
            description: member.description,
            addresses: addresses.remove(&name).unwrap_or_default(),
            endpoints: member.endpoints.into_iter().map(|endpoint| endpoint.value).collect(),
            communities,
            exclude,
        };
        joined.insert(name, (member.name, member_value));
    }
    joined
}

fn plural_communities(count: usize) -> String {
    if count == 1 {
        "1 community".to_owned()
    } else {
        format!("{count} communities")
    }
}

/// Members of one community must have a cipher suite in common; it is their templates that may differ.
fn common_suites(
    communities: &BTreeMap<Name, Community>,
    templates: &BTreeMap<Name, Template>,
    members: &BTreeMap<Name, (At<Name>, Member)>,
    report: &mut Report,
) {
    let mut users: BTreeMap<&Name, BTreeMap<&Name, &At<Name>>> = BTreeMap::new();
    for (at, member) in members.values() {
        for community in &member.communities {
            users
                .entry(community)
                .or_default()
                .entry(&member.template)
                .or_insert(at);
        }
    }
    for community in communities.keys() {
        // Suites are few: one member stands for all of the same set.
        let mut sets: BTreeMap<&BTreeSet<Suite>, (&Name, &At<Name>)> = BTreeMap::new();
        for (template, at) in users.get(community).into_iter().flatten() {
            if let Some(suites) = templates.get(*template).map(|template| &template.suites) {
                sets.entry(suites).or_insert((template, at));
            }
        }
        let sets: Vec<_> = sets.into_iter().collect();
        for (index, (suites, (template, at))) in sets.iter().enumerate() {
            for (others, (other_template, other)) in sets.iter().skip(index + 1) {
                if suites.is_disjoint(others) {
                    let message = format!(
                        "`{}` and `{}` share `{community}` and no cipher suite, so that no session can be made",
                        at.value, other.value
                    );
                    let remedy = format!("give the templates `{template}` and `{other_template}` a suite in common");
                    report.push(Finding::error(*at, message, remedy).related(other.span.clone(), "the other member"));
                }
            }
        }
    }
}
