//! What both listeners say of themselves: an OpenAPI document for each, as it lies in this folder. It has nothing of the gate that
//! serves it, so that nobody is asked who they are.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::respond::Answer;

/// The admin listener's document, `/v1/openapi.json`.
pub const ADMIN: &str = include_str!("admin.json");
/// The one of the data listener's reserved paths, `/-/openapi.json`.
pub const DATA: &str = include_str!("data.json");

/// A document as an answer.
pub fn answer(document: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(document.as_bytes())));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::server::routes::Row;
    use crate::server::{admin, data, elections};

    fn read(document: &str) -> Value {
        serde_json::from_str(document).expect("JSON")
    }

    /// Every path with every method that it takes.
    fn served<R>(rows: &[Row<R>]) -> BTreeSet<(String, String)> {
        let each = |row: &Row<R>| {
            let path = row.path.to_owned();
            row.methods.split(", ").map(move |method| (path.clone(), method.to_owned())).collect::<Vec<_>>()
        };
        rows.iter().flat_map(each).collect()
    }

    fn described(document: &Value) -> BTreeSet<(String, String)> {
        let paths = document["paths"].as_object().expect("paths");
        let methods = |path: &Value| path.as_object().expect("a path").keys().cloned().collect::<Vec<_>>();
        let each = |(path, item): (&String, &Value)| {
            methods(item).into_iter().map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
        };
        paths.iter().flat_map(each).collect()
    }

    #[test]
    fn what_is_served_is_described_and_nothing_else() {
        assert_eq!(described(&read(ADMIN)), served(admin::ROUTES));
        let mut data = served(data::ROUTES);
        data.extend(served(elections::ROUTES));
        assert_eq!(described(&read(DATA)), data);
    }

    /// All objects in a value.
    fn objects<'a>(value: &'a Value, found: &mut Vec<&'a serde_json::Map<String, Value>>) {
        match value {
            Value::Object(members) => {
                found.push(members);
                members.values().for_each(|value| objects(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| objects(item, found)),
            _ => {}
        }
    }

    #[test]
    fn nothing_is_named_that_is_not_there_and_nothing_is_there_that_is_not_named() {
        for text in [ADMIN, DATA] {
            let document = read(text);
            let mut all = Vec::new();
            objects(&document, &mut all);
            let named: BTreeSet<&str> = all.iter().filter_map(|object| object.get("$ref")?.as_str()).collect();
            for name in &named {
                assert!(document.pointer(name.trim_start_matches('#')).is_some(), "{name} is not there");
            }
            for kind in ["schemas", "responses", "headers"] {
                for name in document["components"][kind].as_object().expect("components").keys() {
                    let name = format!("#/components/{kind}/{name}");
                    // What an event stream has in it, no schema of OpenAPI 3.1 says.
                    let is_event = name.ends_with("/Event") || name.ends_with("/Lost");
                    assert!(named.contains(name.as_str()) || is_event, "{name} is not used");
                }
            }
            // An operation has answers; a link only names one.
            let (operations, links): (Vec<_>, Vec<_>) = all
                .iter()
                .filter_map(|object| Some((object.get("operationId")?.as_str()?, object.contains_key("responses"))))
                .partition(|(_, is_operation)| *is_operation);
            let ids: BTreeSet<&str> = operations.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids.len(), operations.len(), "an operationId stands once");
            for (id, _) in links {
                assert!(ids.contains(id), "{id} is linked and not there");
            }
        }
    }

    #[test]
    fn what_both_have_is_the_same() {
        let (admin, data) = (read(ADMIN), read(DATA));
        for (name, schema) in admin["components"]["schemas"].as_object().expect("schemas") {
            if let Some(other) = data["components"]["schemas"].get(name) {
                assert_eq!(schema, other, "{name}");
            }
        }
        assert_eq!(admin["components"]["securitySchemes"], data["components"]["securitySchemes"]);
    }
}
