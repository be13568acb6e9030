//! The paths that every request passes, each by itself with all that it needs prepared: `core` times them, `instructions` counts them.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use fencegate::fence::drain::{Asked, DrainedFence, Moment, OnUnknown, Outcome, Policy, Purpose};
use fencegate::fence::{Claim, FenceName, Ledger, Mark, Token};
use fencegate::resource::headers::presented;
use fencegate::resource::http::Template;
use fencegate::resource::http::journal::Journal;
use fencegate::resource::http::path::NormalPath;
use fencegate::resource::sqlite::args::Args;
use fencegate::resource::sqlite::db::Done;
use fencegate::resource::sqlite::hrana::{Pipeline, Version};
use fencegate::resource::sqlite::program::{Exec, Format, Halt, Program, Run, StoredSql};
use fencegate::resource::sqlite::raw;
use fencegate::resource::sqlite::render::Rows;
use hyper::HeaderMap;

/// One of them.
pub struct Hot {
    pub name: &'static str,
    /// Passes it once.
    pub run: Box<dyn FnMut()>,
}

/// All of them. `dir`: where the crash journal may be.
pub fn all(dir: &Path) -> Vec<Hot> {
    let mut all = fences();
    all.extend(headers());
    all.extend(hrana());
    all.extend([path(), journal(dir)]);
    all
}

fn hot(name: &'static str, run: impl FnMut() + 'static) -> Hot {
    Hot { name, run: Box::new(run) }
}

fn token(number: u64) -> Token {
    Token::new(number).expect("a token")
}

fn claim(number: usize, token_number: u64) -> Claim {
    let fence = format!("tenant-{number:012}").parse().expect("a name");
    Claim { fence, token: token(token_number), holder: None }
}

/// A ledger of this many fences, and their claims in an order that caches can't guess.
pub fn ledger(fences: usize) -> (Ledger, Vec<Claim>) {
    let mut ledger = Ledger::default();
    let claims: Vec<Claim> = (0..fences).map(|number| claim(number.wrapping_mul(7_919) % fences, 7)).collect();
    for claim in &claims {
        ledger.put(claim.fence.clone(), Some(Mark { token: claim.token, holder: None }));
    }
    (ledger, claims)
}

/// What is judged: in a database's ledger, and of an HTTP service's fence.
fn fences() -> Vec<Hot> {
    let policy = Policy { drain_ms: 5_000, settle_ms: 30_000, on_unknown: OnUnknown::Wait, enforce: true };
    let (of_many, claims) = ledger(1_000);
    let (stale_in, _) = ledger(1_000);
    let (mut rising, _) = ledger(1_000);
    let (stale, mut newer, mut next) = (claim(1, 6), claim(1, 7), 0);
    let name: FenceName = "tenant-1".parse().expect("a name");
    let mark = Some(Mark { token: token(7), holder: None });
    let at_rest = move || DrainedFence::restored(mark.clone(), true, false, Moment(0), &policy);
    let (mut busy, mut advancing, mut leader) = (at_rest(), at_rest(), 7);
    let (one, other) = (name.clone(), name);
    vec![
        hot("check, admitted", move || {
            next = (next + 1) % claims.len();
            let _ = black_box(of_many.judge(black_box(std::slice::from_ref(&claims[next]))));
        }),
        hot("check, stale", move || {
            let _ = black_box(stale_in.judge(black_box(std::slice::from_ref(&stale))));
        }),
        hot("advance, in the ledger", move || {
            newer.token = token(newer.token.get() + 1);
            let _ = black_box(rising.admit(black_box(std::slice::from_ref(&newer))));
        }),
        hot("a write's pass, given and back", move || {
            let asked = busy.ask(&one, black_box(token(7)), None, Purpose::Write, Moment(1), &policy);
            let Asked::Go(Some(pass)) = asked else { panic!("a leader's write goes") };
            let _ = black_box(busy.finish(pass, Outcome::Known, Moment(2), &policy));
        }),
        hot("advance, of a drained fence", move || {
            leader += 1;
            let asked = advancing.ask(&other, black_box(token(leader)), None, Purpose::Read, Moment(1), &policy);
            assert!(matches!(black_box(asked), Asked::Store(_)));
            let _ = black_box(advancing.stored(Moment(1), &policy));
        }),
    ]
}

/// What a request presents.
fn headers() -> Vec<Hot> {
    let one = |name, header: &'static str, value: &str| {
        let own: FenceName = "orders".parse().expect("a name");
        let mut headers = HeaderMap::new();
        headers.insert("host", "gate".parse().expect("a value"));
        headers.insert("content-length", "128".parse().expect("a value"));
        headers.insert(header, value.parse().expect("a value"));
        hot(name, move || {
            let _ = black_box(presented(black_box(&headers), Some(&own)));
        })
    };
    vec![
        one("header, a bare token", "fencing-token", "12345678"),
        one("header, two fences", "fencing-token", "orders=12345678, jobs=42"),
        one("header, bearer with a holder", "authorization", "Bearer fgt.12345678.bm9kZS1hLmV4YW1wbGU"),
    ]
}

const INSERT: &str = r#"{"type":"execute","stmt":{"sql":"INSERT INTO t (a, b) VALUES (?, ?)","args":[{"type":"integer","value":"42"},{"type":"text","value":"hello world"}]}}"#;
/// Rows of the result that is rendered.
const ROWS: usize = 100;

/// A pipeline of so many inserts.
fn body(inserts: usize) -> Vec<u8> {
    format!(r#"{{"baton":null,"requests":[{},{{"type":"close"}}]}}"#, vec![INSERT; inserts].join(",")).into_bytes()
}

/// Runs nothing, and says that it has inserted a row.
struct Nothing;

impl Exec for Nothing {
    fn execute(&mut self, sql: &str, args: &Args, _: bool, _: &mut Rows) -> Result<(Option<Done>, usize), Halt> {
        black_box(args);
        let done = Done { affected: 1, last_rowid: Some(4711), rows_read: 0, duration: Duration::from_micros(12) };
        Ok((Some(done), sql.len()))
    }

    fn describe(&mut self, _: &str, _: &mut Vec<u8>) -> Result<(), Halt> {
        Ok(())
    }

    fn is_autocommit(&self) -> bool {
        true
    }
}

fn hrana() -> Vec<Hot> {
    let (one, ten) = (body(1), body(10));
    let parsed = Pipeline::parse(&one, Version::V3).expect("a pipeline");
    let program = Program { requests: parsed.requests, format: Format::Pipeline };
    let mut stored = StoredSql::new();
    let conn = rusqlite::Connection::open_in_memory().expect("it opens");
    let sql = format!(
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) \
         SELECT i AS id, printf('name \"%d\"', i) AS name, i * 0.25 AS price FROM n"
    );
    let mut select = raw::prepare(&conn, &sql, true).expect("SQL").0.expect("a statement");
    let mut out = Vec::new();
    vec![
        hot("Hrana, an insert read", move || {
            let _ = black_box(Pipeline::parse(black_box(&one), Version::V3));
        }),
        hot("Hrana, ten inserts read", move || {
            let _ = black_box(Pipeline::parse(black_box(&ten), Version::V3));
        }),
        hot("Hrana, an insert answered", move || {
            let mut run = Run::new(1 << 20);
            run.advance(black_box(&program), &mut stored, &mut Nothing).expect("nothing fails");
            black_box(run.body(Format::Pipeline, None));
        }),
        hot("Hrana, a hundred rows run and answered", move || {
            let _keeps_it_open = &conn;
            let mut rows = Rows::new(true, 1 << 20);
            while select.step().expect("a row") {
                rows.push(&select).expect("UTF-8");
            }
            rows.describe(&select);
            select.reset();
            out.clear();
            rows.stmt_result(&mut out, &Done::default());
            black_box(&out);
        }),
    ]
}

fn path() -> Hot {
    let template = Template::parse("stock/{2}").expect("a template");
    hot("path to the fence's name", move || {
        let path = NormalPath::parse(black_box("/warehouses/eu-7/items/4711")).expect("a path");
        let _ = black_box(template.fence(&path));
    })
}

fn journal(dir: &Path) -> Hot {
    let (journal, _) = Journal::open(&dir.join("journal"), [1; 16], 1024).expect("it opens");
    journal.start().expect("it is written");
    let mut id = 0;
    hot("journal, a write noted and crossed out", move || {
        id = (id + 1) % 1024;
        journal.set(black_box(id), true);
        journal.set(black_box(id), false);
    })
}
