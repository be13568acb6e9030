//! Tables for people: columns aligned by spaces.

use std::io::Write;

/// Cells longer than this are cut, with an ellipsis.
const CELL_CHARS_MAX: usize = 60;

/// Prints a table with a line of headings.
///
/// # Errors
/// An output that can't be written to.
pub fn print(out: &mut dyn Write, headings: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    line(&mut headings.iter().copied())?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// A cell on one line: control characters made visible, too much cut off.
fn shown(cell: &str) -> String {
    let mut shown: String = cell.chars().take(CELL_CHARS_MAX).map(|c| if c.is_control() { '·' } else { c }).collect();
    if cell.chars().count() > CELL_CHARS_MAX {
        shown.push('…');
    }
    shown
}

/// A JSON value as a cell: text without quotes, `-` for null.
pub fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".into(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time as a cell: to the second.
pub fn time(value: &serde_json::Value) -> String {
    match value.as_str() {
        Some(text) if text.len() > 20 && text.is_ascii() => format!("{}Z", &text[..19]),
        _ => cell(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_breaks_the_line() {
        let mut out = Vec::new();
        let rows = [vec!["a\nb".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "x".repeat(100)]];
        print(&mut out, &["NAME", "VALUE"], &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().next(), Some("NAME    VALUE"));
        assert_eq!(text.lines().nth(1), Some("a·b     1"));
        assert!(text.lines().nth(2).unwrap().ends_with("x…"));
    }
}
