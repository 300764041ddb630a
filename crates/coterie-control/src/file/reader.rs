//! Typed access to the tables of a TOML document, by the tables of [`super::keys`].

use std::ops::Range;

use coterie_model::Name;
use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::{At, Finding, Report, quoted},
    keys::{Key, Kind, ROOT, TABLES, Table},
    pattern::propose,
    value::Fault,
};

/// One table of the document, read by its description.
pub(super) struct Fields<'d, 'i> {
    spec: &'static Table,
    table: &'d DeTable<'i>,
    /// The place of the table itself: its header, or the braces of an inline table.
    pub(super) at: At<()>,
}

impl<'d, 'i> Fields<'d, 'i> {
    /// Opens a table: unknown keys and missing ones are reported here, wrong types when the key is read.
    pub(super) fn open(spec: &'static Table, table: &'d DeTable<'i>, at: At<()>, report: &mut Report) -> Self {
        let fields = Self { spec, table, at };
        for (key, _) in table {
            if spec.key(key.get_ref()).is_none() {
                fields.unknown(key.get_ref(), key.span(), report);
            }
        }
        for key in spec.keys.iter().filter(|key| key.required) {
            if !table.contains_key(key.name) {
                report.push(fields.missing(key));
            }
        }
        fields
    }

    /// Whether it has no key that is not known.
    pub(super) fn all_known(&self) -> bool {
        self.table.keys().all(|key| self.spec.key(key.get_ref()).is_some())
    }

    /// Whether it has no key at all.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn text(&self, name: &str, report: &mut Report) -> Option<At<String>> {
        let (key, at) = self.value(name)?;
        match at.value {
            DeValue::String(text) => {
                let text = at.with(text.to_string());
                if let Kind::Prose(most) = key.kind
                    && text.value.chars().count() > most
                {
                    let length = text.value.chars().count();
                    let message = format!("`{name}` has {length} characters, more than {most}");
                    report.push(Finding::error(&text, message, "say it in fewer words"));
                }
                Some(text)
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                report.push(wrong_type(key, &at));
                None
            }
        }
    }

    /// A text that `parse` makes a value of.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        let text = self.text(name, report)?;
        parsed(text, report, parse)
    }

    pub(super) fn name(&self, name: &str, what: &str, report: &mut Report) -> Option<At<Name>> {
        self.text(name, report).and_then(|text| name_of(&text, what, report))
    }

    /// A whole number inside the bounds that the key has.
    pub(super) fn integer<T: TryFrom<u64>>(&self, name: &str, report: &mut Report) -> Option<At<T>> {
        let (key, at) = self.value(name)?;
        let DeValue::Integer(number) = at.value else {
            report.push(wrong_type(key, &at));
            return None;
        };
        let Kind::Integer(least, most) = key.kind else {
            return None;
        };
        let read = u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|n| (least..=most).contains(n));
        match read.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Some(at.with(number)),
            None => {
                let message = format!("`{name}` is out of range: {}", number.as_str());
                let remedy = if least == most {
                    format!("write {name} = {least}")
                } else {
                    format!("write a number from {least} to {most}, as {name} = {}", key.example)
                };
                report.push(Finding::error(&at, message, remedy));
                None
            }
        }
    }

    pub(super) fn boolean(&self, name: &str, report: &mut Report) -> Option<At<bool>> {
        let (key, at) = self.value(name)?;
        match at.value {
            DeValue::Boolean(value) => Some(at.with(*value)),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                report.push(wrong_type(key, &at));
                None
            }
        }
    }

    /// A number or a text; which of the two is the caller's to read.
    pub(super) fn number_or_text(&self, name: &str, report: &mut Report) -> Option<At<String>> {
        let (_, at) = self.value(name)?;
        match at.value {
            DeValue::Integer(number) => Some(at.with(number.to_string())),
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => self.text(name, report),
        }
    }

    /// A list of texts, with the place of each; the outer place is that of the list. `None` where the key is missing.
    pub(super) fn texts(&self, name: &str, report: &mut Report) -> Option<At<Vec<At<String>>>> {
        let (key, at) = self.value(name)?;
        let DeValue::Array(array) = at.value else {
            report.push(wrong_type(key, &at));
            return None;
        };
        let mut texts = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let item_at = At {
                value: item.get_ref(),
                span: item.span(),
                path: format!("{}[{index}]", at.path),
            };
            match item.get_ref() {
                DeValue::String(text) => texts.push(item_at.with(text.to_string())),
                other @ (DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)
                | DeValue::Table(_)) => {
                    let message = format!("an entry of `{name}` must be text, not {}", described(other));
                    let remedy = format!("write every entry in quotes, as {name} = {}", key.example);
                    report.push(Finding::error(&item_at, message, remedy).label("expected text"));
                }
            }
        }
        let (least, most) = match key.kind {
            Kind::List(_, least, most) => (least, most),
            Kind::Choices(words) => (1, words.len()),
            Kind::Text(_)
            | Kind::Prose(_)
            | Kind::Choice(_)
            | Kind::Integer(..)
            | Kind::Boolean
            | Kind::Comparison
            | Kind::Labels
            | Kind::Table(_)
            | Kind::Named(_)
            | Kind::Tables(_) => (0, usize::MAX),
        };
        if array.len() < least {
            let remedy = format!("add an entry, as {name} = {}{}", key.example, or_leave_out(key));
            report.push(Finding::error(&at, format!("`{name}` is empty"), remedy));
        } else if array.len() > most {
            let message = format!("`{name}` has {} entries, more than {most}", array.len());
            report.push(Finding::error(&at, message, format!("keep at most {most} entries")));
        }
        Some(at.with(texts))
    }

    /// A list of texts that `parse` makes values of.
    pub(super) fn parsed_list<T>(
        &self,
        name: &str,
        report: &mut Report,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<At<List<T>>> {
        let errors = report.errors();
        let list = self.texts(name, report)?;
        let (at, texts) = (list.with(()), list.value);
        let entries = texts
            .into_iter()
            .filter_map(|text| parsed(text, report, &parse))
            .collect();
        Some(at.with(List {
            entries,
            whole: report.errors() == errors,
        }))
    }

    /// A list of names; empty where the key is missing.
    pub(super) fn names(&self, name: &str, what: &str, report: &mut Report) -> List<Name> {
        let errors = report.errors();
        let texts = self.texts(name, report).map(|list| list.value).unwrap_or_default();
        let entries = texts.iter().filter_map(|text| name_of(text, what, report)).collect();
        List {
            entries,
            whole: report.errors() == errors,
        }
    }

    /// A table inside this one.
    pub(super) fn table(&self, name: &str, report: &mut Report) -> Option<Self> {
        let (key, at) = self.value(name)?;
        let (DeValue::Table(table), Kind::Table(spec)) = (at.value, &key.kind) else {
            report.push(wrong_type(key, &at));
            return None;
        };
        Some(Fields::open(spec, table, at.with(()), report))
    }

    /// The entries of a table whose keys are the author's own.
    pub(super) fn entries(&self, name: &str, report: &mut Report) -> Option<Vec<(At<String>, At<&'d DeValue<'i>>)>> {
        let (key, at) = self.value(name)?;
        let DeValue::Table(table) = at.value else {
            report.push(wrong_type(key, &at));
            return None;
        };
        let entries = table.iter().map(|(key, value)| {
            let path = join(&at.path, key.get_ref());
            let key = At {
                value: key.get_ref().to_string(),
                span: key.span(),
                path: path.clone(),
            };
            (
                key,
                At {
                    value: value.get_ref(),
                    span: value.span(),
                    path,
                },
            )
        });
        Some(entries.collect())
    }

    /// The tables of `[NAME.*]`, with the name of each; those without a valid name are reported and left out.
    /// The flag says whether none was left out.
    pub(super) fn named(&self, name: &str, report: &mut Report) -> (Vec<(At<Name>, Self)>, bool) {
        let Some(Key {
            kind: Kind::Named(spec),
            ..
        }) = self.spec.key(name)
        else {
            return (Vec::new(), true);
        };
        let errors = report.errors();
        let mut tables = Vec::new();
        let entries = self.entries(name, report).unwrap_or_default();
        let mut whole = report.errors() == errors;
        for (key, value) in entries {
            let DeValue::Table(table) = value.value else {
                let message = format!("`{}` must be a table, not {}", key.path, described(value.value));
                let remedy = format!("write it as {} with its keys below", spec.header.replace("NAME", "…"));
                report.push(Finding::error(&value, message, remedy).label("expected a table"));
                whole = false;
                continue;
            };
            let fields = Fields::open(spec, table, value.with(()), report);
            match name_of(&key, name, report) {
                Some(name) => tables.push((name, fields)),
                None => whole = false,
            }
        }
        (tables, whole)
    }

    /// The tables of `[[NAME]]`, in order.
    pub(super) fn tables(&self, name: &str, report: &mut Report) -> Vec<Self> {
        let Some((key, at)) = self.value(name) else {
            return Vec::new();
        };
        let (DeValue::Array(array), Kind::Tables(spec)) = (at.value, &key.kind) else {
            report.push(wrong_type(key, &at));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let item_at = At {
                value: item.get_ref(),
                span: item.span(),
                path: format!("{}[{index}]", at.path),
            };
            if let DeValue::Table(table) = item_at.value {
                tables.push(Fields::open(spec, table, item_at.with(()), report));
            } else {
                let message = format!("an entry of `{name}` must be a table, not {}", described(item_at.value));
                let remedy = format!("write each as {} with its keys below", spec.header);
                report.push(Finding::error(&item_at, message, remedy).label("expected a table"));
            }
        }
        tables
    }

    fn value(&self, name: &str) -> Option<(&'static Key, At<&'d DeValue<'i>>)> {
        let key = self.spec.key(name)?;
        let value = self.table.get(name)?;
        Some((
            key,
            At {
                value: value.get_ref(),
                span: value.span(),
                path: join(&self.at.path, name),
            },
        ))
    }

    fn missing(&self, key: &Key) -> Finding {
        let place = if self.at.path.is_empty() {
            "the file".to_owned()
        } else {
            format!("`{}`", self.at.path)
        };
        let remedy = match &key.kind {
            Kind::Table(spec) | Kind::Named(spec) | Kind::Tables(spec) => format!("add a table {}", spec.header),
            Kind::Text(_)
            | Kind::Prose(_)
            | Kind::Choice(_)
            | Kind::Integer(..)
            | Kind::Boolean
            | Kind::List(..)
            | Kind::Choices(_)
            | Kind::Comparison
            | Kind::Labels => format!("add a line as {} = {}", key.name, key.example),
        };
        let at = At {
            value: (),
            span: self.at.span.clone(),
            path: join(&self.at.path, key.name),
        };
        let missing = match key.kind {
            Kind::Named(_) => format!("{place} has no {}", key.name),
            Kind::Text(_)
            | Kind::Prose(_)
            | Kind::Choice(_)
            | Kind::Integer(..)
            | Kind::Boolean
            | Kind::List(..)
            | Kind::Choices(_)
            | Kind::Comparison
            | Kind::Labels
            | Kind::Table(_)
            | Kind::Tables(_) => {
                format!("{place} lacks `{}`", key.name)
            }
        };
        Finding::error(&at, missing, remedy)
            .missing()
            .note(format!("{}: {}", key.name, key.about))
    }

    fn unknown(&self, name: &str, span: Range<usize>, report: &mut Report) {
        let at = At {
            value: (),
            span,
            path: join(&self.at.path, name),
        };
        let known = || self.spec.keys.iter().map(|key| key.name);
        let elsewhere = || TABLES.iter().find(|table| table.key(name).is_some());
        let remedy = if let Some(nearest) = report.nearest(name, known()) {
            format!("did you mean `{nearest}`?")
        } else if let Some(table) = elsewhere() {
            format!("`{name}` is a key of {}: move it there", table.header)
        } else if std::ptr::eq(self.spec, &raw const ROOT) {
            format!(
                "remove it; the top of the file knows {}",
                known().collect::<Vec<_>>().join(", ")
            )
        } else {
            format!(
                "remove it; {} knows {}",
                self.spec.header,
                known().collect::<Vec<_>>().join(", ")
            )
        };
        report.push(Finding::error(&at, format!("unknown key {}", quoted(name)), remedy).label("unknown key"));
    }
}

/// The entries of a list that could be read.
#[derive(Debug, Clone)]
pub(super) struct List<T> {
    pub(super) entries: Vec<At<T>>,
    /// Whether these are all of them, so that what follows from them can be judged.
    pub(super) whole: bool,
}

/// Reads one text, and reports what is wrong with it.
pub(super) fn parsed<T>(
    text: At<String>,
    report: &mut Report,
    parse: impl FnOnce(&str) -> Result<T, Fault>,
) -> Option<At<T>> {
    match parse(&text.value) {
        Ok(value) => Some(text.with(value)),
        Err(fault) => {
            report.push(Finding::error(&text, fault.message, fault.remedy));
            None
        }
    }
}

/// Reads one name of a `what`.
pub(super) fn name_of(text: &At<String>, what: &str, report: &mut Report) -> Option<At<Name>> {
    match Name::new(&text.value) {
        Ok(name) => Some(text.with(name)),
        Err(error) => {
            let article = if what.starts_with(['a', 'e', 'i', 'o', 'u']) {
                "an"
            } else {
                "a"
            };
            let message = format!("{} is no name of {article} {what}: {error}", quoted(&text.value));
            let remedy = match propose(&text.value) {
                Some(proposal) => format!("write \"{proposal}\""),
                None => "write 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or a digit".to_owned(),
            };
            report.push(Finding::error(text, message, remedy));
            None
        }
    }
}

/// A value in a sentence.
pub(super) fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "text".to_owned(),
        DeValue::Integer(number) => format!("the number {}", quoted(&number.to_string())),
        DeValue::Float(number) => format!("the fraction {}", quoted(number.as_str())),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// `parent.key`, quoted where TOML needs it.
pub(super) fn join(parent: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let key = if bare {
        key.to_owned()
    } else {
        format!("\"{}\"", key.escape_debug())
    };
    if parent.is_empty() {
        key
    } else {
        format!("{parent}.{key}")
    }
}

fn wrong_type(key: &Key, at: &At<&DeValue<'_>>) -> Finding {
    let expected = key.kind.expected();
    let message = format!("`{}` must be {expected}, not {}", key.name, described(at.value));
    let remedy = match &key.kind {
        Kind::Table(spec) | Kind::Named(spec) | Kind::Tables(spec) => {
            format!("write it as {} with its keys below", spec.header)
        }
        Kind::Text(_)
        | Kind::Prose(_)
        | Kind::Choice(_)
        | Kind::Integer(..)
        | Kind::Boolean
        | Kind::List(..)
        | Kind::Choices(_)
        | Kind::Comparison
        | Kind::Labels => format!("write it as {} = {}", key.name, key.example),
    };
    Finding::error(at, message, remedy).label(format!("expected {expected}"))
}

fn or_leave_out(key: &Key) -> &'static str {
    if key.required { "" } else { ", or leave the key out" }
}
