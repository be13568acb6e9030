//! Where secrets don't go; and what refuses to start.

use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Yes, config, grant, principal, resources, secret};
use crate::process::{Client, Gate, PROGRAM, until};

/// `check-config` on this text: the status, and all that it says.
fn check(text: &str, args: &[&str]) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), text);
    let output = Command::new(PROGRAM).args(["check-config", &file]).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), said)
}

#[test]
fn secrets_are_told_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let worker = principal("worker", 1, &grant("*", "*", &["read", "write", "operate"]));
    let file = config(dir.path(), &format!("{}{worker}", resources(upstream.addr)));
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--config", &file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "trace"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        log
    });
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let addr = |key: &str| line.split_once(key).unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
    let (data, admin) = (addr("data="), addr("admin="));
    let (good, bad) = (secret(1).0, secret(2).0);
    let mut answers = String::new();
    for secret in [&good, &bad] {
        let bare = &secret[4..];
        for credential in [
            format!("Bearer {secret}"),
            format!("Bearer fgt.7.bm9kZS1h.{bare}"),
            format!("Bearer fgt.x.bm9kZS1h.{bare}"),
            format!("Bearer fgt.7.{bare}"),
            format!("Bearer fgt.7.bm9kZS1h.{bare}.{bare}"),
            format!("Bearer fgt.{bare}"),
            format!("Bearer {secret}x"),
            format!("Basic {secret}"),
            secret.clone(),
        ] {
            let headers = [("authorization", credential.as_str()), ("fencing-holder", "node-a")];
            let sql = json!({"requests": [{"type": "execute", "stmt": {"sql": "SELEC 1"}}]}).to_string();
            for (addr, method, path, body) in [
                (data, "POST", "/shop/v3/pipeline", sql.as_str()),
                (data, "PUT", "/stock/a/1", ""),
                (data, "GET", "/stock/a/1", ""),
                (data, "POST", "/-/fences/shop/claim", ""),
                (data, "POST", "/-/elections/shop/campaign", ""),
                (admin, "GET", "/v1/fences/shop", ""),
                (admin, "GET", "/v1/fences/shop/history", ""),
                (admin, "POST", "/v1/fences/shop/reset", r#"{"highest": "7", "reason": "x"}"#),
                (admin, "GET", "/metrics", ""),
            ] {
                let mut client = Client::connect(addr).unwrap();
                let answer = client.request(method, path, &headers, body.as_bytes()).unwrap();
                let body = String::from_utf8_lossy(&answer.body);
                answers.push_str(&format!("{method} {path}: {}{body}\n", answer.head));
            }
        }
    }
    let bearer = format!("Bearer {good}");
    let metrics =
        Client::connect(admin).unwrap().request("GET", "/metrics", &[("authorization", &bearer)], b"").unwrap();
    answers.push_str(&String::from_utf8_lossy(&metrics.body));
    assert!(answers.contains("fencegate_access_refusals_total"), "the metrics were read");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    let log = log.join().unwrap();
    assert!(log.contains("refused") && log.contains("DEBUG"), "it was told a lot: {log}");
    let heads = upstream.heads.lock().unwrap().join("\n");
    assert!(heads.contains("PUT /"), "the upstream was asked: {heads}");
    let mut kept = Vec::new();
    for entry in [dir.path().join("shop.db"), dir.path().join("shop.db-wal")] {
        kept.extend(std::fs::read(entry).unwrap_or_default());
    }
    let kept = String::from_utf8_lossy(&kept).into_owned();
    for (place, text) in
        [("answers", &answers), ("the log", &log), ("what is forwarded", &heads), ("the database", &kept)]
    {
        for secret in [&good, &bad] {
            // The middle of it, so that no cut-off form is missed.
            assert!(!text.contains(&secret[8..28]), "{place}: {text}");
        }
    }
}

#[test]
fn what_is_for_the_upstream_reaches_it() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let file = config(dir.path(), &resources(upstream.addr));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let headers = [("authorization", "Bearer of-the-upstream")];
    assert_eq!(gate.client().request("GET", "/stock/a/1", &headers, b"").unwrap().status, 200);
    assert!(upstream.heads.lock().unwrap()[0].contains("authorization: Bearer of-the-upstream\r\n"));
}

#[test]
fn a_new_principal_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("worker.secret");
    let new = || Command::new(PROGRAM).args(["principal", "new", "worker", "--out"]).arg(&secret).output().unwrap();
    let made = new();
    assert!(made.status.success());
    let lines = String::from_utf8(made.stdout).unwrap();
    assert!(!lines.contains("fgs."), "{lines}");
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(new().status.code(), Some(1), "it is never written over another");
    let upstream = Yes::start();
    let file = config(dir.path(), &format!("{}{lines}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let read = |with: bool| {
        let mut command = Command::new(PROGRAM);
        command.args(["sql", "--path", "/shop", "SELECT 1", "--gate", &format!("http://{}", gate.data)]);
        if with {
            command.arg("--secret-file").arg(&secret);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!((read(true), read(false)), (Some(0), Some(77)));
    let shown = Command::new(PROGRAM).args(["principal", "new", "worker", "--json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["secret"].as_str().unwrap().starts_with("fgs."), "without a file, it is shown once");
}

#[test]
fn an_open_listener_refuses_to_start_unless_told() {
    let a = "[[resource]]\nname = \"a\"\nkind = \"sqlite\"\nfile = \"a.db\"\n";
    let worker = principal("worker", 1, "");
    for (text, says) in [
        (format!("listen = \"0.0.0.0:0\"\n{a}"), "without [tls] and [[principal]]"),
        (format!("listen = \"[::]:0\"\n{a}{worker}"), "without [tls] whoever"),
        (format!("admin = \"0.0.0.0:0\"\n{a}{worker}"), "without [admin_tls] whoever"),
        (format!("listen = \"[::ffff:10.0.0.1]:0\"\n{a}"), "allow_insecure = true or --allow-insecure"),
    ] {
        let (status, said) = check(&text, &[]);
        assert!(status == 78 && said.contains(says), "{text}: {said}");
    }
    for text in [
        format!("listen = \"127.0.0.1:0\"\nadmin = \"[::1]:0\"\n{a}"),
        format!("listen = \"[::ffff:127.0.0.1]:0\"\n{a}"),
    ] {
        assert_eq!(check(&text, &[]).0, 0, "{text}");
    }
    let (status, said) = check(&format!("listen = \"0.0.0.0:0\"\nallow_insecure = true\n{a}"), &[]);
    assert!(status == 0 && said.contains("WARNING: allow_insecure"), "{said}");
    let serve = |args: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]).args(args).current_dir(dir.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        (line, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (line, said) = serve(&[]);
    assert!(line.is_empty() && said.contains("open to other machines"), "{line}{said}");
    assert!(serve(&["--allow-insecure"]).0.starts_with("listening data=0.0.0.0:"));
}

#[test]
fn mistakes_in_principals_are_told_and_no_secret_with_them() {
    let a = "[[resource]]\nname = \"a\"\nkind = \"sqlite\"\nfile = \"a.db\"\n";
    let (fgs, hash) = secret(1);
    let with = |text: &str| format!("{a}[[principal]]\nname = \"p\"\n{text}\n");
    for (text, says) in [
        (with(""), "it needs one of secret_hash"),
        (with(&format!("secret_hash = \"{fgs}\"")), ":7:15: principal \"p\": a secret's hash is sha256: and 64"),
        (with(&format!("secret = \"{fgs}\"")), "unknown field `secret`"),
        (with(&format!("secret_hash = \"{hash}\"\nanonymous = true")), "it needs one of secret_hash"),
        (with("certificate = \"node-a\""), "write dns:…, uri:…, email:… or cn:…"),
        (with("certificate = \"dns:node-a\""), "no listener asks for one"),
        (with("anonymous = true\ngrants = [{ rights = [\"all\"] }]"), "there is no right \"all\""),
        (with("anonymous = true\ngrants = [{ resource = \"b\", rights = [\"read\"] }]"), "no resource is called \"b\""),
        (with("anonymous = true\ngrants = [{ fence = \"\", rights = [\"read\"] }]"), "an empty pattern"),
        (with("anonymous = true\n[[principal]]\nname = \"p\"\ncertificate = \"dns:x\""), "the name or the proof of"),
        (format!("{a}[tls]\ncert = \"no.pem\"\nkey = \"no.key\"\n"), "[tls]: "),
        (format!("{a}[tls]\ncert = \"x\"\nkey = \"x\"\nclient_auth = \"optional\"\n"), "client_auth needs client_ca"),
        (format!("{a}[tls]\ncert = \"x\"\nkey = \"x\"\nclient_ca = \"x\"\nclient_auth = \"maybe\"\n"), "not \"maybe\""),
    ] {
        let (status, said) = check(&text, &[]);
        assert!(status == 78 && said.contains(says), "{text}: {said}");
        assert!(!said.contains(&fgs[8..28]), "{said}");
    }
    let (status, said) = check(&with("anonymous = true"), &[]);
    assert!(status == 0 && said.contains("principals      p"), "{said}");
    let said = check(&with("anonymous = true"), &["--json"]).1;
    assert!(said.contains("\"principals\":[\"p\"]"), "{said}");
}

#[test]
fn no_command_takes_a_secret_by_a_flag() {
    // Everybody on the machine sees those.
    let output = Command::new(PROGRAM).args(["sql", "--secret", "fgs.x", "SELECT 1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let worker = principal("worker", 1, &grant("*", "*", &["read"]));
    let file = config(dir.path(), &format!("{}{worker}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let mut child = Command::new(PROGRAM)
        .args(["sql", "--path", "/shop", "-", "--gate", &format!("http://{}", gate.data)])
        .env("FENCEGATE_SECRET", secret(1).0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = std::path::PathBuf::from(format!("/proc/{}/cmdline", child.id()));
    until("the command runs", || std::fs::read_to_string(&line).is_ok_and(|line| line.contains("--gate")));
    assert!(!std::fs::read_to_string(&line).unwrap().contains(&secret(1).0[4..]));
    child.stdin.take().unwrap().write_all(b"SELECT 1").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
