//! Whole files: what is accepted and what it means, and that nothing makes the reader fail.

use std::{net::IpAddr, time::Duration};

use coterie_model::Name;
use proptest::prelude::*;

use super::*;

const THREE_TIER: &str = include_str!("../../../../examples/three-tier.toml");
const MINIMAL: &str = include_str!("../../../../examples/minimal.toml");

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn good(text: &str) -> EnclaveFile {
    parse(text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render("file", Style::Plain)))
}

fn messages(text: &str) -> Vec<(usize, usize, String)> {
    let diagnostics = match parse(text) {
        Ok(file) => file.warnings,
        Err(diagnostics) => diagnostics,
    };
    diagnostics
        .iter()
        .map(|item| (item.line, item.column, item.message.clone()))
        .collect()
}

#[test]
fn the_three_tiers_are_what_they_say() {
    let file = good(THREE_TIER);
    assert!(file.warnings.is_empty(), "{}", file.warnings);
    assert_eq!(file.members.len(), 7);
    assert_eq!(file.enclave.lease, Duration::from_secs(3_600));
    assert_eq!(file.communities[&name("app-db")].epoch, Duration::from_secs(12 * 3_600));
    assert_eq!(file.communities[&name("web")].epoch, Duration::from_secs(24 * 3_600));

    let via = |from: &str, to: &str| {
        file.explain(&name(from), &name(to))
            .unwrap()
            .chosen
            .map(|community| community.to_string())
    };
    assert_eq!(via("web-1", "web-2").as_deref(), Some("web"));
    assert_eq!(via("web-1", "app-3").as_deref(), Some("web-app"));
    assert_eq!(via("app-1", "db-1").as_deref(), Some("app-db"));
    assert_eq!(via("db-1", "db-2").as_deref(), Some("app-db"));
    assert_eq!(via("web-1", "db-1"), None);
    assert_eq!(
        file.topology().holders(&name("vault")).collect::<Vec<_>>(),
        [&name("db-1")]
    );

    let facts = Facts {
        name: Some("web-9".to_owned()),
        cpus: Some(2),
        ..Facts::default()
    };
    let fits = |facts: &Facts| -> Vec<&str> {
        let templates = file.templates.iter();
        let fitting = templates.filter(|(_, template)| template.matching.as_ref().is_some_and(|m| m.matches(facts)));
        fitting.map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(fits(&facts), ["web"]);
    assert_eq!(
        fits(&Facts {
            cpus: Some(1),
            ..facts.clone()
        }),
        Vec::<&str>::new()
    );
    assert_eq!(fits(&Facts { cpus: None, ..facts }), Vec::<&str>::new());
    let facts = Facts {
        name: Some("app-1".to_owned()),
        memory: Some(4 << 30),
        ..Facts::default()
    };
    assert_eq!(fits(&facts), ["app"]);
    let labels = [("tier".to_owned(), "db".to_owned())].into();
    let facts = Facts {
        name: Some("db-1".to_owned()),
        labels,
        ..Facts::default()
    };
    assert_eq!(fits(&facts), ["db"]);
}

#[test]
fn a_member_has_what_its_template_gives_and_its_own() {
    let file = good(
        r#"
version = 1
[enclave]
name = "e"
pools = ["10.0.0.0/24", "fd00::/64"]
lease = "30d"
port = 5000
mtu = 1300
[community.a]
[community.b]
[community.c]
priority = 0
[template.t]
communities = ["a", "b"]
exclude = ["y", "z"]
return = "ticket"
forkable = true
lockdown = false
roaming = true
door = true
[template.plain]
communities = ["a"]
[member.x]
template = "t"
communities = ["c"]
exclude = ["w"]
endpoints = ["192.0.2.1", "[2001:db8::1]:7"]
addresses = ["10.0.0.9"]
[member.y]
template = "t"
[member.z]
template = "plain"
suites = []
[member.w]
template = "t"
"#
        .replace("suites = []\n", "")
        .replace(
            "communities = [\"a\"]",
            "communities = [\"b\"]\nsuites = [\"aes-256-gcm-siv\"]",
        )
        .as_str(),
    );
    let x = &file.members[&name("x")];
    assert_eq!(x.communities, ["a", "b", "c"].map(name).into());
    assert_eq!(x.exclude, ["w", "y", "z"].map(name).into());
    assert_eq!(file.members[&name("y")].exclude, ["z"].map(name).into());
    assert_eq!(x.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        x.endpoints,
        ["192.0.2.1:5000".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()]
    );
    assert_eq!(file.members[&name("y")].addresses.len(), 2);
    let t = &file.templates[&name("t")];
    assert_eq!(t.suites, [Suite::Aes256GcmSiv].into());
    assert_eq!(
        (t.returning, t.lockdown, t.forkable, t.roaming, t.door),
        (Return::Ticket, false, true, true, true)
    );
    assert!(!file.templates[&name("plain")].door);
    assert_eq!(
        file.communities[&name("c")].epoch,
        Duration::from_secs(30 * 86_400),
        "an epoch outlasts the lease"
    );
    assert_eq!((file.enclave.mtu, file.enclave.port), (Some(1_300), 5_000));
}

#[test]
fn assigned_addresses_stay_when_members_come_and_go() {
    let with = |names: &[&str]| -> EnclaveFile {
        let mut text = String::from(
            "version = 1\n[enclave]\nname = \"e\"\npools = [\"10.0.0.0/16\", \"fd00::/48\"]\n[community.a]\n\
             [template.t]\ncommunities = [\"a\"]\n",
        );
        for name in names {
            text.push_str(&format!("[member.{name}]\ntemplate = \"t\"\n"));
        }
        good(&text)
    };
    let few = with(&["web-1", "web-2"]);
    let many = with(&["app-1", "web-1", "app-2", "web-2", "zoo", "aaa"]);
    for member in ["web-1", "web-2"] {
        assert_eq!(
            few.members[&name(member)].addresses,
            many.members[&name(member)].addresses
        );
    }
    let all: std::collections::BTreeSet<&IpAddr> = many.members.values().flat_map(|member| &member.addresses).collect();
    assert_eq!(all.len(), 12);
}

#[test]
fn all_problems_are_reported_at_once_in_order_of_place() {
    let text = "version = 2\n[enclave]\nname = \"Shop\"\npools = [\"10.0.0.0/33\"]\nlease = \"never\"\n[community.a]\n\
                priority = -1\n[member.x]\ntemplate = \"gone\"\n";
    let lines: Vec<usize> = messages(text).into_iter().map(|(line, _, _)| line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 6, 7, 9]);
}

#[test]
fn columns_count_characters() {
    let text =
        "version = 1\nenclave = { description = \"äöü €\", name = \"X\", pools = [\"10.0.0.0/8\"] }\n[community.a]\n";
    assert_eq!(messages(text)[0].0, 2);
    assert_eq!(
        messages(text)[0].1,
        text.lines().nth(1).unwrap().split('X').next().unwrap().chars().count()
    );
}

#[test]
fn what_is_not_toml_hides_nothing_before_it_and_invents_nothing_behind_it() {
    let text = "version = 1\nenclav = 3\n[enclave]\nname = shop\npools = [\"10.0.0.0/8\"]\nbogus = 1\n";
    let found = messages(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].0, found[1].0), (2, 4));
}

#[test]
fn a_duplicate_does_not_hide_other_problems() {
    let text =
        "version = 1\nversion = 1\n[enclave]\nname = \"e\"\npools = [\"10.0.0.0/8\"]\nbogus = 1\n[community.a]\n";
    let found: Vec<usize> = messages(text).into_iter().map(|(line, _, _)| line).collect();
    assert_eq!(found, [2, 6, 7]);
}

#[test]
fn the_limits_are_kept() {
    let mut text = String::from("version = 1\n[enclave]\nname = \"e\"\npools = [\"10.0.0.0/8\"]\n[template.t]\n");
    let communities: Vec<String> = (0..65).map(|index| format!("\"c{index}\"")).collect();
    text.push_str(&format!(
        "communities = [{}]\n[member.m]\ntemplate = \"t\"\n",
        communities[..64].join(",")
    ));
    text.push_str(
        &(0..65)
            .map(|index| format!("[community.c{index}]\n"))
            .collect::<String>(),
    );
    let one_more = text.replace("[member.m]\n", "[member.m]\ncommunities = [\"c64\"]\n");
    assert!(
        good(&text)
            .warnings
            .iter()
            .all(|warning| warning.message.contains("c64"))
    );
    assert!(
        messages(&one_more)
            .iter()
            .any(|(_, _, message)| message.contains("65 communities"))
    );

    let all = "x = 1\n[y]\n".repeat(1_000) + THREE_TIER;
    let diagnostics = parse(&all).unwrap_err();
    assert_eq!(diagnostics.iter().len(), MAX_DIAGNOSTICS);
    assert!(diagnostics.omitted() > 0);
    assert!(diagnostics.has_errors());

    assert!(
        parse(&"#".repeat(MAX_BYTES))
            .unwrap_err()
            .iter()
            .all(|item| item.message.contains("empty"))
    );
    assert!(
        parse(&"#".repeat(MAX_BYTES + 1))
            .unwrap_err()
            .iter()
            .all(|item| item.message.contains("bytes"))
    );
}

#[test]
fn carriage_returns_and_byte_order_marks_change_nothing() {
    let plain = good(MINIMAL);
    assert_eq!(good(&MINIMAL.replace('\n', "\r\n")).members, plain.members);
    assert_eq!(good(&format!("\u{feff}{MINIMAL}")).members, plain.members);
    assert_eq!(parse_bytes(MINIMAL.as_bytes()).unwrap().members, plain.members);
}

#[test]
fn nothing_in_a_file_steers_the_terminal() {
    let text = "version = 1\n[enclave]\nname = \"\\u001b[31m\\u202e\"\npools = [\"10.0.0.0/8\"]\n[community.\"\\u001b]0;x\\u0007\"]\n";
    let shown = parse(text).unwrap_err().render("\u{1b}[31m.toml", Style::Plain);
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
    let raw = "version = 1 # \u{202e}\u{1b}[31m\u{7}\n[enclave]\nname = \"\u{1b}[31m\u{202e}\"\n";
    let shown = parse(raw).unwrap_err().render("f", Style::Plain);
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
    let eight_bit = "version = 1 # \u{9b}31m\n[enclave]\nname = \"\u{9d}0;x\u{9c}\u{85}\"\n";
    let shown = parse(eight_bit).unwrap_err().render("f", Style::Plain);
    assert!(!shown.contains(|c| ('\u{80}'..='\u{9f}').contains(&c)), "{shown:?}");
    let coloured = parse(text).unwrap_err().render("f", Style::Coloured);
    assert!(coloured.contains('\u{1b}'));
}

#[test]
fn the_same_text_gives_the_same_answer() {
    assert_eq!(
        serde_json::to_string(&good(THREE_TIER)).unwrap(),
        serde_json::to_string(&good(THREE_TIER)).unwrap()
    );
    let bad = THREE_TIER.replace("web", "w e b");
    assert_eq!(parse(&bad).unwrap_err(), parse(&bad).unwrap_err());
}

/// An enclave all of whose members come with tokens has a policy as any other.
#[test]
fn machines_that_tokens_would_make_stand_in_for_templates_without_members() {
    const TEMPLATES: &str = "version = 1\n[enclave]\nname = \"e\"\npools = [\"10.0.0.0/8\"]\n\
        [community.web]\n[community.db]\n[template.web]\ncommunities = [\"web\"]\n\
        [template.app]\ncommunities = [\"web\", \"db\"]\n[template.db]\ncommunities = [\"db\"]\n\
        [member.app-1]\ntemplate = \"web\"\n";
    let test = |from: &str, to: &str, reach: bool| {
        let text = format!("{TEMPLATES}[[tests]]\nfrom = \"{from}\"\nto = \"{to}\"\nreach = {reach}\n");
        parse(&text).map_err(|diagnostics| diagnostics.render("e.toml", Style::Plain))
    };
    let cases = [
        ("template:app", "template:db", true),
        ("template:app", "app-1", true),
        ("template:web", "template:db", false),
        ("template:db", "template:db", true),
        ("community:db", "template:db", true),
    ];
    for (from, to, reach) in cases {
        let file = test(from, to, reach).unwrap();
        assert_eq!(
            (file.members.len(), file.tests.len()),
            (1, 1),
            "none of them is a member"
        );
        let shown = test(from, to, !reach).unwrap_err();
        assert!(
            shown.contains("fails") && shown.contains("stands for a machine"),
            "{shown}"
        );
    }
    // What no machine would be selects nothing still.
    for (from, to) in [("db-*", "template:db"), ("template:web", "template:web")] {
        let shown = test(from, to, true).unwrap_err();
        assert!(shown.contains("cannot fail"), "{shown}");
    }
}

/// Files that hold many members in few bytes, each against each.
#[test]
fn a_hostile_file_is_refused_in_bounded_work() {
    let mut text = String::from("version = 1\n[enclave]\nname = \"e\"\npools = [\"10.0.0.0/8\"]\n");
    let mut member = String::new();
    for index in 0..64 {
        text.push_str(&format!("[community.c{index}]\n"));
    }
    text.push_str("[template.t]\ncommunities = [\"c0\"]\n");
    for index in 0..8_000_u32 {
        let own: Vec<String> = (0..12)
            .filter(|bit| index >> bit & 1 == 1)
            .map(|bit| format!("\"c{}\"", bit + 1))
            .collect();
        member.push_str(&format!(
            "[member.m{index}]\ntemplate=\"t\"\ncommunities=[{}]\n",
            own.join(",")
        ));
    }
    text.push_str(&member);
    text.push_str("[[tests]]\nfrom=\"*\"\nto=\"*\"\n");
    assert!(text.len() < MAX_BYTES, "{}", text.len());
    assert!(
        messages(&text)
            .iter()
            .any(|(_, _, message)| message.contains("compare more pairs"))
    );
}

/// Text made of the pieces that enclave files are made of, so that it gets past the first check.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("version = 1\n".to_owned()),
        Just("[enclave]\nname = \"e\"\npools = [\"10.0.0.0/30\", \"fd00::/126\"]\n".to_owned()),
        "\\[(community|template|member|enclave)\\.[a-c]\\]\n",
        "\\[\\[tests\\]\\]\nfrom = \"[a-c*?:]{1,3}\"\nto = \"[a-c*]{1,2}(:[0-9]{1,2})?\"\n",
        "(template|via|lease|epoch|name) = \"[a-c1hd]{1,2}\"\n",
        "(communities|exclude|addresses|endpoints|pools|suites) = \\[(\"[a-c]\"|\"10.0.0.[0-9]\"|\"fd00::[0-9]\")?\\]\n",
        "(priority|mtu|port) = [0-9]{1,5}\n",
        "(reach|lockdown|forkable|roaming|door) = (true|false)\n",
        "[a-z]{1,3} = \\{ [a-z] = [0-9\"\\[\\]{}]{0,3}",
        "\\PC{0,6}\n",
        ".{0,4}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Every diagnostic has its place in the text and says what to do.
fn well_formed(text: &str, diagnostics: &Diagnostics) -> Result<(), TestCaseError> {
    let lines = text.split('\n').count();
    for item in diagnostics.iter() {
        prop_assert!((1..=lines).contains(&item.line), "{item:?}");
        let line = text.split('\n').nth(item.line - 1).unwrap().chars().count();
        prop_assert!(item.column >= 1 && item.column - 1 + item.length <= line, "{item:?}");
        prop_assert!(!item.message.is_empty() && !item.remedy.is_empty());
    }
    let shown = diagnostics.render("f", Style::Plain);
    prop_assert!(shown.contains("f:") || diagnostics.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fail(text in prop_oneof![pieces(), "\\PC{0,200}", ".{0,100}"]) {
        match parse(&text) {
            Ok(file) => well_formed(&text, &file.warnings)?,
            Err(diagnostics) => {
                prop_assert!(diagnostics.has_errors());
                well_formed(&text, &diagnostics)?;
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match (parse_bytes(&bytes), str::from_utf8(&bytes)) {
            (Err(found), Ok(text)) => well_formed(text, &found)?,
            (Err(found), Err(_)) => prop_assert!(found.iter().all(|item| item.message.contains("UTF-8"))),
            (Ok(_), text) => prop_assert!(text.is_ok()),
        }
    }

    #[test]
    fn one_edit_of_a_good_file_never_makes_the_reader_fail(at in 0_usize..9_000, cut in 0_usize..40, put in "\\PC{0,3}") {
        let start = THREE_TIER.floor_char_boundary(at);
        let end = THREE_TIER.floor_char_boundary(start + cut).max(start);
        let text = format!("{}{put}{}", &THREE_TIER[..start], &THREE_TIER[end..]);
        if let Err(diagnostics) = parse(&text) {
            prop_assert!(diagnostics.has_errors());
            well_formed(&text, &diagnostics)?;
        }
    }

    #[test]
    fn in_an_accepted_file_every_test_holds_by_the_rule_of_nodes(drop in 0_usize..40) {
        // Leave out one line: where the file is still accepted, its tests must hold when tried pair by pair.
        let text: String =
            THREE_TIER.lines().enumerate().filter(|(index, _)| *index != drop * 3).map(|(_, line)| format!("{line}\n")).collect();
        if let Ok(file) = parse(&text) {
            for test in &file.tests {
                let selected = |selector: &Selector| -> Vec<&Name> {
                    file.members
                        .iter()
                        .filter(|(name, member)| match selector {
                            Selector::Members(pattern) => pattern.matches(name.as_str()),
                            Selector::Template(template) => member.template == *template,
                            Selector::Community(community) => member.communities.contains(community),
                        })
                        .map(|(name, _)| name)
                        .collect()
                };
                for from in selected(&test.from) {
                    for to in selected(&test.to.members).into_iter().filter(|to| *to != from) {
                        let chosen = file.explain(from, to).unwrap().chosen;
                        prop_assert_eq!(chosen.is_some(), test.reach);
                        prop_assert!(test.via.is_none() || test.via == chosen);
                    }
                }
            }
        }
    }
}
