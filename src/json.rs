//! JSON strings, written straight into an answer's bytes.

/// A JSON string. It can be a large value of a database: nothing is copied besides.
pub fn string(out: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing to memory can't fail");
    }
}

/// A JSON string or null.
pub fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// A part of a JSON string, without the quotes around it.
pub fn escaped(out: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        return out.extend_from_slice(text.as_bytes());
    }
    let quoted = serde_json::to_vec(text).expect("any text can be a JSON string");
    out.extend_from_slice(&quoted[1..quoted.len() - 1]);
}

/// Whether nothing in it has to be escaped.
fn is_plain(text: &str) -> bool {
    // Without stopping at the first such byte: so it is looked at in many at once.
    text.bytes().fold(true, |is_plain, byte| is_plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_as_serde_has_them() {
        let texts = (0..=0x2100).filter_map(char::from_u32).map(|c| format!("a{c}b"));
        for text in texts.chain([String::new(), "\"".into(), "\u{10ffff}\\n".into()]) {
            let mut out = Vec::new();
            string(&mut out, &text);
            assert_eq!(out, serde_json::to_vec(&text).unwrap(), "{text:?}");
            let mut part = vec![b'"'];
            escaped(&mut part, &text);
            part.push(b'"');
            assert_eq!(part, out, "{text:?}");
        }
    }
}
