//! What is measured, and that the figures fit together.

use serde_json::Value;

use super::service::{Manner, Service};
use super::{bench, command, measured, names};

/// That what is told of one thing fits together.
fn check(one: &Value, status: &str) {
    let answers = one["answers"].as_object().expect("a table");
    let count = |value: &Value| value.as_u64().expect("a number");
    assert_eq!(answers.keys().collect::<Vec<_>>(), [status], "{one}");
    assert_eq!(answers.values().map(count).sum::<u64>(), count(&one["operations"]), "{one}");
    assert!(count(&one["operations"]) > 0);
    assert_eq!([&one["unexpected"], &one["broken"], &one["unfinished"]].map(count), [0, 0, 0], "{one}");
    check_figures(one);
}

fn check_figures(one: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number: {one}"));
    let rounds = one["rounds"].as_array().expect("a list");
    let operations: u64 = rounds.iter().map(|round| round["operations"].as_u64().expect("a number")).sum();
    assert_eq!(one["operations"], operations);
    let rate = &one["per_second"];
    let rates: Vec<f64> = rounds.iter().map(|round| number(&round["per_second"])).collect();
    assert_eq!(number(&rate["min"]), rates.iter().copied().fold(f64::INFINITY, f64::min));
    assert!(number(&rate["min"]) <= number(&rate["median"]) && number(&rate["median"]) <= number(&rate["max"]));
    let latency = ["p50", "p90", "p99", "p99.9", "p99.99", "max"].map(|name| number(&one["latency_us"][name]));
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{latency:?}");
    let curve = one["curve"].as_array().expect("a list");
    let points: Vec<(f64, f64)> = curve.iter().map(|point| (number(&point[0]), number(&point[1]))).collect();
    assert!(points.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{points:?}");
    assert_eq!((points[0].0, points[points.len() - 1]), (0.0, (1.0, latency[5])));
}

#[test]
fn its_own_database_from_every_side() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = bench(dir.path(), &["--json"]).json();
    let all = ["direct", "direct, batched", "check off", "admitted", "refused (stale)", "takeover", "always newer"];
    assert_eq!(names(&run), all);
    for (name, status) in [("check off", "200"), ("admitted", "200"), ("refused (stale)", "412"), ("takeover", "200")] {
        let one = measured(&run, name);
        check(one, status);
        assert!(one["gate_cpu_us"]["median"].as_f64().is_some_and(|cpu| cpu > 0.0), "{one}");
        assert_eq!(one["rounds"].as_array().map(Vec::len), Some(3));
    }
    check(measured(&run, "always newer"), "200");
    for name in ["direct", "direct, batched"] {
        check_figures(measured(&run, name));
        assert_eq!(measured(&run, name)["gate_cpu_us"], Value::Null);
    }
    assert_eq!(measured(&run, "admitted")["connections"], 4);
    assert_eq!(measured(&run, "takeover")["connections"], 1);
    assert_eq!(measured(&run, "direct")["over_direct"]["median"], 1.0);
    assert!(measured(&run, "admitted")["over_check_off"]["median"].as_f64().is_some());
    assert_eq!(measured(&run, "takeover")["over_direct"], Value::Null, "one connection against four");
    assert!(run["machine"]["cpus"].as_u64().is_some_and(|cpus| cpus > 0) && run["machine"]["disk"]["kind"].is_string());
    // Three rounds are never enough.
    assert_eq!(run["verdict"]["conclusion"], "inconclusive");
    let reasons = run["verdict"]["reasons"].to_string();
    assert!(reasons.contains("3 rounds are too few"), "{reasons}");
    assert_eq!(run["verdict"]["costs"].as_array().map(Vec::len), Some(2));
    assert_eq!(run["tokens"], Value::Null);
}

#[test]
fn a_newcomer_reads_a_table_and_a_conclusion() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = bench(dir.path(), &[]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "and nothing of progress where nobody watches");
    for text in ["a SQLite database made for this run: 3 rounds of 80ms each", "admitted ", " µs", "INCONCLUSIVE: "] {
        assert!(said.out.contains(text), "{text}: {}", said.out);
    }
    assert!(said.out.lines().all(|line| line.chars().count() <= 80), "{}", said.out);
    assert!(!said.out.contains('\x1b'));
}

#[test]
fn an_open_loop_counts_all_that_was_due() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Service::start(Manner::Kind);
    let run = bench(dir.path(), &["--upstream", &service.url(), "--json", "--rate", "500", "--threads", "2"]).json();
    assert_eq!((&run["settings"]["loop"], &run["settings"]["rate"]), (&"open".into(), &500.0.into()));
    for name in ["direct", "check off", "admitted", "refused (stale)"] {
        let one = measured(&run, name);
        check(one, if name == "refused (stale)" { "412" } else { "200" });
        assert_eq!(one["operations"], 120, "500 a second, for 80 ms, three times");
    }
}

#[test]
fn a_service_is_read_without_the_word_and_written_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Service::start(Manner::Kind);
    let upstream = ["--upstream", &service.url(), "--path", "/a", "--json"];
    let run = bench(dir.path(), &upstream).json();
    assert_eq!(names(&run), ["direct", "check off", "admitted", "refused (stale)", "claim"]);
    assert_eq!(run["unit"], "read");
    for (name, status) in [("direct", "200"), ("admitted", "200"), ("refused (stale)", "412"), ("claim", "200")] {
        check(measured(&run, name), status);
    }
    let seen = service.seen();
    let only = |requests: &[(&str, &str)]| requests.iter().map(|(m, p)| ((*m).into(), (*p).into())).collect();
    assert_eq!(seen.requests, only(&[("GET", "/-/fences/fencegate-bench"), ("GET", "/a")]));
    assert_eq!(seen.tokens.into_iter().collect::<Vec<_>>(), [2], "the refused one stays at the gate; claims, too");

    let run =
        bench(dir.path(), &[&upstream[..], &["--write-to-it", "--method", "PUT", "--size", "5000"]].concat()).json();
    assert_eq!(names(&run), ["direct", "check off", "admitted", "refused (stale)", "takeover", "always newer"]);
    for (name, status) in [("direct", "200"), ("admitted", "200"), ("refused (stale)", "412"), ("always newer", "200")]
    {
        check(measured(&run, name), status);
    }
    let seen = service.seen();
    assert_eq!(seen.requests, only(&[("GET", "/-/fences/fencegate-bench"), ("GET", "/a"), ("PUT", "/a")]));
    assert!(!seen.tokens.contains(&1), "the token that is refused");
}

#[test]
fn the_page_needs_nothing_else_and_nothing_breaks_out_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Service::start(Manner::Kind);
    let file = dir.path().join("<script>page.html");
    let page = file.to_str().expect("UTF-8");
    let said = bench(dir.path(), &["--upstream", &service.url(), "--report", page, "--header", "X-Key: s3cret"]);
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(said.out.contains(page));
    let html = std::fs::read_to_string(&file).expect("it is there");
    for text in ["<script", "src=", "href=", "url(", "@import", "s3cret"] {
        assert!(!html.contains(text), "{text}");
    }
    for text in ["&lt;script&gt;", "X-Key: …", "<svg", "99.9%", "check off", "prefers-color-scheme: dark"] {
        assert!(html.contains(text), "{text}");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}

/// What a person has set for their gates is not meant for those that are measured: above all not their database.
#[test]
fn variables_of_the_environment_are_not_for_its_gates() {
    let dir = tempfile::tempdir().expect("a directory");
    let mine = dir.path().join("mine.db");
    let mut command = command(dir.path(), &["--json", "--rounds", "1"]);
    command.env("FENCEGATE_SQLITE", &mine).env("FENCEGATE_CONFIG", dir.path().join("none.toml"));
    command.env("FENCEGATE_LISTEN", "127.0.0.1:1").env("FENCING_TOKEN", "99").env("FENCEGATE_TRUST", "coordinator");
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!mine.exists());
}
