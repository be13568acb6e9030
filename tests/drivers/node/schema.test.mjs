// What is told about the schema is true right after it changed, whichever of the gate's connections answers.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startGate } from "./gate.mjs";

// More than the gate has threads that read: each has seen the schema as it was.
const eachReader = (client, sql) => Promise.all(Array.from({ length: 32 }, () => client.execute(sql)));

test("pragmas that describe a table that was just made", async (t) => {
  const gate = await startGate(t);
  const [leader, reader] = [gate.client(7), gate.client()];
  await eachReader(reader, "SELECT count(*) FROM sqlite_schema");
  await leader.executeMultiple(`
    CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (parent_id REFERENCES parent (id), name TEXT);
    CREATE INDEX child_name ON child (name);
  `);
  for (const pragma of ["index_list('child')", "index_info('child_name')", "foreign_key_list('child')", "table_info('child')"]) {
    for (const { rows } of await eachReader(reader, `PRAGMA ${pragma}`)) {
      assert.notEqual(rows.length, 0, pragma);
    }
  }
  await leader.execute("ALTER TABLE child ADD COLUMN extra");
  for (const { rows } of await eachReader(reader, "PRAGMA table_info('child')")) {
    assert.deepEqual(rows.map((row) => row.name), ["parent_id", "name", "extra"]);
  }
});
