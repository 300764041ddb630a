//! Enclave files on disk: the examples, the published schema, and thirty and more bad files with what is said of each.
//!
//! Beside each `bad/NAME.toml` stands `bad/NAME.txt`, the whole rendered error. After a change of words run the tests once
//! with `REWRITE_EXPECTED=1` and review the difference.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the crate reads no files and no clock; its tests read examples and expected texts, and time one refusal"
)]
#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "the functions beside the tests are tests too"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use coterie_control::file::{
    Diagnostics, EnclaveFile, MAX_BYTES, Severity, Style, json_schema, json_schema_text, parse, parse_bytes,
};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/enclave_file")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rewrite() -> bool {
    std::env::var_os("REWRITE_EXPECTED").is_some()
}

/// Compares with a file, or writes it where that is asked for.
fn expect_file(path: &Path, found: &str) -> Result<(), String> {
    if rewrite() {
        fs::write(path, found).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected == found {
        return Ok(());
    }
    Err(format!(
        "{} differs; rewrite it with REWRITE_EXPECTED=1 and review\n--- found\n{found}",
        path.display()
    ))
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

/// Everything that is to be said of any refusal.
fn check(name: &str, text: &str, diagnostics: &Diagnostics) {
    let shown = diagnostics.render(name, Style::Plain);
    assert!(diagnostics.has_errors(), "{name}: {shown}");
    for item in diagnostics.iter() {
        assert!(!item.message.is_empty() && !item.remedy.is_empty(), "{name}: {item:?}");
        assert!(
            shown.contains(&format!("{name}:{}:{}", item.line, item.column)),
            "{name}: {item:?}\n{shown}"
        );
        assert!(shown.contains(&item.message), "{name}: {item:?}");
        let first_line = item.remedy.lines().next().unwrap();
        assert!(shown.contains(first_line), "{name}: {item:?}");
        let line = text
            .split('\n')
            .nth(item.line - 1)
            .unwrap_or_else(|| panic!("{name} has no line {}", item.line));
        assert!(
            item.column - 1 + item.length <= line.chars().count(),
            "{name}: {item:?}"
        );
    }
}

#[test]
fn every_bad_file_is_refused_in_the_words_beside_it() {
    let files = toml_files(&here().join("bad"));
    assert!(files.len() >= 30, "{} bad files", files.len());
    let mut wrong = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(path).unwrap();
        let Err(diagnostics) = parse_bytes(&bytes) else {
            wrong.push(format!("{name} is accepted"));
            continue;
        };
        check(name, &String::from_utf8_lossy(&bytes), &diagnostics);
        wrong.extend(expect_file(&path.with_extension("txt"), &diagnostics.render(name, Style::Plain)).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn no_expected_text_is_left_without_its_file() {
    let texts = fs::read_dir(here().join("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for text in texts.filter(|path| path.extension().is_some_and(|e| e == "txt")) {
        assert!(text.with_extension("toml").exists(), "{}", text.display());
    }
}

#[test]
fn a_file_of_ten_megabytes_is_refused_at_once() {
    let text = "# filler\n".repeat(10 * 1024 * 1024 / 9 + 1);
    let refuse = || {
        let start = Instant::now();
        let diagnostics = parse(&text).unwrap_err();
        let rendered = diagnostics.render("huge.toml", Style::Plain);
        (start.elapsed(), diagnostics, rendered)
    };
    // The best of a few, so that another program's turn on the processor is not counted.
    let (took, diagnostics, rendered) = (0..5).map(|_| refuse()).min_by_key(|(took, ..)| *took).unwrap();
    assert!(took < Duration::from_millis(10), "took {took:?}");
    assert!(text.len() > 10 * MAX_BYTES - 9);
    check("huge.toml", "", &diagnostics);
    assert_eq!(diagnostics, parse_bytes(text.as_bytes()).unwrap_err());
    expect_file(&here().join("ten-megabytes.txt"), &rendered).unwrap();
}

#[test]
fn colours_change_nothing_but_colours() {
    let path = here().join("bad/failing-test-via.toml");
    let diagnostics = parse(&fs::read_to_string(path).unwrap()).unwrap_err();
    let coloured = diagnostics.render("f.toml", Style::Coloured);
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_ne!(coloured, plain);
    assert_eq!(plain, diagnostics.render("f.toml", Style::Plain));
}

#[test]
fn the_published_schema_is_the_generated_one() {
    expect_file(&root().join("schema/enclave.schema.json"), &json_schema_text()).unwrap();
}

fn as_json(text: &str) -> serde_json::Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

#[test]
fn the_examples_are_accepted_and_valid_by_the_schema() {
    let validator = jsonschema::draft202012::new(&json_schema()).unwrap();
    let files = toml_files(&root().join("examples"));
    let names: BTreeSet<&str> = files
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert!(
        names.is_superset(&["minimal.toml", "three-tier.toml"].into()),
        "{names:?}"
    );
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        let file: EnclaveFile =
            parse(&text).unwrap_or_else(|found| panic!("{}", found.render("example", Style::Plain)));
        assert!(
            file.warnings.is_empty(),
            "{}",
            file.warnings.render("example", Style::Plain)
        );
        let errors: Vec<String> = validator
            .iter_errors(&as_json(&text))
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
}

/// The schema refuses only what the reader refuses, and most of what it refuses for its form.
#[test]
fn the_schema_and_the_reader_agree_about_bad_files() {
    let validator = jsonschema::draft202012::new(&json_schema()).unwrap();
    let mut refused = BTreeSet::new();
    for path in toml_files(&here().join("bad")) {
        let Ok(table) = fs::read_to_string(&path)
            .map_err(|_| ())
            .and_then(|t| toml::from_str::<toml::Table>(&t).map_err(|_| ()))
        else {
            continue;
        };
        if !validator.is_valid(&serde_json::to_value(table).unwrap()) {
            refused.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    for form in [
        "unknown-key-top",
        "unknown-key-member",
        "wrong-type-text",
        "bad-name",
        "bad-duration",
        "bad-glob",
        "priority-range",
    ] {
        assert!(refused.contains(form), "the schema accepts {form}");
    }
    for meaning in [
        "dangling-community",
        "overlapping-pools",
        "failing-test-reach",
        "address-outside-pool",
    ] {
        assert!(
            !refused.contains(meaning),
            "the schema refuses {meaning}, which only the reader can judge"
        );
    }
}

#[test]
fn warnings_are_rendered_and_refuse_nothing() {
    let text = fs::read_to_string(here().join("warnings.toml")).unwrap();
    let file = parse(&text).unwrap_or_else(|found| panic!("{}", found.render("warnings.toml", Style::Plain)));
    assert!(file.warnings.iter().all(|item| item.severity == Severity::Warning));
    assert!(file.warnings.iter().len() >= 4);
    expect_file(
        &here().join("warnings.txt"),
        &file.warnings.render("warnings.toml", Style::Plain),
    )
    .unwrap();
}
