//! A data directory with many marks of fences of HTTP services in it, as a gate has left it.

use std::path::Path;
use std::sync::Arc;

use fencegate::fence::drain::{OnUnknown, Policy};
use fencegate::resource::http::fences::{Fences, Scope};

/// Opens the fences of this directory.
pub fn open(dir: &Path) -> Arc<Fences> {
    let policy = Policy { drain_ms: 5_000, settle_ms: 30_000, on_unknown: OnUnknown::Wait, enforce: true };
    let scope =
        Scope { resource: "tenants".into(), policy, owns: Box::new(|name| name.starts_with("tenant-")), trust: None };
    Fences::open(dir, vec![scope]).expect("it opens")
}

/// Puts this many marks there, each of token 7: `tenant-0000000000000` and those that follow.
pub fn filled(dir: &Path, fences: usize) {
    drop(open(dir));
    let conn = rusqlite::Connection::open(dir.join("fences.db")).expect("it opens");
    let fill = format!(
        "PRAGMA synchronous = OFF;
         WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {fences})
         INSERT INTO mark (id, fence, token, holder, advanced_at_ms, settled)
         SELECT i + 1, printf('tenant-%013d', i), 7, NULL, 0, 1 FROM n"
    );
    conn.execute_batch(&fill).expect("it can be filled");
    // As after a clean stop: otherwise every one of them would be quarantined.
    let journal = dir.join("fences.journal");
    let mut bytes = std::fs::read(&journal).expect("it is there");
    bytes.resize(4096 + fences.next_multiple_of(1 << 16), 0);
    std::fs::write(&journal, bytes).expect("it can be written");
}
