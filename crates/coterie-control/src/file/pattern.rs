//! Patterns that select names, and the name that a text was meant to be.

use std::fmt;

use coterie_model::Name;
use serde::{Serialize, Serializer};

/// Longest name and longest pattern in characters, the limit of a DNS label (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 63;

/// A pattern over names: `*` stands for any run of characters, also none, `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Checks that `text` is a pattern over names.
    ///
    /// # Errors
    /// [`PatternError`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let length = text.chars().count();
        if length > MAX_NAME {
            return Err(PatternError::TooLong { length });
        }
        match text.chars().find(|c| !is_label_char(*c) && *c != '*' && *c != '?') {
            Some(found) => Err(PatternError::Character { found }),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// Whether `name` is one of those that the pattern stands for.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        glob(self.0.as_bytes(), name.as_bytes())
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for NamePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Why a text is no pattern over names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No character at all.
    #[error("it is empty")]
    Empty,
    /// More than 63 characters.
    #[error("it has {length} characters, more than {MAX_NAME}")]
    TooLong {
        /// Characters found.
        length: usize,
    },
    /// Neither a character of a name nor `*` or `?`.
    #[error("it holds {}", character(*found))]
    Character {
        /// The first such character.
        found: char,
    },
}

fn is_label_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// A character named in a message, so that a blank or a control character can be seen.
pub(super) fn character(c: char) -> String {
    if c == ' ' {
        "a blank".to_owned()
    } else {
        format!("`{}`", c.escape_debug())
    }
}

/// Turns a text into a name by lower case and hyphens; `None` where nothing sensible comes of it.
pub(super) fn propose(text: &str) -> Option<String> {
    let mapped: String = text
        .chars()
        .take(MAX_NAME)
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if matches!(c, ' ' | '_' | '.') { '-' } else { c })
        .collect();
    let trimmed = mapped.trim_matches('-');
    Name::new(trimmed).is_ok().then(|| trimmed.to_owned())
}

/// Matches in at most `pattern.len() * text.len()` steps: only the last `*` is ever tried again.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                t += 1;
            }
            Some(wanted) if wanted == byte => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((star_p, star_t)) = star else {
                    return false;
                };
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_near_name_is_proposed() {
        assert_eq!(propose("Web_1").as_deref(), Some("web-1"));
        assert_eq!(propose("ü"), None);
        assert_eq!(propose(""), None);
    }

    #[test]
    fn patterns_match_as_written() {
        let matches = |pattern: &str, name: &str| NamePattern::new(pattern).unwrap().matches(name);
        assert!(matches("*", "web-1"));
        assert!(matches("web-*", "web-1"));
        assert!(matches("web-*", "web-"));
        assert!(matches("*-1", "web-1-1"));
        assert!(matches("w?b*1", "web-1"));
        assert!(!matches("web-?", "web-10"));
        assert!(!matches("web", "web-1"));
        assert!(!matches("web-*", "app-1"));
        assert!(NamePattern::new("web[12]").is_err());
        assert!(NamePattern::new("").is_err());
    }

    /// The plain recursive definition, as oracle.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            Some((b'?', rest)) => !text.is_empty() && slow(rest, &text[1..]),
            Some((byte, rest)) => text.first() == Some(byte) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn fast_and_slow_matching_agree(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
