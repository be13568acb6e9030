//! What stands in `deploy/`: the unit of systemd, and how the gate tells it how it goes.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::gate::LONG;
use crate::process::{Gate, PROGRAM};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// `systemd-analyze` with these arguments about the unit, with the program where this test has it. `None` where it isn't installed.
fn analyze(test: &str, args: &[&str]) -> Option<(bool, String)> {
    if !crate::upstream::has(test, "systemd-analyze") {
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let unit =
        std::fs::read_to_string(file("fencegate.service")).expect("it is there").replace("/usr/bin/fencegate", PROGRAM);
    let path = dir.path().join("fencegate.service");
    std::fs::write(&path, unit).expect("written");
    let output = Command::new("systemd-analyze").args(args).arg(&path).env("NO_COLOR", "1").output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn the_unit_is_right() {
    let Some((is_right, said)) = analyze("the_unit_is_right", &["verify", "--man=no"]) else { return };
    assert!(is_right && !said.contains("fencegate.service"), "{said}");
}

#[test]
fn the_unit_leaves_little_open() {
    // Ten times what is shown: 1.5 of 10.
    let args = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let Some((is_tight, said)) = analyze("the_unit_leaves_little_open", &args) else { return };
    assert!(is_tight, "{said}");
}

#[test]
fn systemd_is_told_how_it_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(LONG)).expect("set");
    let read = || {
        let mut buffer = [0; 1024];
        let len = socket.recv(&mut buffer).expect("something is told");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    let watchdog = Duration::from_millis(200).as_micros().to_string();
    let environment = [("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", &watchdog)];
    let gate = Gate::start_in(dir.path(), &[], &environment);
    let ready = read();
    assert!(ready.starts_with("READY=1\n") && ready.contains(&gate.data.to_string()), "{ready:?}");
    assert!(read().contains("WATCHDOG=1") && read().contains("WATCHDOG=1"), "it says again and again that it is alive");
    gate.signal(rustix::process::Signal::TERM);
    while !read().starts_with("STOPPING=1\n") {}
    assert_eq!(gate.wait(), Some(0));
}

#[test]
fn nobody_is_told_where_nobody_listens() {
    let dir = tempfile::tempdir().expect("a directory");
    for socket in ["relative", "/there/is/no/such/socket", "@fencegate-test-nobody-listens"] {
        let gate = Gate::start_in(dir.path(), &[], &[("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "1000")]);
        assert_eq!(gate.client().get("/-/readyz").status, 200, "{socket}");
        assert_eq!(gate.terminate(), Some(0));
    }
}

/// What the Dockerfile takes out of the tree to build from.
fn copied() -> Vec<String> {
    let text = std::fs::read_to_string(file("Dockerfile")).expect("it is there");
    let lines = text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    let sources = lines.flat_map(|line| {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.pop();
        words
    });
    sources.map(str::to_owned).collect()
}

/// No engine that builds images has to be here for it: cargo says whether what it would be given is a whole package.
#[test]
fn the_dockerfile_copies_what_a_build_needs() {
    let (dir, root) = (tempfile::tempdir().expect("a directory"), Path::new(env!("CARGO_MANIFEST_DIR")));
    let ignored = std::fs::read_to_string(file("Dockerfile.dockerignore")).expect("it is there");
    for name in copied() {
        std::os::unix::fs::symlink(root.join(&name), dir.path().join(&name)).expect("a link");
        assert!(
            ignored.lines().any(|line| line == format!("!{name}")),
            "{name} is not among what is sent to the build"
        );
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(dir.path())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What src/ and the migrations need besides themselves, it needs in tests only.
    assert!(["src", "migrations", "Cargo.lock"].iter().all(|name| copied().iter().any(|one| one == name)));
}

/// What the container's health check runs: it takes no rights, so that it is right where there are principals, too.
#[test]
fn a_gate_that_is_ready_says_so_to_whoever_has_no_rights() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("gate.toml");
    let somebody = crate::access::principal("somebody", 7, "");
    let text = format!("[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n{somebody}");
    std::fs::write(&config, text).expect("written");
    let gate = Gate::start(dir.path(), &["--config", config.to_str().expect("UTF-8")]);
    let url = format!("http://{}", gate.admin);
    let ask = |args: &[&str]| {
        let output = Command::new(PROGRAM).args(["status", "--admin-url", &url]).args(args).output().expect("it runs");
        output.status.code()
    };
    assert_eq!(ask(&[]), Some(77), "the status itself takes rights");
    assert_eq!(ask(&["--ready"]), Some(0));
    let text = std::fs::read_to_string(file("Dockerfile")).expect("it is there");
    assert!(text.contains(r#"CMD ["fencegate", "status", "--ready"]"#));
    assert_eq!(gate.terminate(), Some(0));
    assert_eq!(ask(&["--ready"]), Some(69));
}
