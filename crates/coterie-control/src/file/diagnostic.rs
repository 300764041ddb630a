//! What is wrong with an enclave file, where, and what to do about it.
//!
//! Checks push [`Finding`]s, which know byte ranges, onto a [`Report`]; at the end the report turns them into
//! [`Diagnostics`], sorted, with lines and columns, together with the text that they speak of, ready to be rendered.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Element, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// Most diagnostics kept of one file; further ones are counted only.
pub const MAX_DIAGNOSTICS: usize = 100;

/// Findings held before they are sorted and cut to [`MAX_DIAGNOSTICS`].
const MAX_FINDINGS: usize = 2_000;

/// Lines between two places beyond which each gets an excerpt of its own.
const JOINED_LINES: usize = 200;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, and may not do what its author thinks.
    Warning,
}

/// One problem of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters of that line it concerns; 0 where something is missing.
    pub length: usize,
    /// The key concerned, as `member.web-1.addresses[0]`; empty where it is the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What is wrong in a few words, for the place itself; may be empty.
    pub label: String,
    /// What to do about it.
    pub remedy: String,
    /// Other places that take part.
    pub related: Vec<Related>,
    /// Further reasons, each of one or several lines.
    pub notes: Vec<String>,
    #[serde(skip)]
    span: Range<usize>,
}

/// Another place that takes part in a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Related {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters of that line it concerns.
    pub length: usize,
    /// What is to be seen there.
    pub label: String,
    #[serde(skip)]
    span: Range<usize>,
}

/// How to render.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    Plain,
    /// Text with ANSI colours, for a terminal.
    Coloured,
}

/// All problems of one file, in order of place, with the text that they speak of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    omitted: usize,
    partial: bool,
    source: String,
}

impl Diagnostics {
    /// The problems, in order of place.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// How many further problems were found and not kept, because there are more than [`MAX_DIAGNOSTICS`].
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether the text was no TOML, so that only part of the checks could be made.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether at least one is an error, so that the file is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// Renders all of them in the manner of rustc: for each the message, `file:line:column`, the source line with
    /// carets, the remedy; then a line that counts them. `file` is the name to print.
    #[must_use]
    pub fn render(&self, file: &str, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let file = printable(file);
        let mut text = String::new();
        for item in &self.items {
            text.push_str(&renderer.render(&[self.group(item, &file)]));
            text.push_str("\n\n");
        }
        if let Some(summary) = self.summary() {
            let level = if self.has_errors() {
                Level::ERROR
            } else {
                Level::WARNING
            };
            let title = level.primary_title(format!("{file}: {summary}"));
            text.push_str(&renderer.render(&[Group::with_title(title)]));
            text.push('\n');
        }
        text
    }

    fn group<'a>(&'a self, item: &'a Diagnostic, file: &'a str) -> Group<'a> {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut excerpts = vec![Excerpt::new(
            item.line,
            item.span.clone(),
            item.label.as_str(),
            AnnotationKind::Primary,
        )];
        excerpts.extend(item.related.iter().map(|related| {
            Excerpt::new(
                related.line,
                related.span.clone(),
                related.label.as_str(),
                AnnotationKind::Context,
            )
        }));
        let first = excerpts.iter().map(|excerpt| excerpt.line).min().unwrap_or(1);
        let last = excerpts.iter().map(|excerpt| excerpt.line).max().unwrap_or(1);

        let mut elements: Vec<Element<'a>> = Vec::new();
        if last - first <= JOINED_LINES {
            elements.push(self.snippet(&excerpts, file).into());
        } else {
            elements.extend(
                excerpts
                    .chunks(1)
                    .map(|excerpt| Element::from(self.snippet(excerpt, file))),
            );
        }
        if !item.path.is_empty() {
            elements.push(Level::NOTE.message(format!("key `{}`", item.path)).into());
        }
        elements.extend(item.notes.iter().map(|note| Element::from(Level::NOTE.message(note))));
        elements.push(Level::HELP.message(&item.remedy).into());
        level.primary_title(&item.message).elements(elements)
    }

    /// The lines from the first excerpt to the last, with all excerpts marked.
    fn snippet<'a>(
        &'a self,
        excerpts: &[Excerpt<'a>],
        file: &'a str,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let start = excerpts
            .iter()
            .map(|excerpt| excerpt.span.start)
            .min()
            .unwrap_or_default();
        let end = excerpts
            .iter()
            .map(|excerpt| excerpt.span.end)
            .max()
            .unwrap_or_default();
        let line = excerpts.iter().map(|excerpt| excerpt.line).min().unwrap_or(1);
        let from = self
            .source
            .get(..start)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |newline| newline + 1);
        let to = self
            .source
            .get(end..)
            .and_then(|after| after.find('\n'))
            .map_or(self.source.len(), |at| end + at);
        let annotations = excerpts.iter().map(|excerpt| {
            let span = excerpt.span.start - from..excerpt.span.end - from;
            let annotation = excerpt.kind.span(span);
            if excerpt.label.is_empty() {
                annotation
            } else {
                annotation.label(excerpt.label)
            }
        });
        let lines = self.source.get(from..to).unwrap_or_default();
        Snippet::source(lines.strip_suffix('\r').unwrap_or(lines))
            .line_start(line)
            .path(file)
            .annotations(annotations)
    }

    fn summary(&self) -> Option<String> {
        let count = |severity| self.items.iter().filter(|item| item.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let mut parts = Vec::new();
        if errors > 0 {
            parts.push(plural(errors, "error"));
        }
        if warnings > 0 {
            parts.push(plural(warnings, "warning"));
        }
        if self.omitted > 0 {
            parts.push(format!("{} not shown", self.omitted));
        }
        if parts.is_empty() {
            return None;
        }
        let mut summary = parts.join(", ");
        if self.partial {
            summary.push_str("; the rest is checked once the file is valid TOML");
        }
        Some(summary)
    }
}

impl fmt::Display for Diagnostics {
    /// One line for each: `line 3, column 5: message; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "line {}, column {}: {}; {}",
                item.line, item.column, item.message, item.remedy
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Serialize for Diagnostics {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.items.serialize(serializer)
    }
}

struct Excerpt<'a> {
    line: usize,
    span: Range<usize>,
    label: &'a str,
    kind: AnnotationKind,
}

impl<'a> Excerpt<'a> {
    fn new(line: usize, span: Range<usize>, label: &'a str, kind: AnnotationKind) -> Self {
        Self {
            line,
            span,
            label,
            kind,
        }
    }
}

/// A value of the file, with the bytes that it stands on and the key that leads to it.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
    pub(super) path: String,
}

impl<T> At<T> {
    pub(super) fn with<U>(&self, value: U) -> At<U> {
        At {
            value,
            span: self.span.clone(),
            path: self.path.clone(),
        }
    }
}

/// A problem before line and column are known.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) span: Range<usize>,
    path: String,
    message: String,
    label: String,
    remedy: String,
    related: Vec<(Range<usize>, String)>,
    notes: Vec<String>,
    missing: bool,
}

impl Finding {
    pub(super) fn error<T>(at: &At<T>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error, at, message.into(), remedy.into())
    }

    pub(super) fn warning<T>(at: &At<T>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, at, message.into(), remedy.into())
    }

    fn new<T>(severity: Severity, at: &At<T>, message: String, remedy: String) -> Self {
        Self {
            severity,
            span: at.span.clone(),
            path: at.path.clone(),
            message,
            label: String::new(),
            remedy,
            related: Vec::new(),
            notes: Vec::new(),
            missing: false,
        }
    }

    /// Says that the place is that of the table in which something is missing.
    pub(super) fn missing(mut self) -> Self {
        self.missing = true;
        self
    }

    pub(super) fn is_missing(&self) -> bool {
        self.missing
    }

    pub(super) fn says(&self, message: &str) -> bool {
        self.message == message
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// Findings of one file while it is being checked.
#[derive(Debug)]
pub(super) struct Report {
    findings: Vec<Finding>,
    beyond: usize,
    errors: usize,
    partial: bool,
    proposals_left: usize,
}

impl Report {
    pub(super) fn new() -> Self {
        // Looking for the nearest name costs time in proportion to all names: enough for a person, bounded for a machine.
        const PROPOSALS: usize = 50;
        Self {
            findings: Vec::new(),
            beyond: 0,
            errors: 0,
            partial: false,
            proposals_left: PROPOSALS,
        }
    }

    pub(super) fn push(&mut self, finding: Finding) {
        if finding.severity == Severity::Error {
            self.errors += 1;
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.beyond += 1;
        }
    }

    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// Says that the file was no TOML, so that not everything is checked.
    pub(super) fn set_partial(&mut self) {
        self.partial = true;
    }

    /// Takes over the findings of another report that `keep` lets through.
    pub(super) fn extend(&mut self, other: Self, keep: impl Fn(&Finding) -> bool) {
        other
            .findings
            .into_iter()
            .filter(keep)
            .for_each(|finding| self.push(finding));
    }

    /// The candidate that `text` was most likely meant to be.
    pub(super) fn nearest<'c>(&mut self, text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
        const LONGEST: usize = 64;
        self.proposals_left = self.proposals_left.checked_sub(1)?;
        let length = text.chars().count();
        if length > LONGEST {
            return None;
        }
        let bound = (length / 3).max(1);
        candidates
            .filter(|candidate| candidate.chars().count().abs_diff(length) <= bound)
            .map(|candidate| (strsim::osa_distance(text, candidate), candidate))
            .filter(|(distance, _)| *distance <= bound)
            .min()
            .map(|(_, candidate)| candidate)
    }

    pub(super) fn finish(mut self, source: &str) -> Diagnostics {
        self.findings.sort_by(|a, b| {
            (a.span.start, a.severity, a.span.end, &a.message).cmp(&(b.span.start, b.severity, b.span.end, &b.message))
        });
        let mut omitted = self.beyond;
        if self.findings.len() > MAX_DIAGNOSTICS {
            // What is cut must not be the error that has the file refused.
            self.findings.sort_by_key(|finding| finding.severity);
            omitted += self.findings.len() - MAX_DIAGNOSTICS;
            self.findings.truncate(MAX_DIAGNOSTICS);
            self.findings.sort_by_key(|finding| finding.span.start);
        }
        let lines = Lines::new(source);
        let items = self.findings.into_iter().map(|finding| lines.place(finding)).collect();
        Diagnostics {
            items,
            omitted,
            partial: self.partial,
            source: excerpted(source),
        }
    }
}

/// Where the lines of a text start.
struct Lines<'s> {
    source: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    fn new(source: &'s str) -> Self {
        let breaks = source
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(offset, _)| offset + 1);
        Self {
            source,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    fn place(&self, finding: Finding) -> Diagnostic {
        let span = self.within(finding.span);
        let (line, column, length) = self.position(&span);
        let related = finding
            .related
            .into_iter()
            .map(|(span, label)| {
                let span = self.within(span);
                let (line, column, length) = self.position(&span);
                Related {
                    line,
                    column,
                    length,
                    label: printable(&label),
                    span,
                }
            })
            .collect();
        Diagnostic {
            severity: finding.severity,
            line,
            column,
            length,
            path: printable(&finding.path),
            message: printable(&finding.message),
            label: printable(&finding.label),
            remedy: printable(&finding.remedy),
            related,
            notes: finding.notes.iter().map(|note| printable(note)).collect(),
            span,
        }
    }

    /// Moves a range onto character boundaries inside the text, and cuts it at the end of its first line.
    fn within(&self, span: Range<usize>) -> Range<usize> {
        let floor = |offset: usize| self.source.floor_char_boundary(offset.min(self.source.len()));
        let mut start = floor(span.start);
        // The end of a text that ends in a line break is the end of its last line: there is nothing to see behind it.
        if start == self.source.len() && self.source.ends_with('\n') {
            start -= 1;
            if self.source.get(..start).is_some_and(|before| before.ends_with('\r')) {
                start -= 1;
            }
        }
        let end = floor(span.end).max(start);
        let marked = self.source.get(start..end).unwrap_or_default();
        let line_end = marked.find(['\r', '\n']).map_or(end, |at| start + at);
        start..line_end
    }

    /// Line from 1, column in characters from 1, length in characters.
    fn position(&self, span: &Range<usize>) -> (usize, usize, usize) {
        let line = self.starts.partition_point(|start| *start <= span.start);
        let line_start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let characters = |range: Range<usize>| self.source.get(range).unwrap_or_default().chars().count();
        (line, characters(line_start..span.start) + 1, characters(span.clone()))
    }
}

/// Text that may hold anything, made safe for a terminal: control and direction characters are escaped, line breaks stay.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && c != '\n') || directs(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// True for characters that turn the direction of the text around them, or cannot be seen.
fn directs(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A file's text for excerpts, in which every place stays where it is: what the renderer does not make safe for a terminal
/// itself is replaced by a character of as many bytes.
fn excerpted(source: &str) -> String {
    source
        .chars()
        .map(|c| match c {
            // Some terminals take these for the start of an escape sequence.
            '\u{80}'..='\u{9f}' => '\u{bf}',
            _ if directs(c) => char::REPLACEMENT_CHARACTER,
            _ => c,
        })
        .collect()
}

/// `1 error`, `2 errors`.
pub(super) fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("{count} {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// A text of the file as it is quoted in a message: cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{}`", shown.replace('\n', "\\n"))
}
