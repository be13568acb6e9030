//! The commands, run as people and scripts run them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::{Gate, PROGRAM};

struct World {
    _dir: tempfile::TempDir,
    gate: Gate,
}

struct Said {
    status: i32,
    out: String,
    err: String,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("app.db");
        let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
        World { _dir: dir, gate }
    }

    fn run(&self, args: &[&str], input: &str) -> Said {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .env("FENCEGATE_URL", format!("http://{}", self.gate.data))
            .env("FENCEGATE_ADMIN_URL", format!("http://{}", self.gate.admin))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that doesn't read its input may have ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Said { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[test]
fn a_day_with_a_gate() {
    let world = World::new();
    let run = |args: &[&str]| world.run(args, "");
    let made =
        run(&["sql", "--token", "5", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t (v) VALUES ('a')"]);
    assert_eq!((made.status, made.err.as_str()), (0, ""));
    let read = run(&["sql", "SELECT id, v FROM t"]);
    assert_eq!(read.out, "id  v\n1   a\n(1 row)\n");
    let script =
        world.run(&["sql", "--token", "6", "-"], "INSERT INTO t (v) VALUES (2); -- two\nINSERT INTO t (v) VALUES (3);");
    assert_eq!(script.status, 0, "{}", script.err);
    let stale = run(&["sql", "--token", "5", "DELETE FROM t"]);
    assert_eq!(stale.status, 77);
    assert!(stale.err.contains("You've been replaced"), "{}", stale.err);
    assert_eq!(run(&["sql", "DELETE FROM t"]).status, 77, "a write without a token");
    let wrong = run(&["sql", "--token", "6", "SELECT 1", "SELEC 2"]);
    assert_eq!((wrong.status, wrong.out.as_str()), (1, "1\n1\n(1 row)\n"));
    assert!(wrong.err.contains("syntax error"), "{}", wrong.err);

    let half = run(&["sql", "--token", "6", "BEGIN", "INSERT INTO t (v) VALUES ('half')", "SELEC 2", "COMMIT"]);
    assert_eq!(half.status, 1, "a transaction is whole or not at all");
    let open = run(&["sql", "--token", "6", "BEGIN", "INSERT INTO t (v) VALUES ('half')"]);
    assert!(open.status == 1 && open.err.contains("left open"), "{}", open.err);
    let open = world.run(&["sql", "--token", "6", "-"], "BEGIN; INSERT INTO t (v) VALUES ('half');");
    assert!(open.status == 1 && open.err.contains("left open"), "{}", open.err);
    assert_eq!(run(&["sql", "SELECT count(*) AS n FROM t WHERE v = 'half'"]).out, "n\n0\n(1 row)\n");

    let claimed = run(&["claim", "app", "9", "--holder", "node-a"]);
    assert_eq!(claimed.out, "advanced: fence app is at token 9 (before: 6)\n");
    assert_eq!(run(&["claim", "app", "9", "--holder", "node-b"]).status, 77);
    let json: Value = serde_json::from_str(&run(&["claim", "app", "9", "--json"]).out).expect("JSON");
    assert_eq!(json["verdict"], "admitted");

    assert!(run(&["status"]).out.contains("guarantee atomic"));
    assert!(run(&["fences", "list"]).out.contains("app    9        node-a"));
    assert!(run(&["fences", "show", "app"]).out.contains("stale"));
    assert_eq!(run(&["fences", "reset", "app", "--to", "3", "--reason", "x"]).status, 64, "it doesn't ask a pipe");
    let reset = run(&["fences", "reset", "app", "--to", "3", "--reason", "a test", "--yes"]);
    assert_eq!(reset.out, "fence app: the mark was 9, and is 3\n");
    assert!(run(&["fences", "history", "app"]).out.contains("a test"));
    assert_eq!(run(&["fences", "release", "app", "--reason", "x"]).out, "fence app was not quarantined\n");
    assert_eq!(run(&["fences", "show", "other"]).status, 1);
    for args in [&["status", "--json"][..], &["fences", "list", "--json"], &["fences", "show", "app", "--json"]] {
        let said = run(args);
        assert!(serde_json::from_str::<Value>(&said.out).is_ok(), "{args:?}: {}", said.out);
    }
}

#[test]
fn what_goes_wrong_is_told_with_its_own_status() {
    let world = World::new();
    for (args, status, text) in [
        (&["sql", "--gate", "http://127.0.0.1:1", "SELECT 1"][..], 69, "no gate answers at 127.0.0.1:1"),
        (&["sql", "--gate", "127.0.0.1:1", "SELECT 1"], 64, "http://127.0.0.1:7070"),
        (&["sql", "--gate", "https://u@127.0.0.1:1", "SELECT 1"], 64, "a user or password"),
        (&["sql"], 64, "Usage"),
        (&["sql", "SELECT 1", "-"], 64, "stands alone"),
        (&["claim", "app", "07"], 64, "leading zero"),
        (&["claim", "two words", "7"], 64, "a fence name has only"),
        (&["claim", "app", "7", "--holder", "é"], 64, "printable ASCII"),
        (&["sql", "--token", "+7", "SELECT 1"], 64, "digits only"),
        (&["sql", "--token", "app=7, 8", "SELECT 1"], 64, "one bare token"),
        (&["fences", "show", "two words"], 64, "a fence name has only"),
        (&["fences", "history", "app", "--limit", "0"], 64, "0 is not in 1.."),
        (&["claim", "other", "7"], 1, "no resource here has a fence"),
        (&["fences", "reset", "app", "--to", "x", "--reason", "y"], 64, "digits only"),
        (&["check-config", "none.toml"], 78, "none.toml: can't be read"),
        (&["completions", "klingon"], 64, "invalid value"),
    ] {
        let said = world.run(args, "");
        assert_eq!(said.status, status, "{args:?}: {}", said.err);
        assert!(said.err.contains(text), "{args:?}: {}", said.err);
    }
}

#[test]
fn pages_and_completions() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.run(&["completions", shell], "").out.contains("fencegate"), "{shell}");
    }
    assert!(world.run(&["man"], "").out.contains(".TH fencegate 1"));
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(world.run(&["man", "--dir", dir.path().to_str().expect("UTF-8")], "").status, 0);
    assert!(dir.path().join("fencegate-fences-reset.1").exists());
    assert_eq!(world.run(&["--version"], "").out, format!("fencegate {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(world.run(&["--help"], "").status, 0);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let world = World::new();
    let run = |name: &str, args: &[&str]| {
        let command = Command::new(PROGRAM)
            .args(args)
            .env("FENCEGATE_URL", format!("http://{}", world.gate.data))
            .env(name, "")
            .output();
        let output = command.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run("FENCING_HOLDER", &["claim", "app", "7"]), (Some(0), String::new()));
    assert_eq!(run("FENCING_TOKEN", &["sql", "SELECT 1"]), (Some(0), String::new()));
    let (status, error) = run("FENCEGATE_CONFIG", &["serve", "--fence", "two words"]);
    assert!(status == Some(64) && error.contains("fence \"two words\""), "{error}");
}

#[test]
fn history_is_told_as_far_back_as_asked() {
    let world = World::new();
    let mut client = world.gate.client();
    for token in 1..=1002 {
        let headers = [("fencing-token", token.to_string())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(client.request("POST", "/-/fences/app/claim", &headers, b"").expect("an answer").status, 200);
    }
    for (limit, told) in [("1", 1), ("1001", 1001), ("2000", 1002)] {
        let said = world.run(&["fences", "history", "app", "--json", "--limit", limit], "");
        let history: Value = serde_json::from_str(&said.out).expect("JSON");
        let tokens: Vec<_> =
            history["events"].as_array().expect("events").iter().map(|event| &event["token"]).collect();
        assert_eq!((tokens.len(), tokens[0]), (told, &Value::from("1002")), "--limit {limit}");
        assert_eq!(history["next"].is_null(), told == 1002, "--limit {limit}");
    }
}
