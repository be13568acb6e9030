//! Backups of a gate that runs, and what is restored from them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::process::{Answer, Client, Gate, PROGRAM};

mod asked;
#[cfg(debug_assertions)]
mod killed;
mod live;
mod places;
mod restore;

/// A gate before a database (fences `app`, and `jobs` of a table) and an HTTP service that nobody has to be: claims are enough to raise marks.
pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        let config = "data_dir = \"data\"
            [[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\ntables = { \"jobs\" = \"jobs\" }
            [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"http://127.0.0.1:9\"\nfence = \"stock/{1}\"\nsettle = \"200ms\"\n";
        World::with(config)
    }

    pub fn with(config: &str) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("gate.toml"), config).expect("written");
        World { dir }
    }

    /// One like this, with all its files.
    pub fn copy(&self) -> World {
        World { dir: crate::process::copy_dir(self.dir()) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> String {
        self.path("gate.toml").to_str().expect("UTF-8").to_owned()
    }

    pub fn gate(&self) -> Gate {
        Gate::start(self.dir(), &["--config", &self.config()])
    }

    /// `fencegate` with these arguments and this gate's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--config", &self.config()]).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).output().expect("it runs"))
    }

    pub fn backup(&self, name: &str) -> PathBuf {
        let folder = self.path(name);
        let said = self.run(&["backup", folder.to_str().expect("UTF-8")]);
        assert_eq!(said.status, 0, "{said:?}");
        folder
    }

    pub fn restore(&self, args: &[&str]) -> Said {
        let backup = self.path("backup");
        let args: Vec<&str> = ["restore", backup.to_str().expect("UTF-8")].iter().chain(args).copied().collect();
        self.run(&args)
    }
}

#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Said { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// One statement at the database.
pub fn write(client: &mut Client, token: u64, sql: &str) -> Answer {
    let requests = json!([{ "type": "execute", "stmt": { "sql": sql } }, { "type": "close" }]);
    let body = json!({ "requests": requests }).to_string();
    let headers = [("fencing-token", &*token.to_string())];
    client.request("POST", "/app/v3/pipeline", &headers, body.as_bytes()).expect("the gate answers")
}

pub fn claim(client: &mut Client, fence: &str, token: u64) -> Answer {
    let path = format!("/-/fences/{}/claim", fence.replace('/', "%2F"));
    client.request("POST", &path, &[("fencing-token", &*token.to_string())], b"").expect("the gate answers")
}

pub fn election(client: &mut Client, name: &str, action: &str, body: &Value) -> Answer {
    let path = format!("/-/elections/{}/{action}", name.replace('/', "%2F"));
    client.request("POST", &path, &[], body.to_string().as_bytes()).expect("the gate answers")
}

/// A term at the embedded coordinator: its token and its candidate.
pub fn elected(client: &mut Client, name: &str) -> (u64, Value) {
    let answer = election(client, name, "campaign", &json!({ "ttl_ms": 600_000 }));
    let term = answer.json();
    assert_eq!(term["state"], "leading", "{answer:?}");
    (term["token"].as_str().expect("a text").parse().expect("a number"), term["candidate"].clone())
}

/// A term that ends at once: its token.
pub fn term(client: &mut Client, name: &str) -> u64 {
    let (token, candidate) = elected(client, name);
    assert_eq!(election(client, name, "resign", &json!({ "candidate": candidate })).status, 200);
    token
}
