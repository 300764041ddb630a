//! Rules about the source itself (CONTRIBUTING.md): purity, `unsafe`, sizes, names, unfinished work.

use std::path::Path;

use crate::{Findings, names, rust::Source, text, tree::Tree};

/// Crates that are driven by arguments alone, each with the same ban list.
const PURE: [&str; 5] = ["crypto", "model", "proto", "control", "sim"];
/// What a ban list must at least name.
const BANNED: [&str; 12] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread::spawn",
    "std::env::var_os",
    "std::fs::read_to_string",
    "std::fs::File",
    "std::net::UdpSocket",
    "std::os::unix::net::UnixStream",
    "std::process::Command",
    "std::sync::Mutex",
    "std::collections::HashMap",
    "aws_lc_rs::rand::SystemRandom",
];
/// The only home of `unsafe`.
const UNSAFE: &str = "crates/coterie-io/";
/// Lines that a file may have without its tests.
const FILE_LINES: usize = 800;
/// Lines that a function may have.
const FUNCTION_LINES: usize = 100;
/// How far above `unsafe` its reason may begin.
const REASON_LINES: usize = 8;

/// Looks at every file.
pub(crate) fn check(tree: &Tree) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    check_ban_lists(tree, &mut findings)?;
    for name in tree.files() {
        let Some(text) = tree.text(name)? else { continue };
        text::check(name, &text, &mut findings);
        if name.ends_with(".rs") {
            check_rust(name, &text, &mut findings);
        }
    }
    Ok(findings)
}

fn check_ban_lists(tree: &Tree, findings: &mut Findings) -> anyhow::Result<()> {
    let mut first: Option<(String, String)> = None;
    for name in PURE {
        let path = format!("crates/coterie-{name}/clippy.toml");
        if !tree.has(&path) {
            findings.problems.push(format!("{path} is missing: the crate is pure"));
            continue;
        }
        let list = tree.text(&path)?.unwrap_or_default();
        for banned in BANNED.iter().filter(|b| !list.contains(&format!("path = \"{b}\""))) {
            findings.problems.push(format!("{path}: {banned} is not banned"));
        }
        match &first {
            Some((original, same)) if *same != list => {
                findings.problems.push(format!("{path} is not the same as {original}"));
            }
            Some(_) => {}
            None => first = Some((path, list)),
        }
    }
    Ok(())
}

fn check_rust(name: &str, text: &str, findings: &mut Findings) {
    let is_test = is_test_file(name);
    let source = match Source::parse(text, is_test) {
        Ok(source) => source,
        Err(error) => {
            findings.problems.push(format!("{name}: {error:#}"));
            return;
        }
    };
    check_sizes(name, &source, findings);
    check_names(name, &source, findings);
    check_unsafe(name, text, &source, findings);
    for (macro_name, line) in &source.unfinished {
        findings
            .problems
            .push(format!("{name}:{line}: {macro_name}! is no code"));
    }
}

fn check_sizes(name: &str, source: &Source, findings: &mut Findings) {
    if source.lines > FILE_LINES {
        findings
            .problems
            .push(format!("{name}: {} lines; {FILE_LINES} are the most", source.lines));
    }
    if source.test_lines > FILE_LINES {
        findings
            .notes
            .push(format!("{name}: {} lines of tests", source.test_lines));
    }
    for function in source.functions.iter().filter(|f| f.lines > FUNCTION_LINES) {
        let what = format!(
            "{name}:{}: {} has {} lines; {FUNCTION_LINES} are the most",
            function.line, function.name, function.lines
        );
        if function.is_test {
            findings.notes.push(what);
        } else {
            findings.problems.push(what);
        }
    }
}

fn check_names(name: &str, source: &Source, findings: &mut Findings) {
    let own = Path::new(name)
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if let Some(word) = names::empty_word(own, true) {
        findings
            .problems
            .push(format!("{name}: {word:?} says nothing about what is in it"));
    }
    for named in &source.names {
        if let Some(word) = names::empty_word(&named.name, named.is_module) {
            findings.problems.push(format!(
                "{name}:{}: {:?} in {} says nothing about what it is",
                named.line, word, named.name
            ));
        }
    }
}

fn check_unsafe(name: &str, text: &str, source: &Source, findings: &mut Findings) {
    let lines: Vec<&str> = text.lines().collect();
    for line in &source.unsafe_lines {
        if !name.starts_with(UNSAFE) {
            findings
                .problems
                .push(format!("{name}:{line}: unsafe is for {UNSAFE} alone"));
        }
        let above = &lines[line.saturating_sub(REASON_LINES)..(*line).min(lines.len())];
        if !above
            .iter()
            .any(|l| l.contains("// SAFETY:") || l.contains("/// # Safety"))
        {
            findings
                .problems
                .push(format!("{name}:{line}: unsafe without a SAFETY comment"));
        }
    }
}

/// All of the file is a test, an example or a benchmark.
fn is_test_file(name: &str) -> bool {
    Path::new(name).file_stem().is_some_and(|stem| stem == "tests")
        || Path::new(name)
            .components()
            .any(|part| ["tests", "examples", "benches"].iter().any(|d| part.as_os_str() == *d))
}
