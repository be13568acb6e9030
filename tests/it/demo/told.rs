//! How it is told: to people at a terminal or not, and on a page.

use super::Demo;
use crate::lead::pty::Shell;

const ESCAPE: char = '\x1b';

/// What a person reads, and the page: one run for both.
#[test]
fn people_read_lines_that_fit_and_a_page_that_needs_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("report.html");
    let said = Demo::run(&["billing", "--speed", "1000", "--report", file.to_str().expect("UTF-8")]);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{}", said.out);
    let wide: Vec<&str> = said.out.lines().filter(|line| line.chars().count() > 80).collect();
    // But for the path of the page, which is one long word.
    assert!(wide.iter().all(|line| line.contains("report.html")), "{wide:?}");
    assert!(!said.out.contains(ESCAPE), "colours are for terminals: {}", said.out);
    for part in ["without the check", "with fencegate", "frozen (SIGSTOP)", "token 2", "412, \"You've been replaced\""]
    {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let page = std::fs::read_to_string(&file).expect("it was written");
    for part in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "javascript:"] {
        assert!(!page.contains(part), "{part} is in the page");
    }
    assert!(page.contains("default-src 'none'") && page.contains("prefers-color-scheme: dark"));
    // The table of the page has the figures of the table in the terminal.
    let row = |what: &str| {
        let line = said.out.lines().find(|line| line.trim_start().starts_with(what)).expect("a row");
        let mut numbers = line.split_whitespace().rev().map(str::to_owned);
        let second = numbers.next().expect("a number");
        (numbers.next().expect("a number"), second)
    };
    let (without, with) = row("customers charged twice");
    let cells = format!("<td class=\"damage\">{without}</td><td class=\"none\">{with}</td>");
    assert!(page.contains(&cells), "{cells}");
    assert_eq!(page.matches("<svg viewBox=\"0 0 1000 ").count(), 2);
}

#[test]
fn at_a_terminal_there_are_colours_unless_nobody_wants_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut shell = Shell::start(dir.path());
    for (env, has_colours) in [("", true), ("NO_COLOR=1 ", false), ("NO_COLOR= ", true)] {
        shell.types(&format!("TERM=xterm {env}$FENCEGATE demo pause --speed 100\n"));
        let shown = shell.sees("sells seat 1");
        assert_eq!(shown.contains(ESCAPE), has_colours, "{env}: {shown:?}");
        // Ctrl-C.
        shell.types("\x03");
        assert_eq!(shell.status(), "130");
    }
}

#[test]
fn what_cannot_be_shown_is_said_at_once() {
    let failed = |args: &[&str], status: i32, says: &str| {
        let said = Demo::run(args);
        assert_eq!(said.status, Some(status), "{args:?}: {said:?}");
        assert!(said.err.contains(says) && said.out.is_empty(), "{args:?}: {said:?}");
    };
    failed(&["nothing"], 64, "there is no scenario \"nothing\"; there are pause");
    failed(&["--report", "/"], 64, "no file can be written there");
    failed(&["--speed", "0"], 64, "a number from");
    failed(&["--coordinator", "zookeeper://127.0.0.1"], 64, "names no coordinator");
    failed(&["--coordinator", "http://127.0.0.1:1"], 69, "can't be reached");
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mine"), "").expect("written");
    failed(&["--keep", dir.path().to_str().expect("UTF-8")], 1, "isn't empty");
    let said = Demo::run(&["--list"]);
    assert!(said.status == Some(0) && said.out.contains("pause") && said.out.contains("billing"), "{said:?}");
}
