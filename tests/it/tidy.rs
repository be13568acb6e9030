//! The style rules that can be checked.

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// All files below these folders of the repository, with their text.
fn files(folders: &[&str], ending: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(path) = folders.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "node_modules" && name != "target" && name != "__pycache__" {
                folders.extend(
                    std::fs::read_dir(&path).expect("it can be listed").map(|entry| entry.expect("an entry").path()),
                );
            }
        } else if name.ends_with(ending)
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            found.push((path.strip_prefix(root).expect("below the root").to_owned(), text));
        }
    }
    assert!(!found.is_empty(), "nothing was looked at");
    found.sort();
    found
}

fn report(rule: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = |(path, text): (PathBuf, String)| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
    };
    let wrong: Vec<String> = files(&["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"], ".rs")
        .into_iter()
        .filter_map(long)
        .collect();
    report("a file has at most 500 lines", &wrong);
}

#[test]
fn functions_are_short() {
    let mut wrong = Vec::new();
    for (path, text) in files(&["src"], ".rs") {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let bare = line.trim_start();
            let indent = line.len() - bare.len();
            let words = bare.split("fn ").next().unwrap_or_default();
            let is_function = bare.contains("fn ")
                && words
                    .split_whitespace()
                    .all(|word| ["pub", "async", "const", "unsafe"].contains(&word) || word.starts_with("pub("));
            // Up to where its body begins; one that ends before it does has none.
            let head = lines[start..].iter().find(|line| line.ends_with(['{', ';', '}']));
            if !is_function || head.is_none_or(|line| line.ends_with(';')) {
                continue;
            }
            let end = lines[start..].iter().position(|line| *line == format!("{}}}", " ".repeat(indent)));
            let length = end.unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                wrong.push(format!("{}:{}: {length} lines", path.display(), start + 1));
            }
        }
    }
    report("a function has at most 70 lines", &wrong);
}

#[test]
fn dependencies_point_inward() {
    let outer = |folder: &str| -> &'static [&'static str] {
        match folder {
            "src/fence" => {
                &["problem", "access", "resource", "coordinator", "trust", "server", "cli", "config", "telemetry"]
            }
            "src/problem.rs" => &["access", "resource", "coordinator", "trust", "server", "cli", "config", "telemetry"],
            "src/access" => &["resource", "coordinator", "trust", "server", "cli", "config", "telemetry"],
            "src/tls" => &["fence", "problem", "access", "resource", "coordinator", "trust", "server", "cli", "config"],
            "src/resource" => &["coordinator", "trust", "server", "cli", "config", "telemetry"],
            "src/coordinator" => &["resource", "trust", "server", "cli", "config", "telemetry"],
            "src/trust" => &["server", "cli", "config", "telemetry"],
            "src/config" => &["server", "cli", "telemetry"],
            _ => &["cli"],
        }
    };
    let mut wrong = Vec::new();
    let folders = [
        "src/fence",
        "src/problem.rs",
        "src/access",
        "src/tls",
        "src/resource",
        "src/coordinator",
        "src/trust",
        "src/config",
        "src/server",
    ];
    for folder in folders {
        for (path, text) in files(&[folder], ".rs") {
            for (number, line) in text.lines().enumerate() {
                for name in outer(folder) {
                    if line.contains(&format!("crate::{name}")) {
                        wrong.push(format!("{}:{}: uses {name}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    report("dependencies point inward", &wrong);
}

#[test]
fn nothing_is_left_unfinished_or_asleep() {
    let mut wrong = Vec::new();
    // Put together, so that this file doesn't find itself.
    let unfinished =
        [["todo", "!("], ["unimplemented", "!("], ["FIX", "ME"], ["#[ig", "nore"]].map(|parts| parts.concat());
    let asleep = [["thread::", "sleep("], ["time::", "sleep("]].map(|parts| parts.concat());
    // Who looks again as soon as it may takes the processors from those it waits for: for a whole minute, on Linux 6.18.
    let spinning = ["thread::", "yield_now("].concat();
    for (path, text) in files(&["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"], ".rs") {
        let is_test = path.starts_with("tests");
        for (number, line) in text.lines().enumerate() {
            let sleeps = is_test && asleep.iter().any(|word| line.contains(word.as_str()));
            if sleeps || line.contains(&spinning) || unfinished.iter().any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    report("nothing is left unfinished, and tests wait on conditions", &wrong);
}

#[test]
fn no_path_of_one_machine_stands_anywhere() {
    let roots = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|parts| parts.concat());
    let folders = [
        "src",
        "tests",
        "benches",
        "docs",
        "scripts",
        "examples",
        "migrations",
        "fuzz/src",
        "fuzz/fuzz_targets",
        "fuzz/dict",
        "README.md",
        "ARCHITECTURE.md",
        "Makefile",
        "deploy",
        "SECURITY.md",
    ];
    let mut wrong = Vec::new();
    for (path, text) in files(&folders, "") {
        for (number, line) in text.lines().enumerate() {
            if roots.iter().any(|root| line.contains(root.as_str())) {
                wrong.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    report("no path of one machine", &wrong);
}

#[test]
fn unsafe_code_is_in_two_places() {
    let places = ["src/resource/sqlite/raw.rs", "src/resource/http/journal.rs"];
    let is_else = |path: &Path| places.iter().all(|place| path != Path::new(place));
    let word = ["unsa", "fe {"].concat();
    let wrong: Vec<String> = files(&["src"], ".rs")
        .into_iter()
        .filter(|(path, text)| is_else(path) && text.contains(&word))
        .map(|(path, _)| path.display().to_string())
        .collect();
    report("unsafe code is in raw.rs and journal.rs only", &wrong);
}

#[test]
fn migrations_are_numbered() {
    let mut wrong = Vec::new();
    for (path, _) in files(&["migrations"], "") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_prefix('V').and_then(|rest| rest.split_once("__")).map(|(number, _)| number.to_owned());
        if !name.ends_with(".sql") || number.is_none_or(|number| number.parse::<u32>().is_err()) {
            wrong.push(path.display().to_string());
        }
    }
    report("a migration is called V<number>__<what>.sql", &wrong);
}

#[test]
fn every_example_is_shown_and_run() {
    let pages: String = files(&["README.md", "docs"], ".md").into_iter().map(|(_, text)| text).collect();
    let tests: String = files(&["tests", "src"], "").into_iter().map(|(_, text)| text).collect();
    let mut wrong = Vec::new();
    for (path, _) in files(&["examples"], "") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // By its path, or as the tests name programs that cargo builds.
        let is_run = tests.contains(&path.display().to_string())
            || (name.ends_with(".rs") && tests.contains(&format!("Example::start(\"{stem}\"")));
        if !pages.contains(&path.display().to_string()) || !is_run {
            wrong.push(path.display().to_string());
        }
    }
    report("an example is shown in README.md or docs/, and run by a test", &wrong);
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let readme = &files(&["README.md"], ".md")[0].1;
    let wrong: Vec<String> = files(&["docs"], ".md")
        .into_iter()
        .map(|(path, _)| path.display().to_string())
        .filter(|path| !readme.contains(path.as_str()))
        .collect();
    report("README.md links every page of docs/", &wrong);
}
