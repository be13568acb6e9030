//! `fencegate doctor`: each thing that it looks for is really made, and found; and what is as it should be isn't.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use serde_json::Value;

use crate::process::{Gate, PROGRAM, until};
use crate::upstream::Port;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the doctor found.
struct Found {
    status: i32,
    report: Value,
}

impl Found {
    fn of(output: &Output) -> Found {
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {text}{}", String::from_utf8_lossy(&output.stderr)));
        Found { status: output.status.code().unwrap_or(-1), report }
    }

    /// The levels of one check's findings about a subject with this in its name, and what was said.
    fn about(&self, check: &str, subject: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.report["findings"].as_array().expect("a list").iter();
        let ours = all.filter(|one| one["check"] == check && text(&one["subject"]).contains(subject));
        ours.map(|one| (text(&one["level"]), text(&one["what"]))).collect()
    }

    fn expect(&self, check: &str, subject: &str, level: &str, says: &str) {
        let found = self.about(check, subject);
        let is_there = found.iter().any(|(one, what)| one == level && what.contains(says));
        assert!(is_there, "no {level} of {check} about {subject:?} says {says:?}: {found:?}");
        if level == "problem" {
            assert_eq!(self.status, 1);
        }
    }

    fn never(&self, check: &str, subject: &str, level: &str) {
        let found = self.about(check, subject);
        assert!(found.iter().all(|(one, _)| one != level), "{found:?}");
    }
}

fn doctor(args: &[&str]) -> Found {
    Found::of(&Command::new(PROGRAM).arg("doctor").args(args).arg("--json").output().expect("it runs"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A folder of one's own for a gate, and its database in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn doctor(&self, more: &[&str]) -> Found {
        let (file, data) = (self.path("app.db"), self.path("data"));
        let args: Vec<&str> = ["--sqlite", text(&file), "--fence", "app", "--data-dir", text(&data)]
            .iter()
            .chain(more)
            .copied()
            .collect();
        doctor(&args)
    }

    fn gate(&self) -> Gate {
        Gate::start(self.dir.path(), &["--sqlite", text(&self.path("app.db")), "--fence", "app"])
    }

    /// What a gate before this service is told of it.
    fn upstream(&self, url: &str) -> Found {
        doctor(&["--upstream", url, "--fence", "stock/{1}", "--data-dir", text(&self.path("data"))])
    }
}

#[test]
fn a_gate_as_it_should_be_has_no_problem() {
    let place = Place::new();
    let _gate = place.gate();
    let found = place.doctor(&[]);
    assert_eq!(found.report["problems"], 0, "{:#}", found.report);
    assert_eq!(found.status, 0);
    for (check, subject) in
        [("rights", "database"), ("rights", "data directory"), ("open", "database"), ("listener", "data listener")]
    {
        found.expect(check, subject, "ok", "");
    }
    let shown = Command::new(PROGRAM)
        .args(["doctor", "--sqlite", text(&place.path("app.db")), "--data-dir", text(&place.path("data"))])
        .output()
        .expect("it runs");
    let shown = String::from_utf8(shown.stdout).expect("UTF-8");
    assert!(shown.contains("nothing found that keeps this gate from fencing"), "{shown}");
    assert!(!shown.contains('\x1b'), "no colours in a pipe");
    let words = |line: &str| line.split_whitespace().all(|word| word.len() < 60);
    assert!(shown.lines().filter(|line| words(line)).all(|line| line.chars().count() <= 80), "{shown}");
}

#[test]
fn who_else_has_the_database_open_is_found() {
    let place = Place::new();
    let gate = place.gate();
    assert_eq!(gate.client().sql(Some("1"), &["CREATE TABLE t (v)"]).status, 200);
    // This test is another process than the doctor, and than the gate.
    let reader = Connection::open_with_flags(place.path("app.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("it opens");
    reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).expect("it reads");
    place.doctor(&[]).expect("open", "database", "ok", "but the gate has it open for writing");
    let writer = Connection::open(place.path("app.db")).expect("it opens");
    writer.execute("INSERT INTO t VALUES (1)", []).expect("nothing checks it");
    let found = place.doctor(&[]);
    found.expect("open", "database", "problem", &format!("process {} (", std::process::id()));
    drop((writer, reader));
    place.doctor(&[]).expect("open", "database", "ok", "but the gate has it open");
}

#[test]
fn rights_that_are_too_wide_are_found() {
    let place = Place::new();
    drop(place.gate());
    let chmod = |name: &str, mode: u32| {
        std::fs::set_permissions(place.path(name), Permissions::from_mode(mode)).expect("changed")
    };
    chmod("app.db", 0o666);
    place.doctor(&[]).expect("rights", "database", "problem", "everybody can write to it");
    chmod("app.db", 0o600);
    chmod("data", 0o777);
    place.doctor(&[]).expect("rights", "data directory", "problem", "everybody can replace what is in");
    chmod("data", 0o755);
    chmod("data/gate.db", 0o644);
    place.doctor(&[]).expect("rights", "data directory", "problem", "others can read gate.db");
    chmod("data", 0o700);
    place.doctor(&[]).never("rights", "data directory", "problem");
    chmod("data", 0o755);
    chmod("data/gate.db", 0o600);
    let found = place.doctor(&[]);
    found.never("rights", "", "problem");
}

#[test]
fn who_can_put_another_database_in_its_place_is_found() {
    let place = Place::new();
    for folder in ["above", "above/folder", "elsewhere"] {
        std::fs::create_dir(place.path(folder)).expect("made");
    }
    let (file, link) = (place.path("above/folder/app.db"), place.path("elsewhere/link.db"));
    std::fs::write(&file, "").expect("written");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let look = |path: &Path| doctor(&["--sqlite", text(path), "--data-dir", text(&place.path("data"))]);
    look(&link).never("rights", "database", "problem");
    let chmod = |name: &str, mode: u32| {
        std::fs::set_permissions(place.path(name), Permissions::from_mode(mode)).expect("changed");
    };
    // A folder above it, that of a link to it, and that of what a link leads to.
    for (folder, path) in
        [("above", &file), ("above/folder", &file), ("elsewhere", &link), ("above", &link), ("above/folder", &link)]
    {
        chmod(folder, 0o777);
        let says = format!("everybody can replace what is in {}", place.path(folder).display());
        look(path).expect("rights", "database", "problem", &says);
        // Then only what is their own.
        chmod(folder, 0o1777);
        look(path).never("rights", "database", "problem");
        chmod(folder, 0o755);
    }
    const ANOTHER: u32 = 4711;
    if std::os::unix::fs::chown(place.path("above"), Some(ANOTHER), None).is_ok() {
        look(&file).expect("rights", "database", "problem", "user 4711, whose it is,");
    }
}

#[test]
fn what_isn_t_there_is_said() {
    let place = Place::new();
    let found = place.doctor(&[]);
    found.expect("there", "database", "unknown", "it isn't there yet");
    found.expect("there", "data directory", "unknown", "it isn't there yet");
    drop(place.gate());
    place.doctor(&[]).never("there", "", "unknown");
}

/// As a user who may not look into the folders.
#[test]
fn what_can_t_be_looked_at_is_said() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    drop(place.gate());
    let closed = place.path("data");
    std::fs::set_permissions(place.dir.path(), Permissions::from_mode(0o755)).expect("changed");
    std::fs::rename(place.path("app.db"), closed.join("app.db")).expect("moved");
    std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("changed");
    let mut command = Command::new(PROGRAM);
    command.args(["doctor", "--json", "--sqlite", text(&closed.join("app.db")), "--data-dir", text(&closed)]);
    command.args(["--issuer", "etcd://127.0.0.1:9?timeout=100ms"]).current_dir("/").uid(65_534).gid(65_534);
    match command.output() {
        Ok(output) if !output.stdout.is_empty() => {
            let found = Found::of(&output);
            found.expect("there", "database", "unknown", "it can't be looked at (Permission denied");
            found.never("there", "data directory", "unknown");
        }
        // Who isn't root can be nobody else, and nobody else may be able to run this program.
        other => eprintln!("SKIPPED: what_can_t_be_looked_at_is_said: {other:?}"),
    }
}

#[test]
fn file_systems_that_keep_nothing_are_found() {
    // In memory on every Linux.
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let (file, data) = (dir.path().join("app.db"), dir.path().join("data"));
    let found = doctor(&["--sqlite", text(&file), "--data-dir", text(&data)]);
    found.expect("file-system", "database", "problem", "in memory");
    found.expect("sync", "database", "warning", "sooner than a disk");
    Place::new().doctor(&[]).never("file-system", "database", "problem");
}

#[test]
fn a_disk_that_is_full_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    // A file system of 1 MiB, in a namespace of this test's own.
    let script = format!(
        "mount -t tmpfs -o size=1m none {dir} && exec {PROGRAM} doctor --sqlite {dir}/app.db --data-dir {dir}/data --json",
        dir = dir.path().display()
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output();
    match output {
        Ok(output) if !output.stdout.is_empty() => Found::of(&output).expect("room", "database", "problem", "room for"),
        other => eprintln!("SKIPPED: a_disk_that_is_full_is_found: no mount namespace ({other:?})"),
    }
}

/// Answers every connection with this head, until it is dropped.
fn service(listener: TcpListener, date: &'static str) -> SocketAddr {
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n{date}content-length: 0\r\n\r\n");
                // Stays open for as long as the other side wants.
                let _ = stream.read(&mut [0; 1024]);
            });
        }
    });
    addr
}

#[test]
fn a_service_that_others_reach_is_found() {
    let place = Place::new();
    let wide = service(TcpListener::bind("0.0.0.0:0").expect("a port"), "");
    let found = place.upstream(&format!("http://127.0.0.1:{}", wide.port()));
    found.expect("reach", "service", "warning", &format!("it listens on 0.0.0.0:{}", wide.port()));
    found.expect("upstream", "service", "ok", "answers whoever reaches it (200");
    assert_eq!(found.status, 0, "a warning is no problem");
    let strict = doctor(&[
        "--upstream",
        &format!("http://127.0.0.1:{}", wide.port()),
        "--data-dir",
        text(&place.path("data")),
        "--strict",
    ]);
    assert_eq!(strict.status, 1);
    let near = service(TcpListener::bind("127.0.0.1:0").expect("a port"), "");
    place.upstream(&format!("http://{near}")).expect("reach", "service", "ok", "only this machine");
    let nobody = Port::reserve();
    place.upstream(&format!("http://{}", nobody.addr)).expect("upstream", "service", "warning", "it isn't reached");
}

#[test]
fn who_writes_past_the_gate_is_found() {
    let place = Place::new();
    let addr = service(TcpListener::bind("127.0.0.1:0").expect("a port"), "");
    let url = format!("http://{addr}");
    place.upstream(&url).never("route", "service", "problem");
    // Through the gate, a connection is as it should be.
    let gate = Gate::start(place.dir.path(), &["--upstream", &url, "--fence", "stock/{1}"]);
    let answer = gate.client().request("PUT", "/7", &[("fencing-token", "5")], b"").expect("the gate answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    place.upstream(&url).never("route", "service", "problem");
    let past = TcpStream::connect(addr).expect("it listens");
    until("the service has taken it", || {
        let found = place.upstream(&url);
        found
            .about("route", "service")
            .iter()
            .any(|(level, what)| level == "problem" && what.contains(&format!("process {}", std::process::id())))
    });
    drop(past);
    // A second gate, with marks of its own, is such a route, too.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = Gate::start(elsewhere.path(), &["--upstream", &url, "--fence", "stock/{1}"]);
    let answer = other.client().request("PUT", "/7", &[("fencing-token", "4")], b"").expect("the gate answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let found = place.upstream(&url);
    found.expect("route", "service", "problem", &format!("process {} (fencegate)", other.pid()));
}

#[test]
fn clocks_that_are_apart_are_found() {
    let place = Place::new();
    let off = service(TcpListener::bind("127.0.0.1:0").expect("a port"), "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    place.upstream(&format!("http://{off}")).expect("clock-offset", "service", "warning", "apart");
    let found = place.doctor(&[]);
    assert_eq!(found.about("clock-source", "").len() + found.about("clock-sync", "").len(), 2);
}

#[test]
fn open_doors_are_found() {
    let place = Place::new();
    let key = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["gate.example".to_owned()]).expect("a name");
        let (begins, ends) = match name {
            "old" => (rcgen::date_time_ymd(2019, 1, 1), rcgen::date_time_ymd(2020, 1, 1)),
            // Half a day more, so that it is the same number of days a moment later.
            "soon" => (rcgen::date_time_ymd(2019, 1, 1), (SystemTime::now() + 5 * DAY + DAY / 2).into()),
            "early" => ((SystemTime::now() + 5 * DAY).into(), rcgen::date_time_ymd(4000, 1, 1)),
            _ => (params.not_before, params.not_after),
        };
        (params.not_before, params.not_after) = (begins, ends);
        std::fs::write(place.path(&format!("{name}.pem")), params.self_signed(&key).expect("signed").pem())
            .expect("written");
        std::fs::write(place.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    };
    for name in ["good", "old", "soon", "early"] {
        key(name);
    }
    let config = |head: &str, resource: &str| {
        let file = place.path("gate.toml");
        let text = format!("{head}\n[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n{resource}\n");
        std::fs::write(&file, text).expect("written");
        doctor(&["--config", file.to_str().expect("UTF-8")])
    };
    config("allow_insecure = true\nlisten = \"0.0.0.0:7070\"", "").expect(
        "listener",
        "data listener",
        "problem",
        "no TLS and no principals",
    );
    let proceed = "[[resource]]\nname = \"stock\"\nkind = \"http\"\npath = \"/stock\"\nupstream = \"http://127.0.0.1:9\"\non_unknown = \"proceed\"";
    config("", proceed).expect("settings", "stock", "warning", "an older write of unknown outcome");
    config("", "enforce = false").expect("settings", "app", "problem", "stale writes are counted and go through");
    let tls = |name: &str| format!("[tls]\ncert = \"{name}.pem\"\nkey = \"{name}.key\"");
    std::fs::set_permissions(place.path("good.key"), Permissions::from_mode(0o644)).expect("changed");
    let found = config(&tls("good"), "");
    found.expect("secret", "good.key", "problem", "everybody on this machine");
    found.expect("certificate", "good.pem", "ok", "valid for another");
    std::fs::set_permissions(place.path("good.key"), Permissions::from_mode(0o600)).expect("changed");
    config(&tls("good"), "").expect("secret", "good.key", "ok", "only its owner");
    config(&tls("old"), "").expect("certificate", "old.pem", "problem", "it ended");
    config(&tls("soon"), "").expect("certificate", "soon.pem", "warning", "it ends in 5 days");
    config(&tls("early"), "").expect("certificate", "early.pem", "problem", "it is not valid yet");
    // Of several authorities, one that is valid is enough; of a chain, all are needed.
    let read = |name: &str| std::fs::read_to_string(place.path(name)).expect("read");
    std::fs::write(place.path("both.pem"), read("good.pem") + &read("old.pem")).expect("written");
    let found = config(&format!("{}\nclient_ca = \"both.pem\"", tls("good")), "");
    found.expect("certificate", "client authority", "ok", "valid for another");
    std::fs::copy(place.path("good.key"), place.path("both.key")).expect("copied");
    config(&tls("both"), "").expect("certificate", "certificate of", "problem", "it ended");
    std::fs::set_permissions(place.path("gate.toml"), Permissions::from_mode(0o666)).expect("changed");
    config("", "").expect("rights", "configuration", "problem", "everybody can write to it");
}

#[test]
fn a_gate_that_listens_elsewhere_than_was_said_is_found() {
    let place = Place::new();
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--allow-insecure", "--sqlite", text(&place.path("app.db")), "--fence", "app"]);
    command.args(["--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0", "--data-dir", text(&place.path("data"))]);
    let mut gate = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut line = String::new();
    let stdout = gate.stdout.take().expect("it is piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let address = line.split_once("data=").and_then(|(_, rest)| rest.split(' ').next()).expect("an address").to_owned();
    let found = place.doctor(&[]);
    let told = place.doctor(&["--listen", &address]);
    gate.kill().expect("it runs");
    gate.wait().expect("it ends");
    found.expect("listener", "running gate", "warning", "by what was said here it isn't there");
    told.expect("listener", "data listener", "problem", "no TLS and no principals");
    told.never("listener", "running gate", "warning");
}

#[test]
fn a_limit_on_open_files_that_is_too_low_is_found() {
    let place = Place::new();
    let script = format!(
        "ulimit -n 300 && exec {PROGRAM} doctor --sqlite {} --data-dir {} --json",
        text(&place.path("app.db")),
        text(&place.path("data"))
    );
    let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().expect("it runs");
    Found::of(&output).expect("descriptors", "open files", "warning", "300 are allowed, enough for ");
}

#[cfg(feature = "etcd")]
#[test]
fn marks_ahead_of_a_restored_etcd_are_found() {
    use crate::upstream::etcd::{Etcd, ONE};
    if !crate::upstream::has("marks_ahead_of_a_restored_etcd_are_found", "etcd") {
        return;
    }
    let place = Place::new();
    let gate = place.gate();
    let etcd = Etcd::start(&ONE);
    // A history of some length, in which somebody was elected late.
    (0..20).for_each(|number| drop(etcd.told(&["put", "filler", &number.to_string()])));
    let revision = |etcd: &Etcd| -> u64 {
        let status: Value = serde_json::from_str(&etcd.told(&["get", "filler", "-w", "json"])).expect("JSON");
        status["header"]["revision"].as_u64().expect("a number")
    };
    let mark = revision(&etcd);
    assert_eq!(gate.client().sql(Some(&mark.to_string()), &["CREATE TABLE t (v)"]).status, 200);
    let found = place.doctor(&["--issuer", &etcd.address()]);
    found.expect("coordinator", "app", "ok", "it is reached");
    found.expect("marks", "app", "ok", "none of 1 is ahead");
    // As restored from a backup of its beginning: its numbers are lower.
    let restored = Etcd::start(&ONE);
    restored.told(&["put", "filler", "0"]);
    assert!(revision(&restored) < mark);
    let found = place.doctor(&["--issuer", &restored.address()]);
    found.expect("marks", "app", "problem", "every new leader is refused");
    // Somebody leads with a token below the mark, though the mark is below the revision.
    etcd.told(&["put", "app/1", "anna"]);
    let led = revision(&etcd);
    place.doctor(&["--issuer", &etcd.address()]).expect("leaders", "app", "ok", "nobody who leads is shut out");
    (0..3).for_each(|number| drop(etcd.told(&["put", "filler", &number.to_string()])));
    let above = (led + 1).to_string();
    assert_eq!(gate.client().sql(Some(&above), &["CREATE TABLE u (v)"]).status, 200);
    let found = place.doctor(&["--issuer", &etcd.address()]);
    found.expect("marks", "app", "ok", "none of 1 is ahead");
    found.expect("leaders", "app", "problem", &format!("token {led} leads app, and the mark of fence app is {above}"));
    let nobody = Port::reserve();
    let found = place.doctor(&["--issuer", &format!("etcd://{}?timeout=100ms", nobody.addr)]);
    found.expect("coordinator", "app", "problem", "it isn't reached");
    assert_eq!(
        Command::new(PROGRAM).args(["doctor", "--issuer", "x"]).output().expect("it runs").status.code(),
        Some(64)
    );
}
