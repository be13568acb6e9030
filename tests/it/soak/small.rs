//! Small histories of the real gate, judged by the exhaustive search: there is an order in which it could have given these answers about
//! marks, doing one thing after the other.
//!
//! Marks and data are two objects, each of which is one thing after the other: what a commit has written can be read a moment before its
//! mark is told to somebody who only looks at that. The data is judged by the checker.
//!
//! It found one thing that is worth knowing: a request with a newer token may be two steps, a claim and then what it asks for. Where a still
//! newer token comes between them, it is refused as stale, and the mark has risen for it all the same.

use std::sync::Barrier;

use super::Kind;
use super::actors::{Actor, Notes};
use super::checker::{Applied, History, Told, judge};
use super::linear::{Register, is_linearizable};
use super::world::{Issuer, World};
use crate::dice::{Dice, seed};
use crate::upstream;
use crate::upstream::hostile::Hostile;

/// So many at once, so many operations each.
const CLIENTS: usize = 3;
const OPS: usize = 3;

#[test]
fn a_gate_answers_as_if_it_did_one_thing_after_the_other() {
    let seed = seed("FENCEGATE_SOAK_SEED");
    let mut dice = Dice::new(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let db = rusqlite::Connection::open(dir.path().join("shop.db")).expect("a database");
    db.execute("CREATE TABLE log (n INTEGER PRIMARY KEY, id INTEGER NOT NULL, term INTEGER NOT NULL)", [])
        .expect("made");
    let service = Hostile::start(dir.path());
    let config = format!(
        "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\nfence = \"app\"\n\
         [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"{}/stock\"\nfence = \"stock/{{1}}\"\n",
        service.url()
    );
    let gate = upstream::gate(dir.path(), &config);
    let table = Kind::Table { path: "/shop", table: "log" };
    let path = Kind::Path("/stock/a");
    for (name, kind) in [("app", table), ("stock/a", path)] {
        let world = &World::new(&[(name, kind, Issuer::Counter, false)], None);
        world.set(Some((gate.data, gate.admin)));
        let line = &world.lines[0];
        let mut start = Register { mark: line.next_term(world), ..Register::without_data() };
        assert_eq!(claim(&gate, line, start.mark), 200);
        for round in 0..60 {
            let barrier = &Barrier::new(CLIENTS);
            let known = start.mark;
            let notes: Vec<Notes> = std::thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS).map(|_| Actor::new(world, line, dice.split())).collect();
                let clients = clients.into_iter().map(|actor| {
                    scope.spawn(move || {
                        barrier.wait();
                        // Of the last leader, and of the next two.
                        actor.few(OPS, |dice| known + dice.roll(3))
                    })
                });
                let clients: Vec<_> = clients.collect();
                clients.into_iter().map(|client| client.join().expect("nobody panicked")).collect()
            });
            let mut history =
                History { ops: notes.into_iter().flat_map(|notes| notes.ops).collect(), ..History::default() };
            let all = match kind {
                Kind::Table { .. } => rows(&db),
                Kind::Path(_) => (1..)
                    .zip(service.applied())
                    .map(|(at, row)| Applied { id: row.id.parse().expect("a number"), token: row.token, at })
                    .collect(),
            };
            let applied: Vec<Applied> =
                all.iter().filter(|row| history.ops.iter().any(|op| op.id == row.id)).copied().collect();
            history.fences.push(super::Fence { name: name.into(), applied, ..super::Fence::default() });
            assert!(history.ops.iter().all(|op| op.told != Told::Unknown), "seed {seed}, round {round}: {history:#?}");
            assert!(is_linearizable(&history, start.clone()), "seed {seed}, round {round}: {start:?} {history:#?}");
            assert_eq!(judge(&history), [], "seed {seed}, round {round}");
            start.mark = history.ops.iter().map(|op| op.highest).max().expect("some answers").max(start.mark);
        }
    }
}

fn claim(gate: &crate::process::Gate, line: &super::world::Line, term: u64) -> u16 {
    let headers = [("fencing-token", &*term.to_string())];
    let answer = gate.client().request("POST", &format!("{}/claim", line.state_path()), &headers, b"");
    answer.expect("an answer").status
}

fn rows(db: &rusqlite::Connection) -> Vec<Applied> {
    let mut stmt = db.prepare("SELECT n, id, term FROM log ORDER BY n").expect("the table is there");
    let number = |row: &rusqlite::Row<'_>, column| row.get(column).map(i64::cast_unsigned);
    let rows =
        stmt.query_map([], |row| Ok(Applied { at: number(row, 0)?, id: number(row, 1)?, token: number(row, 2)? }));
    rows.expect("it can be read").map(|row| row.expect("a row")).collect()
}
