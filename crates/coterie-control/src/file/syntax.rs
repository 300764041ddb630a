//! From bytes to a TOML document.

use toml::de::DeTable;

use super::diagnostic::{At, Diagnostics, Finding, Report};

/// Reads a text as TOML. `None` where there is nothing in it; mistakes are reported, and what could be read is given all
/// the same.
pub(super) fn document<'t>(text: &'t str, report: &mut Report) -> Option<Document<'t>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let top = At {
        value: (),
        span: 0..0,
        path: String::new(),
    };
    if table.is_empty() && errors.is_empty() {
        let remedy =
            "write at least version = 1, a table [enclave] with name and pools, and one table [community.NAME]";
        report.push(Finding::error(&top, "the file is empty", remedy));
        return None;
    }

    // Each search for the first of two may read the whole text.
    const SEARCHED: usize = 50;
    let mut duplicates = 0;
    let mut broken_at = None;
    let mut found: Vec<(usize, Finding)> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let at = At {
            value: (),
            span: span.clone(),
            path: String::new(),
        };
        if error.message().starts_with("duplicate key") {
            duplicates += 1;
            report.push(duplicate(text, &at, duplicates <= SEARCHED));
        } else {
            broken_at = Some(broken_at.map_or(span.start, |before: usize| before.min(span.start)));
            found.push((line_start(text, span.start), mistake(text, &at, error.message())));
        }
    }
    // One slip makes the reader stumble several times: the first on a line tells the most.
    found.sort_by_key(|(line, finding)| (*line, finding.span.start));
    found.dedup_by_key(|(line, _)| *line);
    let mut mistakes: Vec<Finding> = Vec::new();
    for (line, finding) in found {
        // A list that is left open swallows all lines below it: that is one mistake, and it stands above them.
        if let Some(open) = left_open(text, line, &finding) {
            mistakes.push(open);
            break;
        }
        mistakes.push(finding);
    }
    Some(Document {
        table,
        mistakes,
        broken_at: broken_at.map(|offset| line_start(text, offset)),
    })
}

/// A document, and what is not TOML in it.
pub(super) struct Document<'t> {
    pub(super) table: DeTable<'t>,
    /// Mistakes of syntax, at most one a line.
    pub(super) mistakes: Vec<Finding>,
    /// Start of the line of the first mistake of syntax.
    pub(super) broken_at: Option<usize>,
}

/// Every place that is no UTF-8.
pub(super) fn not_utf8(bytes: &[u8]) -> Diagnostics {
    let mut text = String::with_capacity(bytes.len());
    let mut report = Report::new();
    let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if chunk.invalid().is_empty() {
            continue;
        }
        let start = text.len();
        text.push(char::REPLACEMENT_CHARACTER);
        let shown: Vec<String> = chunk.invalid().iter().map(|byte| format!("{byte:#04x}")).collect();
        let at = At {
            value: (),
            span: start..text.len(),
            path: String::new(),
        };
        let message = format!("the file is not UTF-8: {}", shown.join(" "));
        let remedy = if wide {
            "it looks like UTF-16: save it as UTF-8"
        } else {
            "save the file as UTF-8"
        };
        report.push(Finding::error(&at, message, remedy).label("no character in UTF-8"));
        if wide {
            break;
        }
    }
    report.finish(&text)
}

fn duplicate(text: &str, at: &At<()>, search: bool) -> Finding {
    let key = text.get(at.span.clone()).unwrap_or_default();
    let line = line_at(text, at.span.start);
    let header = line.trim_start().starts_with('[');
    let (message, remedy) = if header {
        (
            format!("the table `{}` is there twice", line.trim()),
            "put the keys of both into one table, or rename one",
        )
    } else {
        (format!("`{key}` is set twice"), "keep one of the two lines")
    };
    let finding = Finding::error(at, message, remedy).label("again here");
    let first = if search {
        earlier(text, line_start(text, at.span.start), line, header)
    } else {
        None
    };
    match first {
        Some(first) => finding.related(first, "first here"),
        None => finding,
    }
}

/// Where the same key or header stands before: the nearest line above that starts in the same way, inside the table.
fn earlier(text: &str, before: usize, line: &str, header: bool) -> Option<std::ops::Range<usize>> {
    let start_of = |line: &str| -> String {
        let end = if header { line.find(']') } else { line.find('=') }.unwrap_or(line.len());
        line.get(..end)
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_whitespace())
            .collect()
    };
    let wanted = start_of(line);
    let mut end = before;
    while end > 0 {
        let start = line_start(text, end - 1);
        let above = line_at(text, start);
        if start_of(above) == wanted {
            let indent = above.len() - above.trim_start().len();
            let shown = above.find(if header { '#' } else { '=' }).unwrap_or(above.len());
            let shown = above.get(..shown).map_or(above.len(), |key| key.trim_end().len());
            return Some(start + indent..start + shown);
        }
        if !header && above.trim_start().starts_with('[') {
            return None;
        }
        end = start;
    }
    None
}

/// Where a comma is missed before a line that is clearly not an entry of a list, the list above was not closed.
fn left_open(text: &str, line: usize, finding: &Finding) -> Option<Finding> {
    let shown = line_at(text, line);
    let starts_it = text
        .get(line..finding.span.start)
        .is_some_and(|before| before.trim().is_empty());
    let header = shown.trim_start().starts_with('[') && shown.trim_end().ends_with(']');
    let setting = shown
        .split_once('=')
        .is_some_and(|(key, _)| !key.contains(['{', '"', '\'', '#']));
    if !finding.says("a comma is missing") || !starts_it || !(header || setting) {
        return None;
    }
    let above = text.get(..line)?;
    let end = above.trim_end().len();
    let at = At {
        value: (),
        span: end..end,
        path: String::new(),
    };
    let remedy = "close the list with `]`, or the table with `}`, before the next line";
    Some(Finding::error(&at, "a list or table is not closed", remedy).related(finding.span.clone(), "the next line"))
}

/// A mistake in the words of the TOML reader, with a remedy for it.
fn mistake(text: &str, at: &At<()>, message: &str) -> Finding {
    let value = text.get(at.span.clone()).unwrap_or_default();
    let line = line_at(text, at.span.start).trim();
    let lacks_value = message.starts_with("string values must be quoted") && value.is_empty();
    let colon = line.contains(": ") && !line.contains('=');
    let (message, remedy) = match message {
        _ if colon && (message.starts_with("key with no value") || message.starts_with("invalid unquoted key")) => (
            "a key without `=`",
            "write `=` between key and value, not `:`".to_owned(),
        ),
        _ if lacks_value => (
            "a value is missing",
            "write a value behind the `=`, or remove the line".to_owned(),
        ),
        _ if message.starts_with("string values must be quoted") => {
            let curly = value.contains(['‘', '’', '“', '”']);
            let plain = value.trim_matches(['‘', '’', '“', '”', '\'', '"']);
            let why = if curly {
                "use straight quotes"
            } else {
                "put text in quotes"
            };
            let short = plain.chars().count() <= 64 && !plain.contains(['\n', '"', '\\']);
            let remedy = if short {
                format!("{why}: \"{plain}\"")
            } else {
                why.to_owned()
            };
            ("text without quotes", remedy)
        }
        _ if message.starts_with("invalid boolean") => ("neither true nor false", "write true or false".to_owned()),
        _ if message.starts_with("key with no value") => (
            "a key without `=` and a value",
            "write a line as key = value".to_owned(),
        ),
        _ if message.starts_with("unclosed table") || message.starts_with("unclosed array table") => {
            let close = if line.starts_with("[[") { "]]" } else { "]" };
            ("the table header is not closed", format!("close it with `{close}`"))
        }
        _ if message.starts_with("unclosed array") => ("the list is not closed", "close it with `]`".to_owned()),
        _ if message.starts_with("unclosed inline table") => {
            ("the table is not closed", "close it with `}`".to_owned())
        }
        _ if message.starts_with("missing comma") => (
            "a comma is missing",
            "put `,` between the entries, or close the list or table above this line".to_owned(),
        ),
        _ if message.contains("basic string") || message.contains("literal string") => (
            "the text is not closed",
            "close it with the quote that it starts with, on the same line".to_owned(),
        ),
        _ if message.starts_with("missing escaped value") || message.contains("escape") => (
            "a backslash starts an escape that TOML does not have",
            "write \\\\ for a backslash itself".to_owned(),
        ),
        _ if message.starts_with("unquoted keys cannot be empty") => (
            "a key is missing",
            "write a key before the `=`, or a name inside the brackets".to_owned(),
        ),
        _ if message.starts_with("invalid unquoted key") => (
            "a key with a character that needs quotes",
            "use a-z, 0-9, - and _ in keys".to_owned(),
        ),
        _ if message.starts_with("unexpected key or value") => (
            "something follows that does not belong on this line",
            "start a new line here".to_owned(),
        ),
        _ if message.contains("recurs") => (
            "tables or lists are nested too deeply",
            "nest no deeper than the enclave file's own tables".to_owned(),
        ),
        other => (other, "correct the line to be valid TOML (see toml.io)".to_owned()),
    };
    Finding::error(at, message, remedy)
}

fn line_start(text: &str, offset: usize) -> usize {
    let offset = text.floor_char_boundary(offset.min(text.len()));
    text.get(..offset)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |newline| newline + 1)
}

/// The line that holds an offset, without its line break.
fn line_at(text: &str, offset: usize) -> &str {
    text.get(line_start(text, offset)..)
        .and_then(|rest| rest.split(['\r', '\n']).next())
        .unwrap_or_default()
}
