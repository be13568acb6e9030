use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::*;
use crate::coordinator::embedded::elections::{Elections, Limits, Place, Standing};
use crate::fence::FenceName;

const TTL: Duration = Duration::from_secs(10);

fn orders() -> FenceName {
    "orders".parse().unwrap()
}

fn id(number: u8) -> CandidateId {
    CandidateId([number; 16])
}

fn start(store: &Store) -> Elections {
    let stored = store.load().unwrap();
    Elections::restore(Limits::default(), Arc::new(|_| None), stored, Duration::ZERO).unwrap()
}

fn enter(elections: &mut Elections, number: u8) -> Standing {
    let holder = Some(format!("node-{number}").parse().unwrap());
    elections.enter(Duration::ZERO, &orders(), id(number), holder, TTL).unwrap()
}

fn place(elections: &mut Elections, now: Duration, number: u8) -> Option<Place> {
    elections.renew(now, &orders(), id(number)).ok().map(|standing| standing.place)
}

#[test]
fn leader_queue_and_last_token_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("not/there/yet");
    let mut store = Store::open(&data_dir).unwrap();
    let mut elections = start(&store);
    for number in [9, 3, 7] {
        enter(&mut elections, number);
    }
    elections.resign(Duration::ZERO, &orders(), id(9)).unwrap();
    store.save(elections.changes()).unwrap();
    drop(store);

    let mut store = Store::open(&data_dir).unwrap();
    let mut elections = start(&store);
    let almost = TTL - Duration::from_millis(1);
    let two = Token::new(2).unwrap();
    let leader = elections.status(almost, &orders()).leader.unwrap().0;
    assert_eq!((leader.token, leader.holder.unwrap().as_str()), (two, "node-3"));
    assert_eq!(place(&mut elections, almost, 3), Some(Place::Leading { token: two }), "its full TTL from the restart");
    assert!(matches!(place(&mut elections, almost, 7), Some(Place::Waiting { position: 1, .. })));
    assert_eq!(place(&mut elections, almost, 9), None);
    assert_eq!(elections.changes(), [], "renewals are not stored");
    for number in [3, 7] {
        elections.resign(almost, &orders(), id(number)).unwrap();
    }
    store.save(elections.changes()).unwrap();
    drop(store);

    let store = Store::open(&data_dir).unwrap();
    assert_eq!(enter(&mut start(&store), 4).place, Place::Leading { token: Token::new(4).unwrap() });
}

#[test]
fn the_last_token_there_is_can_be_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let change = Change::Elected { election: orders(), candidate: id(1), token: Token::MAX };
    store.save(&[change]).unwrap();
    assert_eq!(store.load().unwrap().last_tokens, [(orders(), Token::MAX)]);
}

#[test]
fn saving_again_what_a_failed_commit_had_stored_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let mut elections = start(&store);
    enter(&mut elections, 1);
    enter(&mut elections, 2);
    elections.resign(Duration::ZERO, &orders(), id(1)).unwrap();
    enter(&mut elections, 3);
    store.save(elections.changes()).unwrap();
    let once = store.load().unwrap();
    store.save(elections.changes()).unwrap();
    assert_eq!(store.load().unwrap(), once);
    assert_eq!(once.candidates.len(), 2);
    assert_eq!(once.candidates[0].1, Some(Token::new(2).unwrap()));
}

#[test]
fn the_schema_itself_keeps_last_tokens_from_falling() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let change = Change::Elected { election: orders(), candidate: id(1), token: Token::new(5).unwrap() };
    store.save(&[change]).unwrap();
    assert!(store.connection.execute("UPDATE election SET last_token = 4", []).is_err());
    assert!(store.connection.execute("DELETE FROM election", []).is_err());
}

#[test]
fn every_commit_is_synced_and_the_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pragma = |name| store.connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
    assert_eq!(pragma("journal_mode").unwrap(), "wal");
    let synchronous: i64 = store.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "FULL");
    for file in ["gate.db", "gate.db-wal", "gate.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_database_of_a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let newer = format!(
        "INSERT INTO {MIGRATION_TABLE} (version, name, applied_on, checksum)
         VALUES (4711, 'from_the_future', '2030-01-01T00:00:00Z', '1')"
    );
    store.connection.execute(&newer, []).unwrap();
    drop(store);
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { version: 4711, .. }), "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
}

#[test]
fn a_migration_that_differs_from_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.connection.execute(&format!("UPDATE {MIGRATION_TABLE} SET checksum = '1'"), []).unwrap();
    drop(store);
    assert!(matches!(Store::open(dir.path()).unwrap_err(), OpenError::Schema { .. }));
}

#[test]
fn one_coordinator_at_a_time_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(Store::open(dir.path()).unwrap_err(), OpenError::InUse { .. }));
    drop(store);
    assert!(Store::open(dir.path()).is_ok());
}

#[test]
fn rows_that_nobody_has_written_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.connection.execute("INSERT INTO election (name, last_token) VALUES ('not a name', 1)", []).unwrap();
    assert!(matches!(store.load().unwrap_err(), OpenError::Damaged(_)));
}

#[test]
fn what_a_restore_has_set_is_never_issued_and_never_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap().beneath, None);
    for floor in [900, 500] {
        store.connection.execute("INSERT INTO floor (token) VALUES (?1)", [floor]).unwrap();
    }
    let mut elections = start(&store);
    let leads = Place::Leading { token: Token::new(901).unwrap() };
    assert_eq!(enter(&mut elections, 1).place, leads, "above the highest, in an election that was never held");
    for change in ["UPDATE floor SET token = 1000", "DELETE FROM floor"] {
        assert!(store.connection.execute(change, []).is_err(), "{change}");
    }
    assert!(store.connection.execute("INSERT INTO floor (token) VALUES (0)", []).is_err());
}
