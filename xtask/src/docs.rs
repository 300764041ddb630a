//! What the documents name exists: files that they link, paths, functions, make targets.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::{Findings, tree::Tree};

/// Where paths in documents may begin.
const PLACES: [&str; 9] = [
    "crates/",
    "docs/",
    "examples/",
    "fuzz/",
    "schema/",
    "tests/",
    "xtask/",
    "packaging/",
    ".ci/",
];

/// Looks at every document.
pub(crate) fn check(tree: &Tree) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let functions = functions(tree)?;
    let makefile = tree.text("Makefile")?.unwrap_or_default();
    let targets = targets(&makefile);
    for name in tree.with_extension("md") {
        let text = tree.text(name)?.unwrap_or_default();
        for (at, line) in text.lines().enumerate() {
            let mut missing = |what: String| findings.problems.push(format!("{name}:{}: {what}", at + 1));
            for link in links(line) {
                if let Some(file) = target_of(name, link).filter(|file| !tree.has(file)) {
                    missing(format!("the link goes to {file}, which does not exist"));
                }
            }
            for code in quoted(line) {
                if is_path(code) && !tree.has(code) {
                    missing(format!("there is no {code}"));
                }
                if let Some(function) = function_of(code).filter(|f| !functions.contains(*f)) {
                    missing(format!("no function is called {function}"));
                }
                let words = code.strip_prefix("make ").unwrap_or_default().split(' ');
                for target in words.filter(|w| !w.is_empty() && !w.contains('=') && !targets.contains(w)) {
                    missing(format!("the Makefile has no target {target}"));
                }
            }
        }
    }
    Ok(findings)
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, mark)| {
        let rest = &line[at + mark.len()..];
        rest.find(')').map(|end| &rest[..end])
    })
}

/// The file that a link in `document` leads to; `None` for one that leads elsewhere.
fn target_of(document: &str, link: &str) -> Option<String> {
    let file = link.split('#').next().unwrap_or_default();
    if file.is_empty() || link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let joined = Path::new(document).parent().unwrap_or_else(|| Path::new("")).join(file);
    let mut path = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => path.push(part),
        }
    }
    Some(path.to_string_lossy().into_owned())
}

/// What stands between single backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_path(code: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    PLACES.iter().any(|place| code.starts_with(place)) && code.chars().all(is_plain)
}

/// `function` in `Type::function` or `module::function`, with or without parentheses; and what can only be a test's name.
fn function_of(code: &str) -> Option<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    // A figure of a program's (`coterie_server_...`) is none.
    let is_figure = code.starts_with("coterie_");
    if code.matches('_').count() >= 3 && code.chars().all(is_name) && !is_figure {
        return Some(code);
    }
    let (owner, function) = code.trim_end_matches("()").rsplit_once("::")?;
    let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let is_function = function.starts_with(|c: char| c.is_ascii_lowercase());
    let is_foreign = owner.starts_with("std") || owner.starts_with("clippy");
    (is_word(owner) && is_word(function) && is_function && !is_foreign).then_some(function)
}

/// Names of all functions and modules.
fn functions(tree: &Tree) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for name in tree.with_extension("rs") {
        let text = tree.text(name)?.unwrap_or_default();
        for keyword in ["fn ", "mod "] {
            found.extend(text.match_indices(keyword).map(|(at, _)| {
                let rest = &text[at + keyword.len()..];
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                rest.chars().take_while(|c| is_part(*c)).collect::<String>()
            }));
        }
    }
    Ok(found)
}

/// Targets of a Makefile.
fn targets(makefile: &str) -> BTreeSet<&str> {
    makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.', ' ']))
        .filter_map(|line| line.split_once(':').map(|(target, _)| target.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_documents_are_taken_apart() {
        assert_eq!(target_of("docs/A.md", "../README.md#x").as_deref(), Some("README.md"));
        assert_eq!(target_of("README.md", "https://example.org/"), None);
        assert_eq!(function_of("Node::handle_inside"), Some("handle_inside"));
        assert_eq!(function_of("std::time::Instant::now"), None);
        assert_eq!(function_of("Step::Offer"), None);
        assert_eq!(function_of("nobody_hears_a_thing"), Some("nobody_hears_a_thing"));
        assert!(is_path("crates/coterie-io/src/tun.rs") && !is_path("crates/*/x"));
        assert!(targets("help:\n\tx\nA := b\ntest: build\n").contains("test"));
    }
}
