//! What can't be shown here is said so that nobody overlooks it.

use std::process::Command;

use serde_json::Value;

use super::{Demo, lines, of_type};
use crate::process::PROGRAM;

#[test]
fn with_a_status_of_its_own() {
    let said = Demo::run(&["partition", "--coordinator", "etcd://127.0.0.1:1"]);
    assert_eq!((said.status, said.out.as_str()), (Some(71), ""), "{said:?}");
    assert!(said.err.contains("partition can't be shown here") && said.err.contains("leave --coordinator out"));
    let said = Demo::run(&["partition", "--members", "4"]);
    assert_eq!(said.status, Some(64), "{said:?}");
    assert!(said.err.contains("an odd number from 3 to 15"), "{said:?}");
}

#[test]
fn beside_what_is_shown() {
    // No other program is to be found, so that one of the two can be shown.
    let mut command = Command::new(PROGRAM);
    let output = command.args(["demo", "late", "partition", "--json"]).env("PATH", "").output().expect("it starts");
    let told = lines(&String::from_utf8(output.stdout).expect("UTF-8"));
    let skipped = of_type(&told, "skipped");
    // First of all, and again right before the last word.
    assert_eq!((told.first(), told.iter().nth_back(1)), (Some(skipped[0]), Some(skipped[1])), "{told:?}");
    assert_eq!(skipped[0]["scenario"], "partition");
    assert_eq!((&of_type(&told, "result")[0]["ok"], output.status.code()), (&Value::Bool(true), Some(71)));
}
