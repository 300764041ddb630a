//! Names that say nothing (CONTRIBUTING.md, "Names").

/// Words that no module and no type has in its name.
const NOWHERE: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "manager", "managers", "misc",
];

/// Words that no type's name ends with: they say that it is a thing, not which.
const NO_TYPE_ENDS: [&str; 4] = ["handler", "info", "data", "context"];

/// The word in a name that says nothing, if there is one.
pub(crate) fn empty_word(name: &str, is_module: bool) -> Option<String> {
    let words = words(name);
    let nowhere = words.iter().find(|word| NOWHERE.contains(&word.as_str()));
    let last = words
        .last()
        .filter(|word| !is_module && NO_TYPE_ENDS.contains(&word.as_str()));
    nowhere.or(last).cloned()
}

/// `snake_case` and `CamelCase` in words, lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut starts = true;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            starts = true;
            continue;
        }
        match words.last_mut() {
            Some(word) if !starts && !c.is_uppercase() => word.push(c),
            Some(_) | None => words.push(c.to_lowercase().collect()),
        }
        starts = false;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_words_are_found_and_others_left_alone() {
        let word = |name, is_module| empty_word(name, is_module);
        assert_eq!(word("string_utils", true).as_deref(), Some("utils"));
        assert_eq!(word("PeerManager", false).as_deref(), Some("manager"));
        assert_eq!(word("SessionData", false).as_deref(), Some("data"));
        assert_eq!(word("Datagram", false), None);
        assert_eq!(word("data", true), None);
        assert_eq!(word("HandlerOrder", false), None);
    }
}
