//! The terminal: colours where they are wanted, and lines that fit.

use std::os::fd::BorrowedFd;

/// Lines are never longer, and no terminal is taken for narrower than the second.
const COLUMNS: (usize, usize) = (80, 40);

/// What text is written on.
#[derive(Debug, Clone, Copy)]
pub struct Paper {
    has_colours: bool,
    columns: usize,
}

/// What colours are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Nothing.
    Plain,
    /// What matters less.
    Dim,
    /// What matters more.
    Strong,
    /// As it should be.
    Good,
    /// As it should never be.
    Bad,
    /// Something is about to go wrong.
    Warn,
    /// Who it is about.
    Lane(usize),
}

impl Paper {
    /// The terminal behind this descriptor; `None` where it is a pipe or a file.
    pub fn of(terminal: Option<BorrowedFd<'_>>) -> Paper {
        let Some(terminal) = terminal else { return Paper { has_colours: false, columns: COLUMNS.0 } };
        // As no-color.org has it: set, and not empty.
        let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let columns = rustix::termios::tcgetwinsize(terminal).map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { COLUMNS.0 } else { columns.clamp(COLUMNS.1, COLUMNS.0) };
        Paper { has_colours: !says_no && !is_dumb, columns }
    }

    /// How many columns there are.
    pub fn width(self) -> usize {
        self.columns
    }

    /// The text in a colour, if there are any.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        const LANES: [&str; 5] = ["36", "35", "34", "33", "32"];
        let code = match colour {
            Colour::Plain => return text.to_owned(),
            Colour::Dim => "2",
            Colour::Strong => "1",
            Colour::Good => "32",
            Colour::Bad => "1;31",
            Colour::Warn => "33",
            Colour::Lane(number) => LANES[number % LANES.len()],
        };
        if self.has_colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The text in lines that fit, the first with one thing before it and the others with another. A word that is longer stands by
    /// itself; control characters are made visible.
    pub fn wrap(self, text: &str, first: &str, others: &str) -> String {
        let clean: String = text.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect();
        let room = |indent: &str| self.columns.saturating_sub(indent.chars().count()).max(20);
        // The first line follows what the others have as their indent.
        let width = room(others);
        let mut lines: Vec<String> = Vec::new();
        let mut line = String::new();
        for word in clean.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
        format!("{first}{}", lines.join(&format!("\n{others}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_nothing_is_lost() {
        let paper = Paper { has_colours: false, columns: 40 };
        let text = "one two three four five six seven eight nine ten eleven twelve thirteen";
        let wrapped = paper.wrap(text, "  ", "  ");
        assert!(wrapped.lines().all(|line| line.chars().count() <= 40), "{wrapped}");
        assert_eq!(wrapped.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
        assert!(!paper.wrap("a\x1b[31mb", "", "").contains('\x1b'));
        assert_eq!(paper.paint(Colour::Bad, "x"), "x");
    }
}
