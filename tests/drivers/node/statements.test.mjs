// Statements, batches and scripts that are no interactive transaction.

import assert from "node:assert/strict";
import { test } from "node:test";
import { LibsqlBatchError, LibsqlError } from "@libsql/client";
import { startGate } from "./gate.mjs";

const table = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)";

/** How many rows `t` has, asked without a token. */
async function count(gate) {
  return (await gate.client().execute("SELECT count(*) AS n FROM t")).rows[0].n;
}

test("a write tells its rows and its rowid", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.execute(table);
  const insert = await client.execute({ sql: "INSERT INTO t (name) VALUES (?), (?)", args: ["a", "b"] });
  assert.deepEqual([insert.rowsAffected, insert.lastInsertRowid], [2, 2n]);
  const update = await client.execute("UPDATE t SET name = name || '!' WHERE id = 1");
  assert.equal(update.rowsAffected, 1);
  const returning = await client.execute("INSERT INTO t (name) VALUES ('c') RETURNING id, upper(name) AS loud");
  assert.deepEqual({ ...returning.rows[0] }, { id: 3, loud: "C" });
  const gone = await client.execute("DELETE FROM t");
  assert.equal(gone.rowsAffected, 3);
});

test("a batch is one transaction", async (t) => {
  const gate = await startGate(t);
  const client = gate.client(7);
  await client.execute(table);
  const results = await client.batch(
    [
      { sql: "INSERT INTO t (name) VALUES (?)", args: ["a"] },
      { sql: "INSERT INTO t (name) VALUES (:name)", args: { name: "b" } },
      ["INSERT INTO t (name) VALUES (?)", ["c"]],
      "SELECT count(*) AS n FROM t",
    ],
    "write",
  );
  assert.deepEqual(results.map((result) => result.rowsAffected).slice(0, 3), [1, 1, 1]);
  assert.equal(results[3].rows[0].n, 3);

  const failing = client.batch(["INSERT INTO t (name) VALUES ('d')", "INSERT INTO t (name) VALUES ('a')"], "write");
  await assert.rejects(failing, (error) => {
    assert.ok(error instanceof LibsqlBatchError);
    assert.deepEqual([error.code, error.statementIndex], ["SQLITE_CONSTRAINT", 1]);
    return true;
  });
  assert.equal(await count(gate), 3, "nothing of the failed batch stays");
});

test("a batch sees what it wrote, and repeats statements from the driver's cache", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.execute(table);
  const insert = "INSERT INTO t (name) VALUES (?) RETURNING id";
  const names = Array.from({ length: 100 }, (_, i) => `name ${i}`);
  const results = await client.batch(names.map((name) => ({ sql: insert, args: [name] })), "write");
  assert.deepEqual(results.map((result) => result.rows[0].id), names.map((_, i) => i + 1));
});

test("batches that only read need no token", async (t) => {
  const gate = await startGate(t);
  await gate.client(7).execute(table);
  for (const mode of ["read", "deferred"]) {
    const results = await gate.client().batch(["SELECT 1 AS one", "SELECT count(*) AS n FROM t"], mode);
    assert.deepEqual([results[0].rows[0].one, results[1].rows[0].n], [1, 0]);
  }
});

test("executeMultiple runs a script", async (t) => {
  const gate = await startGate(t);
  const client = gate.client(7);
  await client.executeMultiple(`
    ${table};
    -- a comment; with a semicolon
    INSERT INTO t (name) VALUES ('semi;colon');
    CREATE TRIGGER twice AFTER INSERT ON t WHEN NEW.name NOT LIKE '%!' BEGIN
      INSERT INTO t (name) VALUES (NEW.name || '!');
    END;
    BEGIN; INSERT INTO t (name) VALUES ('in a transaction'); COMMIT;
  `);
  assert.equal(await count(gate), 3);
  const half = client.executeMultiple("INSERT INTO t (name) VALUES ('stays'); INSERT INTO nowhere VALUES (1)");
  await assert.rejects(half, { name: "LibsqlError", message: /no such table: nowhere/ });
  assert.equal(await count(gate), 5);
});

test("migrate runs with foreign keys off, and leaves them on", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.executeMultiple(`
    CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (parent_id INTEGER NOT NULL REFERENCES parent (id));
    INSERT INTO parent VALUES (1);
    INSERT INTO child VALUES (1);
  `);
  await client.migrate([
    "CREATE TABLE parent_new (id INTEGER PRIMARY KEY, name TEXT)",
    "INSERT INTO parent_new (id) SELECT id FROM parent",
    "DROP TABLE parent",
    "ALTER TABLE parent_new RENAME TO parent",
  ]);
  const { rows } = await client.execute("SELECT parent.name, parent_id FROM child JOIN parent ON id = parent_id");
  assert.deepEqual({ ...rows[0] }, { name: null, parent_id: 1 });
  await assert.rejects(client.execute("INSERT INTO child VALUES (99)"), { code: "SQLITE_CONSTRAINT" });
});

test("errors have SQLite's code and words", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.execute(table);
  await client.execute("INSERT INTO t VALUES (1, 'a')");
  const cases = [
    ["INSERT INTO t (name) VALUES ('a')", "SQLITE_CONSTRAINT", /UNIQUE constraint failed: t\.name/],
    ["INSERT INTO t VALUES (1, 'b')", "SQLITE_CONSTRAINT", /UNIQUE constraint failed: t\.id/],
    ["SELEC 1", "SQLITE_ERROR", /near "SELEC": syntax error/],
    ["SELECT * FROM nowhere", "SQLITE_ERROR", /no such table: nowhere/],
    ["SELECT missing FROM t", "SQLITE_ERROR", /no such column: missing/],
    ["INSERT INTO t (id) VALUES ('text')", "SQLITE_MISMATCH", /datatype mismatch/],
  ];
  for (const [sql, code, message] of cases) {
    await assert.rejects(client.execute(sql), (error) => {
      assert.ok(error instanceof LibsqlError, sql);
      assert.equal(error.code, code, sql);
      assert.match(error.message, message);
      return true;
    });
  }
  assert.equal((await client.execute("SELECT count(*) AS n FROM t")).rows[0].n, 1);
});

test("many clients at once lose nothing", async (t) => {
  const gate = await startGate(t);
  await gate.client(7).execute(table);
  const clients = Array.from({ length: 8 }, () => gate.client(7));
  const write = (client, n) => client.execute({ sql: "INSERT INTO t (name) VALUES (?)", args: [`${n}`] });
  const writes = Array.from({ length: 200 }, (_, n) => write(clients[n % clients.length], n));
  const rowids = (await Promise.all(writes)).map((result) => Number(result.lastInsertRowid));
  assert.deepEqual(rowids.sort((a, b) => a - b), rowids.map((_, i) => i + 1));
  assert.equal(await count(gate), 200);
});
