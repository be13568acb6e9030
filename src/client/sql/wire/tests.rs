use super::*;

fn answer(result: &str) -> String {
    format!(
        r#"{{"baton":null,"base_url":null,"results":[{{"type":"ok","response":{{"type":"execute","result":{result}}}}}]}}"#
    )
}

#[test]
fn values_are_read_exactly() {
    let values = r#"[{"type":"null"},{"type":"integer","value":"-9223372036854775808"},{"type":"integer","value":7},
        {"type":"float","value":0.1},{"type":"float","value":1e999},{"type":"float","value":-1e999},{"type":"float","value":2},
        {"type":"text","value":"a\"\u0000\u00e4"},{"type":"blob","base64":"AP8"},{"type":"blob","base64":"AP8="}]"#;
    let cols = r#"{"name":"a"},"#.repeat(9) + r#"{"name":null}"#;
    let text = answer(&format!(
        r#"{{"cols":[{cols}],"rows":[{values}],"affected_row_count":3,"last_insert_rowid":"9223372036854775807","later":1}}"#
    ));
    let rows = read(text.as_bytes()).unwrap().first().unwrap().rows().unwrap();
    assert_eq!(rows.executed(), Executed { rows_changed: 3, last_insert_rowid: Some(i64::MAX) });
    assert_eq!(rows.columns()[9], "");
    let expected = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(7),
        Value::Real(0.1),
        Value::Real(f64::INFINITY),
        Value::Real(f64::NEG_INFINITY),
        Value::Real(2.0),
        Value::Text("a\"\0ä".to_owned()),
        Value::Blob(vec![0, 255]),
        Value::Blob(vec![0, 255]),
    ];
    assert_eq!(rows[0].values(), expected);
    assert_eq!(rows[0].get::<Option<i64>>(0), Ok(None));
    assert!(rows[0].get::<i64>(0).is_err() && rows[0].get::<f64>(1).is_err() && rows[0].get::<i64>(10).is_err());
}

#[test]
fn what_is_no_answer_is_no_success() {
    for text in ["", "{}", r#"{"baton":null,"results":[]}"#, r#"{"baton":null,"results":[{"type":"ok"}]}"#] {
        let rows = read(text.as_bytes()).and_then(|answer| answer.first()?.rows());
        assert!(matches!(rows, Err(Error::Unknown { why: Unknown::NotAGate, .. })), "{text:?}: {rows:?}");
    }
    let more = answer(r#"{"cols":[{"name":"a"}],"rows":[[]],"affected_row_count":0,"last_insert_rowid":null}"#);
    assert!(read(more.as_bytes()).unwrap().first().unwrap().rows().is_err());
}

#[test]
fn a_batch_tells_which_statement_failed() {
    let done = r#"{"cols":[],"rows":[],"affected_row_count":0,"last_insert_rowid":null}"#;
    let batch = |results: &str, errors: &str| {
        let text = answer(&format!(r#"{{"step_results":[{results}],"step_errors":[{errors}]}}"#));
        read(text.as_bytes()).and_then(|answer| answer.first()?.batch(2))
    };
    let all = batch(&format!("{done},{done},{done},{done},null"), "null,null,null,null,null");
    assert_eq!(all.map(|rows| rows.len()), Ok(2));
    let error = r#"{"message":"no","code":"SQLITE_CONSTRAINT"}"#;
    let second = batch(&format!("{done},{done},null,null,{done}"), &format!("null,null,{error},null,null"));
    assert!(matches!(second, Err(Error::Sql { statement: 1, .. })), "{second:?}");
    // Nothing went wrong, and yet there was no commit: nobody has said that it was done.
    let undone = batch(&format!("{done},{done},{done},null,null"), "null,null,null,null,null");
    assert!(matches!(undone, Err(Error::Unknown { .. })), "{undone:?}");
}

#[test]
fn what_can_not_be_sent_is_refused_here() {
    for number in [f64::NAN, f64::INFINITY] {
        let statement = Statement::new("SELECT ?").with([Value::Real(number)]);
        let requests = [Request::Execute { statement: &statement, wants_rows: true }];
        assert!(matches!(write(None, &requests), Err(Error::Misuse(_))));
    }
}
