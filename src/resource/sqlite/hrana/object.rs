//! JSON objects, and nothing in their place: left to itself, serde takes an array for an object with its members in order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// What is read from an object.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        T::deserialize(OfObject(deserializer)).map(Object)
    }
}

/// What a derived `Deserialize` asks for a struct; there are only objects to give.
struct OfObject<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for OfObject<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(OnlyMembers(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Members, and no items.
struct OnlyMembers<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OnlyMembers<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(members)
    }
}

#[cfg(test)]
mod tests {
    use crate::resource::sqlite::hrana::{Pipeline, Version};

    #[test]
    fn an_array_is_no_object() {
        let requests = |text: &str| format!("{{\"requests\":[{text}]}}");
        for text in [
            r#"["close",null,null,null,null]"#,
            r#"{"type":"execute","stmt":["SELECT 1",null,null,null,null]}"#,
            r#"{"type":"execute","stmt":{"sql":"SELECT ?","args":[["null",null,null]]}}"#,
            r#"{"type":"execute","stmt":{"sql":"SELECT ?","named_args":[["a",{"type":"null"}]]}}"#,
            r#"{"type":"batch","batch":[[]]}"#,
            r#"{"type":"batch","batch":{"steps":[[null,{"sql":"SELECT 1"}]]}}"#,
        ] {
            let error = Pipeline::parse(requests(text).as_bytes(), Version::V3).expect_err(text);
            assert!(error.to_string().contains("expected an object"), "{text}: {error}");
        }
        assert!(Pipeline::parse_cursor(br#"{"batch":[[]]}"#).is_err());
        assert!(Pipeline::parse(requests(r#"{"type":"close"}"#).as_bytes(), Version::V3).is_ok());
    }
}
