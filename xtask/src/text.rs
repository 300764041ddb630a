//! What no file of the repository contains: marks of unfinished work, and traces of the machine that it was written on.

use crate::Findings;

/// Put together here, so that this file does not contain them itself.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Where people's homes and workplaces are. The path of a machine is true on that machine only.
const PLACES: [&str; 4] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/Use", "rs/"),
];

/// Hosts that an address in a file may name: where something is specified, and names that are nobody's.
const HOSTS: &[&str] = &[
    "apache.org",
    "choosealicense.com",
    "contributor-covenant.org",
    "datatracker.ietf.org",
    "github.com",
    "doc.rust-lang.org",
    "docs.rs",
    "example.com",
    "example.net",
    "example.org",
    "json-schema.org",
    "keepachangelog.com",
    "localhost",
    "noiseprotocol.org",
    "rfc-editor.org",
    "rustup.rs",
    "semver.org",
    "spdx.org",
    "toml.io",
    "www.w3.org",
];

/// Looks at every line.
pub(crate) fn check(name: &str, text: &str, findings: &mut Findings) {
    // Written by cargo, and it names the registry by its index.
    let is_lock = name.ends_with("Cargo.lock");
    for (at, line) in text.lines().enumerate() {
        let place = || format!("{name}:{}", at + 1);
        for mark in MARKS.iter().filter(|mark| has_word(line, mark)) {
            let what = format!("{}: {mark}: finish it, or write an issue and leave it out", place());
            findings.problems.push(what);
        }
        for path in PLACES.iter().filter(|path| has_path(line, path)) {
            findings
                .problems
                .push(format!("{}: {path} is a place on one machine", place()));
        }
        for host in hosts(line).filter(|host| !is_lock && !is_known(host)) {
            findings.problems.push(format!(
                "{}: {host} is not among the hosts of xtask/src/text.rs",
                place()
            ));
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// An absolute path, not the middle of a longer one.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c)))
}

/// Hosts of the addresses in a line.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").filter_map(|(at, mark)| {
        let scheme = line[..at].rsplit(|c: char| !c.is_ascii_alphabetic()).next()?;
        let rest = &line[at + mark.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)))?;
        (scheme.starts_with("http") && end > 0).then_some(rest[..end].trim_end_matches('.'))
    })
}

fn is_known(host: &str) -> bool {
    let is_number = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    let is_known = |known: &&str| host == *known || host.strip_suffix(*known).is_some_and(|rest| rest.ends_with('.'));
    // A single word is a host of a test's own network.
    is_number || !host.contains('.') || HOSTS.iter().any(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(line: &str) -> usize {
        let mut findings = Findings::default();
        check("file", line, &mut findings);
        findings.problems.len()
    }

    #[test]
    fn marks_places_and_hosts_are_found() {
        assert_eq!(problems(concat!("// TO", "DO: later")), 1);
        assert_eq!(problems(concat!("read \"/ho", "me/me/x\"")), 1);
        assert_eq!(problems(concat!("see https:", "//registry.invalid.test/x ")), 1);
    }

    #[test]
    fn what_only_looks_like_them_is_left_alone() {
        assert_eq!(problems(concat!("TO", "DOS and a_", "TO", "DO")), 0);
        assert_eq!(problems(concat!("crates/net", "/wo", "rk/x")), 0);
        assert_eq!(
            problems("https://www.rfc-editor.org/rfc/rfc5869 http://10.0.0.1/ http://app-1:8080/"),
            0
        );
    }
}
