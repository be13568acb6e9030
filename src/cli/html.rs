//! What every page that a command writes needs.

/// Text as it may stand in an element or an attribute of HTML or SVG. Control characters, which HTML doesn't allow, become visible ones.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('·'),
            c => escaped.push(c),
        }
    }
    escaped
}
