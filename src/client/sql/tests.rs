use super::*;

#[test]
fn statements_that_begin_or_end_transactions_are_found_as_sqlite_finds_them() {
    for sql in [
        "BEGIN",
        "begin immediate",
        " \t\r\n\x0c;;Commit;",
        "/* a */ -- b\n END",
        "\u{feff}ROLLBACK",
        "SAVEPOINT a",
        "release\ta",
        "--\nBEGIN--",
        "/**/BEGIN/**/TRANSACTION",
    ] {
        assert!(matches!(alone(sql), Err(Error::Misuse(_))), "{sql:?}");
    }
    for sql in
        ["", ";", "SELECT 'BEGIN'", "INSERT INTO begin VALUES (1)", "BEGINNING", "-- BEGIN", "/* COMMIT", "\"BEGIN\""]
    {
        assert_eq!(alone(sql), Ok(()), "{sql:?}");
    }
}

#[test]
fn in_a_transaction_only_what_ends_it_is_refused() {
    for sql in [
        "BEGIN",
        "COMMIT",
        "end transaction",
        "ROLLBACK",
        "rollback transaction;",
        "ROLLBACK; TO a",
        "/* TO */ROLLBACK",
    ] {
        assert!(matches!(inside(sql), Err(Error::Misuse(_))), "{sql:?}");
    }
    for sql in
        ["SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", "rollback /* */ transaction to savepoint \"a\"", "SELECT 1"]
    {
        assert_eq!(inside(sql), Ok(()), "{sql:?}");
    }
}
