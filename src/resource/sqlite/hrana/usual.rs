//! Bodies as drivers mostly send them, read in one pass over their bytes: statements that are executed, with arguments that are
//! null, integers or texts, and a close; on one line, and without an escape. Serde takes three times the instructions for a short
//! one.
//!
//! **Invariant.** What is read here is what serde would read. Whatever is out of the ordinary (another kind of request or argument,
//! a member that isn't known or comes twice, a mistake) isn't read here at all: [`pipeline`] gives `None`, and serde reads the
//! body, or says what is wrong with it. Tests read random bodies both ways.

use super::{Args, Pipeline, Request, Sql, Statement, Value};

/// Reads the body of `pipeline`, where it is a usual one.
pub fn pipeline(body: &str) -> Option<Pipeline> {
    // In one look, since to look for them in each text takes longer.
    if body.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'\\')) {
        return None;
    }
    let mut reader = Reader { text: body, at: 0 };
    let (mut baton, mut requests) = (None, None);
    reader.members(|reader, name| match name {
        "baton" => once(&mut baton, if reader.is_null() { None } else { Some(reader.string()?.to_owned()) }),
        "requests" => once(&mut requests, reader.items(request)?),
        _ => None,
    })?;
    reader.is_at_end().then(|| Pipeline { baton: baton.flatten(), requests: requests.unwrap_or_default() })
}

/// Keeps a member; `None` where it is there already.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = Some(value);
    Some(())
}

fn request(reader: &mut Reader<'_>) -> Option<Request> {
    let (mut kind, mut stmt) = (None, None);
    reader.members(|reader, name| match name {
        "type" => once(&mut kind, reader.string()?),
        "stmt" => once(&mut stmt, statement(reader)?),
        _ => None,
    })?;
    match (kind?, stmt) {
        ("execute", Some(stmt)) => Some(Request::Execute(stmt)),
        ("close", None) => Some(Request::Close),
        _ => None,
    }
}

fn statement(reader: &mut Reader<'_>) -> Option<Statement> {
    let (mut sql, mut positional, mut named, mut want_rows) = (None, None, None, None);
    reader.members(|reader, name| match name {
        "sql" => once(&mut sql, reader.string()?.to_owned()),
        "args" => once(&mut positional, reader.items(value)?),
        // There they are none.
        "named_args" => once(&mut named, reader.items(|_| None::<()>)?),
        "want_rows" => once(&mut want_rows, reader.boolean()?),
        _ => None,
    })?;
    let args = Args { positional: positional.unwrap_or_default(), named: Vec::new() };
    Some(Statement { sql: Sql::Text(sql?), args, want_rows: want_rows.unwrap_or(true) })
}

fn value(reader: &mut Reader<'_>) -> Option<Value> {
    let (mut kind, mut value) = (None, None);
    reader.members(|reader, name| match name {
        "type" => once(&mut kind, reader.string()?),
        "value" => once(&mut value, reader.string()?),
        _ => None,
    })?;
    match (kind?, value) {
        ("null", None) => Some(Value::Null),
        ("integer", Some(digits)) => digits.parse().ok().map(Value::Integer),
        ("text", Some(text)) => Some(Value::Text(text.to_owned())),
        _ => None,
    }
}

/// Reads JSON from its start on; `None` of each method: it isn't there, or not in its usual form.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that isn't a space, left where it is.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b' ' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn is_word(&mut self, word: &str) -> bool {
        let is_it = self.peek().is_some() && self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if is_it {
            self.at += word.len();
        }
        is_it
    }

    fn is_null(&mut self) -> bool {
        self.is_word("null")
    }

    fn boolean(&mut self) -> Option<bool> {
        if self.is_word("true") {
            return Some(true);
        }
        self.is_word("false").then_some(false)
    }

    /// A text; there are no escapes in the whole body.
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = &self.text[self.at..];
        let len = memchr::memchr(b'"', rest.as_bytes())?;
        self.at += len + 1;
        Some(&rest[..len])
    }

    /// An object: `member` reads each member's value.
    fn members(&mut self, mut member: impl FnMut(&mut Reader<'a>, &'a str) -> Option<()>) -> Option<()> {
        self.list(b'{', b'}', |reader| {
            let name = reader.string()?;
            reader.expect(b':')?;
            member(reader, name)
        })
    }

    /// An array: `item` reads each of its items.
    fn items<T>(&mut self, mut item: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        self.list(b'[', b']', |reader| {
            all.push(item(reader)?);
            Some(())
        })?;
        Some(all)
    }

    fn list(&mut self, start: u8, end: u8, mut item: impl FnMut(&mut Reader<'a>) -> Option<()>) -> Option<()> {
        self.expect(start)?;
        if self.peek()? == end {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            match self.next()? {
                b',' => {}
                byte => return (byte == end).then_some(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::sqlite::hrana::{Version, any_pipeline};

    const USUAL: [&str; 5] = [
        r#"{"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t (v) VALUES (?)","args":[{"type":"text","value":"hello"}]}},{"type":"close"}]}"#,
        r#"{"baton":null,"requests":[{"type":"execute","stmt":{"sql":"SELECT 1","args":[],"named_args":[],"want_rows":true}}]}"#,
        r#" { "baton" : "b.1" , "requests" : [ { "stmt" : { "want_rows" : false, "sql" : "ä" } , "type" : "execute" } ] } "#,
        r#"{"requests":[{"type":"execute","stmt":{"sql":"?","args":[{"value":"-9223372036854775808","type":"integer"},{"type":"null"}]}}]}"#,
        r#"{"requests":[]}"#,
    ];
    /// What bodies are changed by: pieces that mean something in them.
    const PIECES: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\n",
        "\u{1}",
        " ",
        "null",
        "true",
        "1",
        "\"type\"",
        "\"value\":",
        "\"x\":1,",
        "\"sql_id\":1",
        "\"base64\":\"\"",
        "\"close\"",
        "\"batch\"",
        "ä",
        "-",
        "\"requests\":[],",
    ];

    fn agree(body: &str) -> Result<bool, TestCaseError> {
        let Some(read) = pipeline(body) else { return Ok(false) };
        let by_serde = any_pipeline(body, Version::V2);
        prop_assert_eq!(
            format!("{:?}", Ok::<_, super::super::ProtocolError>(read)),
            format!("{by_serde:?}"),
            "{}",
            body
        );
        Ok(true)
    }

    #[test]
    fn usual_bodies_are_read_here() {
        for body in USUAL {
            assert!(agree(body).expect("as by serde"), "{body}");
        }
    }

    #[test]
    fn the_rest_is_left_to_serde() {
        for body in [
            "",
            "[]",
            r#"{"requests":[]} x"#,
            r#"{"requests":[],"requests":[]}"#,
            r#"{"requests":[],}"#,
            r#"{"requests":[{"type":"execute","stmt":{"sql":"a\nb"}}]}"#,
            r#"{"requests":[{"type":"execute","stmt":{"sql_id":1}}]}"#,
            r#"{"requests":[{"type":"execute","stmt":{"sql":"?","args":[{"type":"float","value":1.5}]}}]}"#,
            r#"{"requests":[{"type":"execute","stmt":{"sql":"?","args":[{"type":"integer","value":"9223372036854775808"}]}}]}"#,
            r#"{"requests":[{"type":"close","stmt":{"sql":""}}]}"#,
            r#"{"requests":[{"type":"batch","batch":{"steps":[]}}]}"#,
        ] {
            assert!(pipeline(body).is_none(), "{body}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
        #[test]
        fn whatever_is_read_here_is_read_as_by_serde(
            start in 0..USUAL.len(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..PIECES.len(), any::<bool>()), 0..4),
        ) {
            let mut body: Vec<char> = USUAL[start].chars().collect();
            for (place, piece, replaces) in changes {
                let at = place.index(body.len() + 1);
                let end = if replaces { (at + 1).min(body.len()) } else { at };
                body.splice(at..end, PIECES[piece].chars());
            }
            agree(&body.into_iter().collect::<String>())?;
        }
    }
}
