//! A day's mixed work, compressed, while everything around the gate fails, one thing at a time and all at once; and a checker that
//! judges what everybody was told against what there is in the end.
//!
//! `FENCEGATE_SOAK_SECONDS` says for how long, `FENCEGATE_SOAK_SEED` repeats the dice of a run that failed.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::dice::{Dice, seed};
use crate::disk::BadDisk;
use crate::gate::LONG;
use crate::outside::names::{NAME, Names, Says};
use crate::outside::{WallClock, skip};
use crate::process::{Client, Gate, JSON};
use crate::upstream::etcd::{Etcd, ONE};
use crate::upstream::hostile::Hostile;
use crate::upstream::{self, pass_time};

mod actors;
mod checker;
mod leaders;
mod linear;
mod mutations;
mod nemesis;
mod perfect;
mod seeded;
mod small;
mod world;

use actors::{Actor, Notes, lead_both};
use checker::{Applied, Fence, History, NEVER, Op, Rule, Told, Violation, What, judge};
use nemesis::{Around, FAULTS, Nemesis};
use world::{Issuer, Kind, World};

/// How the gate is told to be.
#[derive(Clone, Copy)]
struct Rules {
    trust: &'static str,
    more: &'static str,
    /// What becomes of an upstream's fence with writes of unknown outcome, but for `depot`.
    on_unknown: &'static str,
    /// Of `depot`, where operators decide it.
    depot_on_unknown: &'static str,
    goal: Goal,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Everything fails for so many seconds.
    Holding(u64),
    /// Nothing fails but what the writers do to themselves, for so many seconds.
    Quiet(u64),
}

const SOUND: Rules =
    Rules { trust: "coordinator", more: "", on_unknown: "wait", depot_on_unknown: "hold", goal: Goal::Holding(15) };

const TABLES: [(&str, &str, &str); 5] = [
    ("shop.db", "/shop", "log"),
    ("shop.db", "/shop", "jobs"),
    ("shop.db", "/shop", "bills"),
    ("led.db", "/led", "led"),
    ("ledger.db", "/ledger", "ledger"),
];

/// The fences: what they guard, who issues their tokens, whether operators reset them.
fn lines(has_etcd: bool) -> Vec<(&'static str, Kind, Issuer, bool)> {
    let table = |number: usize| Kind::Table { path: TABLES[number].1, table: TABLES[number].2 };
    let mut lines = vec![
        ("app", table(0), Issuer::Counter, false),
        ("jobs", table(1), Issuer::Counter, false),
        ("billing", table(2), Issuer::Counter, true),
        ("led", table(3), Issuer::Embedded, false),
        ("stock/a", Kind::Path("/stock/a"), Issuer::Counter, false),
        ("stock/b", Kind::Path("/stock/b"), Issuer::Counter, false),
        ("depot/a", Kind::Path("/depot/a"), Issuer::Counter, false),
        ("depot/b", Kind::Path("/depot/b"), Issuer::Counter, false),
    ];
    if has_etcd {
        lines.push(("ledger", table(4), Issuer::Etcd("soak"), false));
        lines.push(("vault", Kind::Path("/vault"), Issuer::Etcd("soak"), false));
    }
    lines
}

fn configuration(upstream: &Hostile, names: Option<&Names>, etcd: Option<&Etcd>, rules: &Rules) -> String {
    let by_ip = upstream.url();
    let port = by_ip.rsplit(':').next().expect("a port");
    let by_name = names.map_or(by_ip.clone(), |_| format!("http://{NAME}:{port}"));
    let more = rules.more;
    let sqlite = |name: &str, fence: &str, own: &str| {
        format!(
            "[[resource]]\nname = \"{name}\"\nkind = \"sqlite\"\nfile = \"{name}.db\"\npath = \"/{name}\"\nfence = \"{fence}\"\n{own}\n{more}\n"
        )
    };
    let http = |name: &str, upstream: &str, fence: &str, own: &str| {
        let on_unknown = if name == "depot" { rules.depot_on_unknown } else { rules.on_unknown };
        format!(
            "[[resource]]\nname = \"{name}\"\nkind = \"http\"\npath = \"/{name}\"\nupstream = \"{upstream}/{name}\"\n\
             fence = \"{fence}\"\ndrain = \"200ms\"\nsettle = \"2s\"\nconnect_time = \"1s\"\nanswer_time = \"2s\"\n\
             name_time = \"2s\"\non_unknown = \"{on_unknown}\"\n{own}\n{more}\n"
        )
    };
    let embedded = format!("trust = \"{}\"", rules.trust);
    let mut text = sqlite("shop", "app", "tables = { \"jobs\" = \"jobs\", \"bills\" = \"billing\" }")
        + &sqlite("led", "led", &embedded)
        + &http("stock", &by_name, "stock/{1}", "protocol = \"http1\"")
        + &http("depot", &by_ip, "depot/{1}", "protocol = \"http2\"");
    if let Some(etcd) = etcd {
        let coordinator = format!("coordinator = \"{}/soak?timeout=500ms\"", etcd.address());
        let trust = if rules.trust == "client" { embedded } else { format!("{embedded}\n{coordinator}") };
        text += &sqlite("ledger", "ledger", &trust);
        text += &http("vault", &by_ip, "vault", &trust);
    }
    text
}

/// What became of a run.
struct Report {
    history: History,
    wrong: Vec<Violation>,
    told: String,
    /// How many calls to the disk failed, where it is one that can.
    disk_hits: Option<u64>,
}

impl Report {
    fn has(&self, rule: Rule) -> bool {
        self.wrong.iter().any(|violation| violation.rule == rule)
    }

    fn count(&self, is: impl Fn(&Op) -> bool) -> usize {
        self.history.ops.iter().filter(|op| is(op)).count()
    }
}

fn run(rules: &Rules, seed: u64) -> Report {
    let disk = BadDisk::new("soak: a disk that fails");
    let own = disk.is_none().then(|| tempfile::tempdir().expect("a directory"));
    let dir = own.as_ref().or(disk.as_ref().map(|disk| &disk.dir)).expect("one of them is there").path();
    for (file, _, table) in TABLES {
        let db = Connection::open(dir.join(file)).expect("a database");
        let table = format!("CREATE TABLE {table} (n INTEGER PRIMARY KEY, id INTEGER NOT NULL, term INTEGER NOT NULL)");
        db.execute(&table, []).expect("it is made");
    }
    let upstream = Hostile::start(dir);
    let etcd = upstream::has("soak", "etcd").then(|| Etcd::start(&ONE));
    let names = Names::start(dir, Says::Address(std::net::Ipv4Addr::LOCALHOST));
    if names.is_none() {
        skip("soak: names that can't be looked up", "a name server of one's own takes root");
    }
    let config = dir.join("fencegate.toml");
    let text = configuration(&upstream, names.as_ref(), etcd.as_ref(), rules);
    std::fs::write(&config, text).expect("written");
    let clock = WallClock::new(dir);
    let world = &World::new(&lines(etcd.is_some()), etcd.as_ref().map(|etcd| etcd.members[0].client.addr));
    let mut dice = Dice::new(seed);
    let around = Around { upstream, etcd, clock, names, config, disk: disk.as_ref() };
    let mut nemesis = Nemesis::new(dir, world, dice.split(), around);
    let gate = nemesis.start();
    let (notes, mut gate) = std::thread::scope(|scope| {
        let mut all = Vec::new();
        // Whatever happens here, the others must end, or the failure would never be told.
        let stop = world.stop_when_dropped();
        for line in &world.lines {
            let writers = if line.name == "app" { 4 } else { 2 };
            for _ in 0..writers {
                let actor = Actor::new(world, line, dice.split());
                all.push(scope.spawn(|| actor.lead()));
            }
            if line.issuer != Issuer::Counter {
                let actor = Actor::new(world, line, dice.split());
                all.push(scope.spawn(|| actor.forge()));
            }
        }
        for _ in 0..2 {
            let actor = Actor::new(world, &world.lines[0], dice.split());
            all.push(scope.spawn(|| actor.watch()));
        }
        let operator = Actor::new(world, &world.lines[0], dice.split());
        all.push(scope.spawn(|| operator.operate()));
        let (both, own) = ([&world.lines[0], &world.lines[1]], dice.split());
        all.push(scope.spawn(move || lead_both(world, both, own)));
        let gate = match rules.goal {
            Goal::Holding(seconds) => nemesis.rage(gate, Duration::from_secs(seconds)),
            Goal::Quiet(seconds) => {
                pass_time(1000 * seconds);
                gate
            }
        };
        drop(stop);
        let notes: Vec<Notes> = all.into_iter().map(|actor| actor.join().expect("nobody panicked")).collect();
        (notes, gate)
    });
    if matches!(rules.goal, Goal::Holding(_)) {
        assert_eq!(gate.ended(), None, "the gate ended by itself");
        everybody_advances(world, &mut gate);
    }
    gate.kill();
    nemesis.kills.push(world.now());
    judged(dir, world, &nemesis, notes, seed)
}

/// Every fence lets a newer leader in before long.
fn everybody_advances(world: &World, gate: &mut Gate) {
    for line in world.lines.iter().filter(|line| line.issuer == Issuer::Counter) {
        let (term, started) = (line.next_term(world).max(line.term() + 100).to_string(), Instant::now());
        let path = format!("{}/claim", line.state_path());
        loop {
            let answer = Client::connect(gate.data)
                .and_then(|mut client| client.request("POST", &path, &[("fencing-token", &term)], b""));
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                break;
            }
            assert_eq!(gate.ended(), None, "the gate ended by itself: {answer:?}");
            if started.elapsed() > Duration::from_secs(3) {
                // Nobody writes any more, and what was written can't come any more.
                let path = format!("/v1/fences/{}/release", line.name.replace('/', "%2F"));
                let _ = Client::connect(gate.admin)
                    .and_then(|mut admin| admin.request("POST", &path, &[JSON], br#"{"reason": "all is over"}"#));
            }
            assert!(started.elapsed() < LONG, "fence {} lets nobody in: {answer:?}", line.name);
            pass_time(20);
        }
    }
}

/// Puts everything together that is known, and judges it.
fn judged(dir: &Path, world: &World, nemesis: &Nemesis<'_>, notes: Vec<Notes>, seed: u64) -> Report {
    let mut history = History::default();
    let log = nemesis.upstream.applied();
    for line in &world.lines {
        let applied = match line.kind {
            Kind::Table { table, .. } => rows(dir, table),
            Kind::Path(_) => (1..)
                .zip(&log)
                .filter(|(_, applied)| applied.fence == line.name)
                .map(|(at, applied)| Applied { id: applied.id.parse().expect("a number"), token: applied.token, at })
                .collect(),
        };
        let issued = Some(line.issued.lock().unwrap().clone());
        history.fences.push(Fence { name: line.name.into(), applied, issued, terms: Vec::new() });
    }
    let (mut releases, mut faults) = (0, Vec::new());
    for notes in notes {
        history.ops.extend(notes.ops);
        releases += notes.releases;
        faults.extend(notes.wrong);
        for (number, terms) in notes.terms {
            history.fences[usize::from(number)].terms.extend(terms);
        }
    }
    for op in history.ops.iter_mut().filter(|op| op.told == Told::Unknown) {
        // What was asked of a database is done by the time that its gate is dead. What was asked of an upstream may still come.
        let is_table = matches!(world.lines[usize::from(op.fence)].kind, Kind::Table { .. });
        let end = nemesis.kills.iter().copied().find(|at| is_table && *at >= op.completed);
        op.completed = end.unwrap_or(NEVER);
    }
    let mut wrong = judge(&history);
    wrong.extend(faults.into_iter().map(|what| Violation { rule: Rule::Answer, what }));
    let stopped = nemesis.longest_stop;
    if stopped > Duration::from_millis(1500) {
        // The promise to an upstream that applies later than `settle` is none.
        skip("soak: the order of upstreams", &format!("the machine is too busy: one was stopped for {stopped:?}"));
        wrong.retain(|violation| violation.rule != Rule::Fell);
    }
    let told = tell(&history, nemesis, releases, seed, world.elapsed());
    Report { history, wrong, told, disk_hits: nemesis.disk.map(|_| nemesis.disk_hits) }
}

fn rows(dir: &Path, table: &str) -> Vec<Applied> {
    let (file, ..) = TABLES.iter().find(|(_, _, name)| *name == table).expect("it is there");
    let db = Connection::open(dir.join(file)).expect("the database opens");
    let intact: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be checked");
    assert_eq!(intact, "ok", "{file}");
    let mut stmt = db.prepare(&format!("SELECT n, id, term FROM {table} ORDER BY n")).expect("the table is there");
    let number = |row: &rusqlite::Row<'_>, column| row.get(column).map(i64::cast_unsigned);
    let rows =
        stmt.query_map([], |row| Ok(Applied { at: number(row, 0)?, id: number(row, 1)?, token: number(row, 2)? }));
    rows.expect("it can be read").map(|row| row.expect("a row")).collect()
}

fn tell(history: &History, nemesis: &Nemesis<'_>, releases: usize, seed: u64, time: Duration) -> String {
    let count = |is: &dyn Fn(&Op) -> bool| history.ops.iter().filter(|op| is(op)).count();
    let told = |told: Told| count(&|op| op.told == told);
    let leaders: usize = history
        .fences
        .iter()
        .map(|fence| fence.applied.iter().map(|applied| applied.token).collect::<std::collections::HashSet<_>>().len())
        .sum();
    let deeds: Vec<String> =
        FAULTS.iter().zip(nemesis.deeds).map(|(fault, times)| format!("{fault:?} {times}")).collect();
    format!(
        "seed {seed}, {} s: {} operations ({} writes, {} claims, {} reads, {} looks at marks, {} resets), {} done, {} refused, {} of \
         unknown outcome; {} rows applied, of {leaders} leaders; {releases} releases; {}; all at once {}; {} calls to the disk failed",
        time.as_secs(),
        history.ops.len(),
        count(&|op| matches!(op.what, What::Write(_))),
        count(&|op| op.what == What::Claim),
        count(&|op| op.what == What::Read),
        count(&|op| op.what == What::Look),
        count(&|op| op.what == What::Reset),
        told(Told::Done),
        told(Told::Refused),
        told(Told::Unknown),
        history.fences.iter().map(|fence| fence.applied.len()).sum::<usize>(),
        deeds.join(", "),
        nemesis.storms,
        nemesis.disk_hits,
    )
}

#[test]
fn a_day_of_mixed_work_while_everything_fails() {
    let seed = seed("FENCEGATE_SOAK_SEED");
    let given = std::env::var("FENCEGATE_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let rules = Rules { goal: Goal::Holding(given.unwrap_or(15)), ..SOUND };
    let report = run(&rules, seed);
    eprintln!("{}", report.told);
    let first: Vec<&Violation> = report.wrong.iter().take(5).collect();
    assert!(report.wrong.is_empty(), "seed {seed}: {} wrong, the first: {first:#?}", report.wrong.len());
    // The test means nothing unless all of it happened.
    for (number, fence) in report.history.fences.iter().enumerate() {
        let of = |told: Told| report.count(|op| usize::from(op.fence) == number && op.told == told);
        assert!(of(Told::Done) > 20 && of(Told::Refused) > 2, "seed {seed}: hardly anything on {}", fence.name);
    }
    assert!(report.count(|op| op.told == Told::Unknown) > 5, "seed {seed}: everything was known");
    assert!(report.disk_hits != Some(0), "seed {seed}: the disk never failed");
    seeded::every_violation_is_found_in(&report.history, seed);
}

/// Runs until the checker finds this.
fn finds(rules: &Rules, rule: Rule) {
    let seed = seed("FENCEGATE_SOAK_SEED");
    let found = (0..5).any(|more| run(rules, seed + more).has(rule));
    assert!(found, "seed {seed}: the checker never found {rule:?}");
}

#[test]
fn with_the_check_off_the_checker_finds_it() {
    finds(&Rules { more: "enforce = false", goal: Goal::Quiet(3), ..SOUND }, Rule::Fell);
}

#[test]
fn with_the_risk_accepted_the_checker_finds_it() {
    finds(&Rules { on_unknown: "proceed", depot_on_unknown: "proceed", goal: Goal::Quiet(6), ..SOUND }, Rule::Fell);
}

#[test]
fn with_forged_tokens_believed_the_checker_finds_it() {
    finds(&Rules { trust: "client", goal: Goal::Quiet(3), ..SOUND }, Rule::Unissued);
}
