use super::*;
#[cfg(feature = "etcd")]
use crate::config::{CoordinatorConfig, TrustConfig};
use crate::config::{DRAIN_DEFAULT, SETTLE_DEFAULT};
use crate::fence::drain::OnUnknown;

fn parse_text(text: &str) -> Result<Config, String> {
    parse(Path::new("conf/gate.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_example_is_right_and_its_defaults_are_the_defaults() {
    let example = include_str!("../../../examples/fencegate.toml");
    let config = parse(Path::new("fencegate.toml"), example).expect("the example is right");
    let [shop, audit, stock] = &config.resources[..] else { panic!("three resources") };
    assert_eq!(sqlite(shop).tables.len(), 2);
    assert_eq!(audit.path, "/audit");
    let KindConfig::Http(http) = &stock.kind else { panic!("an HTTP service") };
    assert_eq!((http.drain, http.settle, http.on_unknown), (DRAIN_DEFAULT, SETTLE_DEFAULT, OnUnknown::Wait));
    assert_eq!(format!("{:?}", http.limits), format!("{:?}", crate::resource::http::Limits::default()));
    assert_eq!(format!("{:?}", config.limits), format!("{:?}", Limits::default()), "the example shows the defaults");
    for name in super::super::limits::NAMES {
        assert!(example.contains(&format!("\n{name} ")), "the example lacks {name}");
    }
}

fn sqlite(resource: &ResourceConfig) -> &SqliteConfig {
    let KindConfig::Sqlite(sqlite) = &resource.kind else { panic!("a database") };
    sqlite
}

#[test]
fn paths_are_relative_to_the_file() {
    let config = parse_text("[[resource]]\nname = \"a\"\nkind = \"sqlite\"\nfile = \"a.db\"\n").unwrap();
    assert_eq!(sqlite(&config.resources[0]).file, Path::new("conf/a.db"));
    assert_eq!(config.data_dir, Path::new("conf/fencegate-data"));
    assert_eq!(config.resources[0].path, "/");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let a = "[[resource]]\nname = \"a\"\nkind = \"sqlite\"\nfile = \"a.db\"\n";
    let with = |more: &str| format!("{a}{more}");
    for (text, expected) in [
        ("".to_owned(), "conf/gate.toml: there is no [[resource]]"),
        ("listen = 7".to_owned(), "conf/gate.toml:1:10: "),
        (format!("listen = \"nowhere\"\n{a}"), "conf/gate.toml:1:10: \"nowhere\" is no address"),
        ("[[resource]\n".to_owned(), "conf/gate.toml:1:"),
        (format!("lisen = \"x\"\n{a}"), "conf/gate.toml:1:1: unknown field `lisen`"),
        (with("files = 1"), "conf/gate.toml:5:1: unknown field `files`"),
        (with("path = \"shop\""), "conf/gate.toml:5:8: resource \"a\": path \"shop\" is no mount point"),
        (with("path = \"/a/../b\""), "conf/gate.toml:5:8: "),
        (with("path = \"/-/x\""), "conf/gate.toml:5:8: resource \"a\": path \"/-/x\": what starts with /-/"),
        (with("fence = \"a b\""), "conf/gate.toml:5:9: resource \"a\": fence \"a b\": a fence name has only"),
        (with("trust = \"nobody\""), "conf/gate.toml:5:9: resource \"a\": trust \"nobody\" is not known; write"),
        (with("election = \"x\""), "conf/gate.toml:5:12: resource \"a\": election is for trust = \"coordinator\""),
        (
            with("trust = \"coordinator\"\ncoordinator = \"zk://x\""),
            "conf/gate.toml:6:15: resource \"a\": coordinator \"zk://…\" is not known",
        ),
        (
            with("trust = \"coordinator\"\nelection = \"x\"\ntables = { \"jobs\" = \"jobs\" }"),
            "conf/gate.toml:6:12: resource \"a\": election \"x\": the fences a, jobs would share this election",
        ),
        (with("settle = \"3s\""), "conf/gate.toml:5:10: resource \"a\": settle is not for kind \"sqlite\""),
        (with("tables = { \"FenceGate_marks\" = \"x\" }"), "conf/gate.toml:5:32: resource \"a\": tables: "),
        (with("tables = { \"jobs\" = \"\" }"), "conf/gate.toml:5:21: resource \"a\": fence \"\": a name has 1 to 255"),
        (
            with(&format!(
                "tables = {{ {} }}",
                (1..65).map(|number| format!("\"t{number}\" = \"f{number}\"")).collect::<Vec<_>>().join(", ")
            )),
            "conf/gate.toml:5:10: resource \"a\": tables: one database has at most 64 fences",
        ),
        (with("[limits]\nlock_wait = 5"), "conf/gate.toml:6:13: limit lock_wait: write a time"),
        (with("[limits]\nlok_wait = 5"), "conf/gate.toml:6:12: limit lok_wait: there is no limit"),
        (with(a), "conf/gate.toml:6:8: resource \"a\": another resource has this name"),
        (with(&a.replace("\"a\"", "\"b\"")), "conf/gate.toml:6:8: resource \"b\": resource \"a\" has the same file"),
        (
            with(&a.replace("\"a\"", "\"b\"").replace("a.db", "b.db").replace("kind", "fence = \"a\"\nkind")),
            "conf/gate.toml:6:8: resource \"b\": fence a belongs to resource \"a\", too",
        ),
        (a.replace("a.db", ":memory:"), "conf/gate.toml:4:8: resource \"a\": \":memory:\" is no file"),
        (a.replace("sqlite", "http"), "conf/gate.toml:4:8: resource \"a\": file is not for kind \"http\""),
        (a.replace("sqlite", "oracle"), "conf/gate.toml:3:8: resource \"a\": kind \"oracle\" is not known"),
        (a.replace("file = \"a.db\"\n", ""), "conf/gate.toml:1:1: resource \"a\": file is missing"),
        (a.replace("\"a\"", "\"a/b\""), "conf/gate.toml:2:8: a resource's name has"),
        (a.replace("name = \"a\"\n", ""), "conf/gate.toml:1:1: missing field `name`"),
    ] {
        let error = parse_text(&text).expect_err(&text);
        assert!(error.starts_with(expected), "{text}\nexpected {expected}\ngot      {error}");
    }
}

#[test]
fn an_http_service() {
    let a = "[[resource]]\nname = \"a\"\nkind = \"http\"\nupstream = \"http://127.0.0.1:9000\"\n";
    let with = |more: &str| format!("{a}{more}\n");
    let config = parse_text(&with("fence = \"stock/{1}\"\ndrain = \"1s\"\non_unknown = \"hold\"")).unwrap();
    let KindConfig::Http(http) = &config.resources[0].kind else { panic!("an HTTP service") };
    assert_eq!((http.drain.as_secs(), http.on_unknown), (1, OnUnknown::Hold));
    assert!(http.fence.owns("stock/7") && !http.fence.owns("jobs/7"));
    let b = "[[resource]]\nname = \"b\"\nkind = \"sqlite\"\nfile = \"b.db\"\nfence = \"stock/7\"";
    for (more, expected) in [
        ("upstrem = 1", "conf/gate.toml:5:1: unknown field `upstrem`"),
        ("fence = \"stock/{x}\"", "conf/gate.toml:5:9: resource \"a\": fence \"stock/{x}\": "),
        ("drain = 5", "conf/gate.toml:5:9: resource \"a\": write a time"),
        ("on_unknown = \"maybe\"", "conf/gate.toml:5:14: resource \"a\": on_unknown \"maybe\" is not known"),
        ("protocol = \"spdy\"", "conf/gate.toml:5:12: resource \"a\": protocol \"spdy\" is not known"),
        ("case = \"upper\"", "conf/gate.toml:5:8: resource \"a\": case \"upper\" is not known"),
        ("writes = [\"GET\"]", "conf/gate.toml:5:10: resource \"a\": "),
        (
            "coordinator = \"embedded\"",
            "conf/gate.toml:5:15: resource \"a\": coordinator is for trust = \"coordinator\"",
        ),
        (
            "fence = \"stock/{1}\"\ntrust = \"coordinator\"\nelection = \"stock\"",
            "conf/gate.toml:7:12: resource \"a\": election \"stock\": fences that differ in {1} would share",
        ),
        (&format!("fence = \"stock/{{1}}\"\n{b}"), "conf/gate.toml:7:8: resource \"b\": fence stock/7 belongs to"),
    ] {
        let error = parse_text(&with(more)).expect_err(more);
        assert!(error.starts_with(expected), "{more}\nexpected {expected}\ngot      {error}");
    }
    let error = parse_text(&a.replace("http://127", "ftp://127")).unwrap_err();
    assert!(error.starts_with("conf/gate.toml:4:12: resource \"a\": upstream \"ftp://127"), "{error}");
    let error = parse_text("[[resource]]\nname = \"a\"\nkind = \"http\"\n").unwrap_err();
    assert!(error.starts_with("conf/gate.toml:1:1: resource \"a\": upstream is missing"), "{error}");
}

#[cfg(feature = "etcd")]
#[test]
fn a_coordinator_that_is_asked() {
    let a =
        "[[resource]]\nname = \"a\"\nkind = \"http\"\nupstream = \"http://127.0.0.1:9000\"\ntrust = \"coordinator\"\n";
    let trust =
        |more: &str| parse_text(&format!("{a}{more}\n")).map(|mut config| config.resources.remove(0).trust.unwrap());
    let shown = |trust: &TrustConfig| format!("{} {}", trust.coordinator, trust.elections);
    assert_eq!(shown(&trust("").unwrap()), "embedded {fence}");
    let asked =
        trust("coordinator = \"etcds://a,b/prod?ca=ca.pem&user=x&password_file=secret\"\nelection = \"e/{fence}\"");
    let asked = asked.unwrap();
    assert_eq!(shown(&asked), "etcds://a:2379,b:2379/prod/ e/{fence}");
    let CoordinatorConfig::Etcd(options) = asked.coordinator else { panic!("etcd") };
    assert_eq!(options.tls.unwrap().ca.unwrap(), Path::new("conf/ca.pem"), "relative to the file");
    let everything = "fence = \"{1}\"\ncoordinator = \"etcd://a\"";
    let error = trust(everything).unwrap_err();
    assert!(error.starts_with("conf/gate.toml:7:15: ") && error.contains("every key in etcd"), "{error}");
    assert!(trust(&format!("{everything}\nelection = \"e-{{1}}\"")).is_ok());
    assert!(trust(&everything.replace("//a", "//a/prod")).is_ok());
    let error = trust("coordinator = \"etcd://x:secret@a\"").unwrap_err();
    assert!(error.contains("there is an @") && !error.contains("secret"), "{error}");
}

#[test]
fn what_editors_leave_in_a_file_moves_no_place() {
    let good = "[[resource]]\r\nname = \"a\"\r\nkind = \"sqlite\"\r\nfile = \"a.db\"\r\n";
    assert!(parse_text(good).is_ok(), "lines may end in CR LF");
    assert!(parse_text(&format!("\u{feff}{good}")).is_ok(), "a byte order mark is no part of the text");
    let error = parse_text(&format!("\u{feff}listen = 7\r\n{good}")).unwrap_err();
    assert!(error.starts_with("conf/gate.toml:1:10: "), "{error}");
    let error = parse_text(&format!("{good}files = 1\r\n")).unwrap_err();
    assert!(error.starts_with("conf/gate.toml:5:1: "), "{error}");
}

#[test]
fn a_file_in_another_encoding_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate.toml");
    std::fs::write(&path, b"# \xc3\xa4\n# caf\xe9\n").unwrap();
    let error = read(&path).unwrap_err();
    assert_eq!(error.place, Place::File(path, 2, 6));
    assert!(error.message.contains("UTF-8"), "{error}");
}
