//! The file's own tests: each is tried for every pair of members that it selects, by the rule that nodes follow. Where the file
//! names no member of a template, or none that holds a community, machines that a token would make of it stand in.
//!
//! Traffic filters are a gateway's: between members reach is a community in common that the sender does not drop, whatever
//! the port.

use std::collections::{BTreeMap, BTreeSet};

use coterie_model::Name;

use super::{
    check::Names,
    diagnostic::{Finding, Report, plural},
    draft::DraftTest,
    model::{EnclaveFile, PolicyTest},
    reach::{Topology, explain},
    value::Selector,
};

/// Most steps that all tests of a file may take: far more than any real file needs, and still a moment.
const MAX_STEPS: usize = 10_000_000;
/// Further failing pairs named beside the first.
const NAMED_PAIRS: usize = 3;
/// Characters of a template's name in the names of machines that stand in: they leave room for a number.
const STEM: usize = 50;

/// Tries all tests where the file is good so far, and always checks that each can fail.
///
/// `whole` says whether the file has all members that it should have.
pub(super) fn check(
    file: &EnclaveFile,
    drafts: Vec<DraftTest>,
    names: &Names,
    whole: bool,
    report: &mut Report,
) -> Vec<PolicyTest> {
    let stand_ins = stand_ins(file, &drafts);
    let mut topology = file.topology();
    for (name, template) in &stand_ins {
        if let Some(kind) = file.templates.get(template) {
            topology.add_member(
                name.clone(),
                kind.communities.iter().cloned(),
                kind.exclude.iter().cloned(),
            );
        }
    }
    let mut trial = Trial {
        file,
        stand_ins: &stand_ins,
        ranks: Classes::new(&topology),
        topology: &topology,
        steps: 0,
    };
    let sound = report.errors() == 0;
    let mut tests = Vec::new();
    for draft in drafts {
        let errors = report.errors();
        let Some(test) = complete(&draft, names, report) else {
            continue;
        };
        let (from, to) = (trial.select(&test.from), trial.select(&test.to.members));
        if trial.is_over(&draft, report) {
            break;
        }
        if whole {
            can_fail(&draft, &test, &from, &to, report);
        }
        if sound && report.errors() == errors {
            trial.run(&draft, &test, &from, &to, report);
        }
        tests.push(test);
    }
    tests
}

/// Two machines, each with its template, of every template that a test speaks of and the file names no member of: so many that
/// they can reach one another.
fn stand_ins(file: &EnclaveFile, drafts: &[DraftTest]) -> BTreeMap<Name, Name> {
    let members = || file.members.values();
    let named: BTreeSet<&Name> = members().map(|member| &member.template).collect();
    let held: BTreeSet<&Name> = members().flat_map(|member| &member.communities).collect();
    let mut wanted: BTreeSet<&Name> = BTreeSet::new();
    let from = drafts.iter().filter_map(|draft| Some(&draft.from.as_ref()?.value));
    let to = drafts
        .iter()
        .filter_map(|draft| Some(&draft.to.as_ref()?.value.members));
    for selector in from.chain(to) {
        match selector {
            Selector::Members(_) => {}
            Selector::Template(template) => wanted.extend(file.templates.get_key_value(template).map(|(name, _)| name)),
            Selector::Community(community) if held.contains(community) => {}
            Selector::Community(community) => {
                let templates = file.templates.iter();
                let holders = templates.filter(|(_, kind)| kind.communities.contains(community));
                wanted.extend(holders.map(|(name, _)| name));
            }
        }
    }
    let mut all = BTreeMap::new();
    for template in wanted.difference(&named) {
        let stem: String = template.as_str().chars().take(STEM).collect();
        let names = (1..).filter_map(|n: u32| Name::new(&format!("{stem}-{n}")).ok());
        let free = names.filter(|name| !file.members.contains_key(name) && !all.contains_key(name));
        let two: Vec<Name> = free.take(2).collect();
        all.extend(two.into_iter().map(|name| (name, (*template).clone())));
    }
    all
}

/// A test with its parts, all of which speak of something that is there.
fn complete(draft: &DraftTest, names: &Names, report: &mut Report) -> Option<PolicyTest> {
    let (from, to) = (draft.from.as_ref()?, draft.to.as_ref()?);

    let errors = report.errors();
    for selector in [from, &to.with(to.value.members.clone())] {
        match &selector.value {
            Selector::Members(_) => {}
            Selector::Template(name) => names.templates.look_up(&selector.with(name.clone()), report),
            Selector::Community(name) => names.communities.look_up(&selector.with(name.clone()), report),
        }
    }
    let reach = draft.reach.as_ref().is_none_or(|reach| reach.value);
    if let Some(via) = &draft.via {
        names.communities.look_up(via, report);
        if !reach {
            let message = "`via` says how a member is reached, and `reach = false` that it is not";
            report.push(Finding::error(via, message, "remove `via`, or set reach = true"));
        }
    }
    (report.errors() == errors).then(|| PolicyTest {
        name: draft.name.clone(),
        from: from.value.clone(),
        to: to.value.clone(),
        reach,
        via: draft.via.as_ref().map(|via| via.value.clone()),
    })
}

/// A test that selects no pair of members promises nothing.
fn can_fail(draft: &DraftTest, test: &PolicyTest, from: &[&Name], to: &[&Name], report: &mut Report) {
    let sides = [
        (&draft.from.as_ref().map(|at| at.with(())), from, test.from.to_string()),
        (
            &draft.to.as_ref().map(|at| at.with(())),
            to,
            test.to.members.to_string(),
        ),
    ];
    let mut empty = false;
    for (at, selected, text) in sides {
        if selected.is_empty() {
            empty = true;
            let message = format!("`{text}` selects no member, so that this test cannot fail");
            let remedy = "correct it to select members of the file, write \"template:NAME\" for machines that come with a token, \
                          or remove the test";
            report.push(Finding::error(at.as_ref().unwrap_or(&draft.at), message, remedy));
        }
    }
    if !empty && from.len() == 1 && from == to {
        let message = format!(
            "this test speaks of `{}` and itself alone, so that it cannot fail",
            test.from
        );
        let at = draft.to.as_ref().map_or_else(|| draft.at.clone(), |to| to.with(()));
        report.push(Finding::error(
            &at,
            message,
            "select another member as receiver, or remove the test",
        ));
    }
}

struct Trial<'f> {
    file: &'f EnclaveFile,
    /// Machines that a token would make, each with its template.
    stand_ins: &'f BTreeMap<Name, Name>,
    topology: &'f Topology,
    ranks: Classes<'f>,
    steps: usize,
}

/// Members with the same communities and exclusions reach, and are reached, alike: one trial stands for all of them.
struct Classes<'f> {
    of: BTreeMap<&'f Name, usize>,
    /// Of each class the communities of its members, and in the same order of use as a sender.
    held: Vec<(&'f BTreeSet<Name>, Option<Vec<&'f Name>>)>,
    cost: Vec<usize>,
}

impl<'f> Classes<'f> {
    fn new(topology: &'f Topology) -> Self {
        let mut numbers: BTreeMap<(&BTreeSet<Name>, &BTreeSet<Name>), usize> = BTreeMap::new();
        let mut classes = Self {
            of: BTreeMap::new(),
            held: Vec::new(),
            cost: Vec::new(),
        };
        for member in topology.members() {
            let Some((communities, exclude)) = topology.standing(member) else {
                continue;
            };
            let next = numbers.len();
            let number = *numbers.entry((communities, exclude)).or_insert(next);
            if number == next {
                classes.held.push((communities, None));
                classes.cost.push(communities.len() * (exclude.len() + 1));
            }
            classes.of.insert(member, number);
        }
        classes
    }
}

/// One way in which a test fails.
#[derive(Clone, Copy)]
struct Failure<'f> {
    from: &'f Name,
    to: &'f Name,
    chosen: Option<&'f Name>,
}

impl<'f> Trial<'f> {
    fn select(&mut self, selector: &Selector) -> Vec<&'f Name> {
        self.steps += 1 + self.file.members.len() / 4;
        let members = self.file.members.iter();
        let selected = members.filter(|(name, member)| match selector {
            Selector::Members(pattern) => pattern.matches(name.as_str()),
            Selector::Template(template) => member.template == *template,
            Selector::Community(community) => member.communities.contains(community),
        });
        let made = self.stand_ins.iter().filter(|(_, template)| match selector {
            Selector::Members(_) => false,
            Selector::Template(wanted) => *template == wanted,
            Selector::Community(community) => {
                let kind = self.file.templates.get(*template);
                kind.is_some_and(|kind| kind.communities.contains(community))
            }
        });
        let named = selected.map(|(name, _)| name);
        named.chain(made.map(|(name, _)| name)).collect()
    }

    /// Whether the steps are used up, which is reported.
    fn is_over(&self, draft: &DraftTest, report: &mut Report) -> bool {
        let over = self.steps > MAX_STEPS;
        if over {
            let message = "the tests compare more pairs of members than are tried";
            let remedy = "select fewer members in `from` and `to`, or make templates of members that are alike";
            report.push(Finding::error(&draft.at, message, remedy));
        }
        over
    }

    /// Tries one test.
    fn run(&mut self, draft: &DraftTest, test: &PolicyTest, from: &[&'f Name], to: &[&'f Name], report: &mut Report) {
        let (senders, receivers) = (self.by_class(from), self.by_class(to));
        let mut failures: Vec<Failure<'f>> = Vec::new();
        let mut failed = 0_usize;
        for (sender, senders) in &senders {
            for (receiver, receivers) in &receivers {
                let chosen = self.choose(*sender, *receiver, senders);
                if self.is_over(draft, report) {
                    return;
                }
                let passed = match (&test.via, test.reach) {
                    (Some(via), true) => chosen == Some(via),
                    (None, true) => chosen.is_some(),
                    (Some(_) | None, false) => chosen.is_none(),
                };
                if passed {
                    continue;
                }
                failed += pairs(senders, receivers, sender == receiver);
                let named = senders
                    .iter()
                    .flat_map(|from| receivers.iter().map(move |to| (*from, *to)));
                let wanted = (NAMED_PAIRS + 1).saturating_sub(failures.len());
                failures.extend(
                    named
                        .filter(|(from, to)| from != to)
                        .take(wanted)
                        .map(|(from, to)| Failure { from, to, chosen }),
                );
            }
        }
        if failed > 0 {
            failures.sort_by_key(|failure| (failure.from, failure.to));
            self.fail(draft, test, &failures, failed, report);
        }
    }

    fn by_class(&mut self, members: &[&'f Name]) -> BTreeMap<usize, Vec<&'f Name>> {
        self.steps += members.len() / 4;
        let mut classes: BTreeMap<usize, Vec<&'f Name>> = BTreeMap::new();
        for member in members {
            if let Some(class) = self.ranks.of.get(member) {
                classes.entry(*class).or_default().push(member);
            }
        }
        classes
    }

    /// The community that members of one class use to reach those of another.
    fn choose(&mut self, sender: usize, receiver: usize, senders: &[&'f Name]) -> Option<&'f Name> {
        let held = self.ranks.held.get(receiver)?.0;
        let cost = self.ranks.cost.get(sender).copied().unwrap_or_default();
        let first = senders.first()?;
        let (_, ranked) = self.ranks.held.get_mut(sender)?;
        if ranked.is_none() {
            self.steps += cost;
        }
        let ranked = ranked.get_or_insert_with(|| self.topology.ranked(first));
        self.steps += 1 + ranked.len() / 8;
        ranked.iter().copied().find(|community| held.contains(*community))
    }

    fn fail(&self, draft: &DraftTest, test: &PolicyTest, failures: &[Failure<'f>], failed: usize, report: &mut Report) {
        let Some((first, further)) = failures.split_first() else {
            return;
        };
        let Failure { from, to, chosen } = first;
        let title = match &test.name {
            Some(name) => format!("test `{name}` fails"),
            None => format!("the test from `{}` to `{}` fails", test.from, test.to),
        };
        let place = match (&test.via, test.reach) {
            (Some(_), true) => draft.via.as_ref().map(|via| via.with(())),
            (None, true) => draft.to.as_ref().map(|to| to.with(())),
            (Some(_) | None, false) => draft.reach.as_ref().map(|reach| reach.with(())),
        };
        let place = place.unwrap_or_else(|| draft.at.clone());
        let explanation = explain(self.topology, from, to);
        let excluded = explanation
            .as_ref()
            .is_ok_and(|explanation| !explanation.shared.is_empty());
        let (what, remedy) = match (chosen, &test.via) {
            (Some(chosen), Some(via)) => (
                format!("`{from}` reaches `{to}` via `{chosen}`, not via `{via}`"),
                format!(
                    "give `{via}` a lower priority number than `{chosen}` and both members that community, or correct `via`"
                ),
            ),
            (Some(chosen), None) => (
                format!("`{from}` reaches `{to}` via `{chosen}`"),
                format!("take one of them out of `{chosen}`, or set reach = true if they may talk"),
            ),
            (None, _) if excluded => (
                format!("`{from}` does not reach `{to}`"),
                format!(
                    "remove the exclusion from `{from}`, share a community without those members, or set reach = false"
                ),
            ),
            (None, _) => (
                format!("`{from}` does not reach `{to}`"),
                format!("give `{from}` and `{to}` a community in common, or set reach = false if they must not talk"),
            ),
        };
        let mut finding = Finding::error(&place, format!("{title}: {what}"), remedy);
        if let Ok(explanation) = explanation {
            finding = finding.note(explanation.to_string());
        }
        for (name, template) in self.stand_ins {
            if name == *from || name == *to {
                finding = finding.note(format!(
                    "`{name}` stands for a machine that comes with a token for template `{template}`"
                ));
            }
        }
        if failed > 1 {
            let named: Vec<String> = further
                .iter()
                .map(|pair| format!("{} to {}", pair.from, pair.to))
                .collect();
            let rest = failed - 1 - named.len();
            let more = if rest > 0 {
                format!(" and {rest} more")
            } else {
                String::new()
            };
            let verb = if failed == 2 { "so does" } else { "so do" };
            finding = finding.note(format!(
                "{verb} {}: {}{more}",
                plural(failed - 1, "other pair"),
                named.join(", ")
            ));
        }
        report.push(finding);
    }
}

/// How many pairs of different members two classes make; only members of the same class can be the same member.
fn pairs(senders: &[&Name], receivers: &[&Name], same_class: bool) -> usize {
    let both: BTreeSet<&&Name> = if same_class {
        senders.iter().collect()
    } else {
        BTreeSet::new()
    };
    senders.len() * receivers.len() - receivers.iter().filter(|name| both.contains(name)).count()
}
