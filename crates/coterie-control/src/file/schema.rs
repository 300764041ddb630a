//! The JSON Schema of the enclave file, for editors: made from the description of the keys that the reader follows.

use serde_json::{Map, Value, json};

use super::keys::{COMPARISON, Key, Kind, NAME, ROOT, Table};

/// The JSON Schema (draft 2020-12) of the enclave file.
///
/// What it accepts may still be refused by [`super::parse`], which also compares entries with each other; what it refuses
/// is always refused.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = object(&ROOT);
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("Coterie enclave file, version 1")),
    ];
    schema.extend(head.map(|(key, value)| (key.to_owned(), value)));
    Value::Object(schema)
}

/// [`json_schema`] as the text of a file: keys in order of name, two blanks a level, a line break at the end.
#[must_use]
pub fn json_schema_text() -> String {
    let text = serde_json::to_string_pretty(&json_schema()).expect("a value of text keys is always written");
    text + "\n"
}

fn object(table: &Table) -> Map<String, Value> {
    let properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    object.insert("description".to_owned(), json!(table.about));
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        object.insert("required".to_owned(), json!(required));
    }
    object
}

fn property(key: &Key) -> Value {
    let mut property = match &key.kind {
        Kind::Text(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::Prose(most) => json!({ "type": "string", "maxLength": most }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::List(pattern, least, most) => json!({
            "type": "array",
            "items": { "type": "string", "pattern": pattern },
            "minItems": least,
            "maxItems": most,
            "uniqueItems": true,
        }),
        Kind::Choices(words) => json!({
            "type": "array",
            "items": { "enum": words },
            "minItems": 1,
            "maxItems": words.len(),
            "uniqueItems": true,
        }),
        Kind::Comparison => json!({
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": COMPARISON }],
        }),
        Kind::Labels => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Table(table) => Value::Object(object(table)),
        Kind::Named(table) => {
            let mut named = json!({
                "type": "object",
                "propertyNames": { "pattern": NAME },
                "additionalProperties": object(table),
            });
            if key.required {
                named["minProperties"] = json!(1);
            }
            named
        }
        Kind::Tables(table) => json!({ "type": "array", "items": object(table) }),
    };
    property["description"] = json!(key.about);
    // Scalars and lists of text are written alike in TOML and in JSON; for the rest there is no example.
    if let Ok(example) = serde_json::from_str::<Value>(key.example) {
        property["examples"] = json!([example]);
    }
    if let Ok(default) = serde_json::from_str::<Value>(key.default) {
        property["default"] = default;
    }
    property
}
