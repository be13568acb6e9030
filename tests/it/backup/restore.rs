//! What is restored keeps those out who led after the backup.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};

use crate::process::{Answer, Client, Gate, until};

use super::{World, claim, elected, election, term, write};

/// Above every token that these tests see before a restore.
const MARGIN: u64 = 1_000_000_000_000;

/// What happened: five terms, a backup, and then leaders of whom it knows nothing.
pub struct History {
    pub world: World,
    /// Who led when the backup was made, and who did in the end.
    pub before: (u64, Value),
    pub last: (u64, Value),
}

/// So many terms, each of which ends at once.
fn terms(client: &mut Client, name: &str, count: usize) {
    for _ in 0..count {
        term(client, name);
    }
}

fn rows(client: &mut Client) -> Vec<String> {
    let body =
        json!({ "requests": [{ "type": "execute", "stmt": { "sql": "SELECT v FROM t ORDER BY rowid" } }] }).to_string();
    let answer = client.request("POST", "/app/v3/pipeline", &[], body.as_bytes()).expect("the gate answers");
    crate::gate::column(&answer.json()["results"][0]["response"]["result"])
}

/// A claim, once the quarantine of a fence that was restored is over.
fn settled_claim(client: &mut Client, fence: &str, token: u64) -> Answer {
    let mut answer = claim(client, fence, token);
    until("the quarantine is over", || {
        if answer.status == 503 {
            answer = claim(client, fence, token);
        }
        answer.status != 503
    });
    answer
}

impl History {
    pub fn new() -> History {
        let world = World::new();
        let gate = world.gate();
        let mut client = gate.client();
        terms(&mut client, "app", 4);
        let before = elected(&mut client, "app");
        assert_eq!(write(&mut client, before.0, "CREATE TABLE t (v)").status, 200);
        assert_eq!(write(&mut client, before.0, "INSERT INTO t VALUES ('before')").status, 200);
        let token = term(&mut client, "stock/known");
        assert_eq!(claim(&mut client, "stock/known", token).status, 200);
        world.backup("backup");
        assert_eq!(election(&mut client, "app", "resign", &json!({ "candidate": before.1 })).status, 200);
        terms(&mut client, "app", 6);
        let last = elected(&mut client, "app");
        assert_eq!(write(&mut client, last.0, "INSERT INTO t VALUES ('after')").status, 200);
        terms(&mut client, "stock/new", 3);
        assert_eq!(claim(&mut client, "stock/new", 3).status, 200);
        let token = term(&mut client, "stock/known");
        assert_eq!(claim(&mut client, "stock/known", token).status, 200);
        assert_eq!(gate.terminate(), Some(0));
        History { world, before, last }
    }

    /// The same once more, with files of its own.
    pub fn copy(&self) -> History {
        History { world: self.world.copy(), before: self.before.clone(), last: self.last.clone() }
    }

    /// Checks a gate that was restored: nobody of before gets in, everybody who is elected now does.
    pub fn judge(&self, gate: &Gate) -> Vec<String> {
        let mut client = gate.client();
        let wrong = RefCell::new(Vec::new());
        let check = |what: &str, is: u16, expected: u16| {
            if is != expected {
                wrong.borrow_mut().push(format!("{what}: {is}, not {expected}"));
            }
        };
        let late = write(&mut client, self.last.0, "INSERT INTO t VALUES ('woken up')");
        check("the last leader writes", late.status, 412);
        check(
            "the leader of the backup writes",
            write(&mut client, self.before.0, "INSERT INTO t VALUES ('x')").status,
            412,
        );
        check(
            "the last leader renews",
            election(&mut client, "app", "renew", &json!({ "candidate": self.last.1 })).status,
            410,
        );
        check(
            "the leader of the backup renews",
            election(&mut client, "app", "renew", &json!({ "candidate": self.before.1 })).status,
            410,
        );
        check("a claim on a fence that the backup knows", claim(&mut client, "stock/known", 2).status, 412);
        check("a claim on a fence that it doesn't know", claim(&mut client, "stock/new", 3).status, 412);
        check("a claim on a fence that nobody knows", claim(&mut client, "stock/made-up", MARGIN).status, 412);
        for fence in ["app", "stock/known", "stock/new", "stock/another"] {
            let answer = election(&mut client, fence, "campaign", &json!({ "ttl_ms": 600_000 })).json();
            let token: u64 = answer["token"].as_str().unwrap_or("0").parse().expect("a number");
            if token <= MARGIN {
                wrong.borrow_mut().push(format!("the next token of {fence} is {token}"));
            }
            let answer = match fence {
                "app" => write(&mut client, token.max(1), "INSERT INTO t VALUES ('elected anew')"),
                // Quarantined at first, for `settle`.
                _ => settled_claim(&mut client, fence, token.max(1)),
            };
            check(fence, answer.status, 200);
        }
        let late = write(&mut client, self.last.0, "INSERT INTO t VALUES ('woken up')");
        check("the last leader writes once more", late.status, 412);
        wrong.into_inner()
    }
}

#[test]
fn nobody_of_after_the_backup_gets_in() {
    let history = History::new();
    let world = &history.world;
    let backup = world.path("backup");
    let text = backup.to_str().expect("UTF-8");
    let said = world.run(&["restore", text]);
    assert!(said.status == 1 && said.err.contains("it is there already"), "{said:?}");
    let said = world.run(&["restore", "--replace", "--json", text]);
    assert_eq!(said.status, 0, "{said:?}");
    let gate = world.gate();
    assert_eq!(rows(&mut gate.client()), ["before"]);
    let wrong = history.judge(&gate);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(rows(&mut gate.client()), ["before", "elected anew"]);
    let events = gate.admin().get("/v1/fences/app/history").json();
    let events: Vec<_> =
        events["events"].as_array().expect("a list").iter().map(|event| event["event"].clone()).collect();
    assert_eq!(events[..2], ["advanced", "restored"], "{events:?}");
    let document = gate.admin().get("/v1/openapi.json").json();
    let documented =
        &document["components"]["schemas"]["History"]["properties"]["events"]["items"]["properties"]["event"]["enum"];
    let documented = documented.as_array().expect("a list");
    assert!(events.iter().all(|event| documented.contains(event)), "{documented:?}");
    // What was there is kept, whole.
    let aside: Vec<_> =
        said.json()["files"].as_array().expect("a list").iter().map(|file| file["aside"].clone()).collect();
    assert!(aside.iter().all(|file| Path::new(file.as_str().expect("a name")).exists()), "{aside:?}");
    // And once more, from the same backup: it goes on above what came since.
    assert_eq!(gate.terminate(), Some(0));
    assert_eq!(world.run(&["restore", "--replace", text]).status, 0);
    let gate = world.gate();
    let mut client = gate.client();
    assert_eq!(write(&mut client, MARGIN + 20, "INSERT INTO t VALUES ('of the first restore')").status, 412);
    assert!(elected(&mut client, "app").0 > 2 * MARGIN);
}

#[test]
fn the_same_judge_finds_files_that_were_merely_put_back() {
    let history = History::new();
    let (world, backup) = (&history.world, history.world.path("backup"));
    std::fs::remove_dir_all(world.path("data")).expect("removed");
    std::fs::create_dir(world.path("data")).expect("made");
    for (name, to) in [("resource-app.db", "app.db"), ("fences.db", "data/fences.db"), ("gate.db", "data/gate.db")] {
        let to = world.path(to);
        for left in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{left}", to.display()));
        }
        std::fs::copy(backup.join(name), to).expect("copied");
    }
    let gate = world.gate();
    let wrong = history.judge(&gate);
    assert!(wrong.iter().any(|what| what.starts_with("the last leader writes: 200")), "{wrong:?}");
    assert!(wrong.iter().any(|what| what.starts_with("a claim on a fence that it doesn't know: 200")), "{wrong:?}");
}

#[test]
fn the_disk_is_lost_and_the_backup_is_all_there_is() {
    let history = History::new();
    let world = &history.world;
    std::fs::remove_dir_all(world.path("data")).expect("removed");
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.path(&format!("app.db{ending}")));
    }
    assert_eq!(world.run(&["restore", world.path("backup").to_str().expect("UTF-8")]).status, 0);
    let wrong = history.judge(&world.gate());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn tokens_from_elsewhere_are_asked_for() {
    let world = World::new();
    let gate = world.gate();
    let mut client = gate.client();
    assert_eq!(write(&mut client, 50, "CREATE TABLE t (v)").status, 200);
    assert_eq!(claim(&mut client, "stock/1", 60).status, 200);
    world.backup("backup");
    assert_eq!(write(&mut client, 57, "INSERT INTO t VALUES ('after')").status, 200);
    assert_eq!(gate.terminate(), Some(0));
    let backup = world.path("backup");
    let restore = |args: &[&str]| {
        let args: Vec<&str> =
            ["restore", "--replace", backup.to_str().expect("UTF-8")].iter().chain(args).copied().collect();
        world.run(&args)
    };
    let said = restore(&[]);
    assert!(said.status == 1 && said.err.contains("only you can say which tokens are new"), "{said:?}");
    let said = restore(&["--above", "app=55", "--above", "70"]);
    assert!(said.status == 1 && said.err.contains("fence app has admitted token 57"), "{said:?}");
    assert_eq!(restore(&["--above", "app=zero"]).status, 64);
    let said = restore(&["--above", "app=99", "--above", "70", "--json"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.json()["marks_at_least"], json!({ "app": "100", "stock": "71" }));
    let gate = world.gate();
    let mut client = gate.client();
    for (token, status) in [(57, 412), (99, 412), (100, 200)] {
        assert_eq!(write(&mut client, token, "INSERT INTO t VALUES ('x')").status, status, "{token}");
    }
    for (fence, token, status) in
        [("stock/1", 70, 412), ("stock/2", 70, 412), ("stock/2", 71, 200), ("stock/1", 72, 200)]
    {
        assert_eq!(settled_claim(&mut client, fence, token).status, status, "{fence} {token}");
    }
    let fence = client.get("/-/fences/stock%2F3").json();
    assert_eq!(fence["highest"], "71", "whoever asks is told");
    // A write is refused before anything is forwarded, and names that somebody makes up take no memory.
    let fences = |gate: &Gate| {
        let metrics = String::from_utf8(gate.admin().get("/metrics").body).expect("UTF-8");
        metrics.lines().find(|line| line.starts_with("fencegate_http_fences{")).map(str::to_owned)
    };
    let before = fences(&gate);
    assert!(before.is_some());
    for number in 0..50 {
        let path = format!("/stock/made-up-{number}");
        let answer = client.request("PUT", &path, &[("fencing-token", "70")], b"x").expect("the gate answers");
        assert_eq!((answer.status, answer.code().as_str()), (412, "STALE_TOKEN"), "{answer:?}");
    }
    assert_eq!(fences(&gate), before);
}

#[test]
fn what_doesn_t_fit_changes_nothing() {
    let history = History::new();
    let world = &history.world;
    let backup = world.path("backup");
    let text = backup.to_str().expect("UTF-8");
    let gate = world.gate();
    let said = world.run(&["restore", "--replace", text]);
    assert!(said.status == 1 && said.err.contains("has it in use (process "), "{said:?}");
    assert_eq!(gate.terminate(), Some(0));
    let before = std::fs::read(world.path("app.db")).expect("read");
    let file = backup.join("fences.db");
    let whole = std::fs::read(&file).expect("read");
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    std::fs::write(&file, &damaged).expect("written");
    for args in [&["restore", "--check", text][..], &["restore", "--replace", text]] {
        let said = world.run(args);
        assert!(said.status == 1 && said.err.contains("it is not what was backed up"), "{said:?}");
    }
    std::fs::write(&file, &whole).expect("written");
    let other = world.path("other.db");
    let said = super::Said::of(
        std::process::Command::new(crate::process::PROGRAM)
            .args([
                "restore",
                text,
                "--sqlite",
                other.to_str().expect("UTF-8"),
                "--data-dir",
                world.path("other").to_str().expect("UTF-8"),
            ])
            .output()
            .expect("it runs"),
    );
    assert!(said.status == 1 && said.err.contains("the configuration hasn't"), "{said:?}");
    assert!(!other.exists() && std::fs::read(world.path("app.db")).expect("read") == before);
}

#[test]
fn what_root_restores_belongs_to_whose_folder_it_is() {
    use std::os::unix::fs::{MetadataExt, chown};
    const NOBODY: u32 = 65_534;
    let history = History::new();
    let world = &history.world;
    let backup = world.path("backup");
    // Another machine: the folder is there, and nothing in it, not even the data directory.
    let place = World::new();
    if chown(place.dir(), Some(NOBODY), Some(NOBODY)).is_err() {
        // Who isn't root can give nothing away, and makes files of their own.
        return;
    }
    assert_eq!(place.run(&["restore", backup.to_str().expect("UTF-8")]).status, 0);
    let all = [place.dir().to_owned(), place.path("data")];
    let files = all.iter().flat_map(|folder| std::fs::read_dir(folder).expect("it can be listed").flatten());
    let files: Vec<_> = files.map(|file| file.path()).filter(|file| !file.ends_with("gate.toml")).collect();
    assert!(files.len() > 6, "databases and locks: {files:?}");
    for file in files {
        assert_eq!(std::fs::metadata(&file).expect("it is there").uid(), NOBODY, "{}", file.display());
    }
}
