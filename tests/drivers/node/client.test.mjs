// npm's @libsql/client, as it is, through the gate.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createClient } from "@libsql/client";
import { startGate } from "./gate.mjs";

let gate;
before(async () => (gate = await startGate()));
after(() => gate.stop());

const client = (token, more = {}) =>
  createClient({ url: gate.url, authToken: token === undefined ? undefined : `fgt.${token}`, ...more });

// Each test leads with a token of its own, and the tests run one after another.
let term = 0;
const lead = (more) => client(++term, more);
const base64url = (text) => Buffer.from(text).toString("base64url");

test("statements, arguments, values", async () => {
  const db = lead({ intMode: "bigint" });
  await db.execute("CREATE TABLE vals (id INTEGER PRIMARY KEY, i, f REAL, t TEXT, b BLOB, n)");
  const args = [9223372036854775807n, 1.5, "grüße 🎉 \u0000 end", new Uint8Array([0, 255, 1]), null];
  const inserted = await db.execute({ sql: "INSERT INTO vals (i, f, t, b, n) VALUES (?, ?, ?, ?, ?)", args });
  assert.equal(inserted.rowsAffected, 1);
  assert.equal(inserted.lastInsertRowid, 1n);
  const { rows, columns } = await db.execute({ sql: "SELECT i, f, t, b, n FROM vals WHERE id = :id", args: { id: 1 } });
  assert.deepEqual(columns, ["i", "f", "t", "b", "n"]);
  assert.equal(rows[0].i, 9223372036854775807n);
  assert.equal(rows[0].f, 1.5);
  assert.equal(rows[0].t, args[2]);
  assert.deepEqual(new Uint8Array(rows[0].b), args[3]);
  assert.equal(rows[0].n, null);
  const named = await db.execute({ sql: "SELECT $a AS a, @b AS b", args: { a: 1n, b: "two" } });
  assert.deepEqual([named.rows[0].a, named.rows[0].b], [1n, "two"]);
  const returned = await db.execute("INSERT INTO vals (t) VALUES ('x') RETURNING id, t");
  assert.deepEqual([returned.rows[0].id, returned.rows[0].t], [2n, "x"]);
});

test("errors of the database keep their code", async () => {
  const db = lead();
  await db.execute("CREATE TABLE uniq (v TEXT UNIQUE)");
  await db.execute("INSERT INTO uniq VALUES ('a')");
  await assert.rejects(db.execute("INSERT INTO uniq VALUES ('a')"), (error) => {
    assert.match(error.code, /^SQLITE_CONSTRAINT/);
    assert.match(error.message, /UNIQUE constraint failed: uniq\.v/);
    return true;
  });
  await assert.rejects(db.execute("SELEC 1"), /syntax error/);
  await assert.rejects(db.execute("SELECT * FROM nowhere"), /no such table/);
});

test("batches are transactions", async () => {
  const db = lead();
  await db.batch(["CREATE TABLE b (v INTEGER UNIQUE)", { sql: "INSERT INTO b VALUES (?)", args: [1] }], "write");
  await assert.rejects(db.batch(["INSERT INTO b VALUES (2)", "INSERT INTO b VALUES (1)"], "write"), /UNIQUE/);
  const [one, all] = await db.batch(["SELECT 1 AS one", "SELECT v FROM b"], "read");
  assert.equal(one.rows[0].one, 1);
  assert.deepEqual(all.rows.map((row) => row.v), [1]);
  await db.executeMultiple("INSERT INTO b VALUES (3); -- a comment\nINSERT INTO b VALUES (4);");
  assert.equal((await db.execute("SELECT count(*) AS n FROM b")).rows[0].n, 3);
  await db.migrate(["CREATE TABLE parent (id INTEGER PRIMARY KEY)", "CREATE TABLE child (p REFERENCES parent (id))"]);
  await assert.rejects(db.execute("INSERT INTO child VALUES (7)"), /FOREIGN KEY/);
});

test("interactive transactions", async () => {
  const db = lead();
  await db.execute("CREATE TABLE tx (v)");
  const tx = await db.transaction("write");
  await tx.execute("INSERT INTO tx VALUES (1)");
  assert.equal((await tx.execute("SELECT count(*) AS n FROM tx")).rows[0].n, 1, "a transaction sees its own writes");
  assert.equal((await client().execute("SELECT count(*) AS n FROM tx")).rows[0].n, 0, "nobody else does");
  await tx.commit();
  const undone = await db.transaction("deferred");
  await undone.execute("INSERT INTO tx VALUES (2)");
  await undone.rollback();
  const read = await client().transaction("read");
  assert.equal((await read.execute("SELECT count(*) AS n FROM tx")).rows[0].n, 1);
  await read.commit();
});

test("many clients at once", async () => {
  const db = lead();
  await db.execute("CREATE TABLE many (v)");
  const insert = (v) => client(term).execute({ sql: "INSERT INTO many VALUES (?)", args: [v] });
  await Promise.all(Array.from({ length: 200 }, (_, v) => insert(v)));
  assert.equal((await db.execute("SELECT count(DISTINCT v) AS n FROM many")).rows[0].n, 200);
});

test("a write needs a token, a read doesn't", async () => {
  await lead().execute("CREATE TABLE open (v)");
  assert.equal((await client().execute("SELECT count(*) AS n FROM open")).rows[0].n, 0);
  await assert.rejects(client().execute("INSERT INTO open VALUES (1)"), { code: "TOKEN_REQUIRED" });
  await assert.rejects(client("07").execute("SELECT 1"), { code: "TOKEN_MALFORMED" });
});

test("a deposed leader is told that it has been replaced", async () => {
  const old = lead();
  await old.execute("CREATE TABLE led (who)");
  await old.execute("INSERT INTO led VALUES ('old')");
  const successor = lead();
  await successor.execute("INSERT INTO led VALUES ('new')");
  const replaced = (error) => {
    assert.equal(error.name, "LibsqlError");
    assert.equal(error.code, "STALE_TOKEN");
    assert.match(error.message, /You've been replaced/);
    return true;
  };
  await assert.rejects(old.execute("INSERT INTO led VALUES ('old')"), replaced);
  await assert.rejects(old.execute("SELECT * FROM led"), replaced);
  await assert.rejects(old.batch(["INSERT INTO led VALUES ('old')"], "write"), replaced);
  assert.equal((await successor.execute("SELECT count(*) AS n FROM led")).rows[0].n, 2);
});

test("a deposed leader's open transaction makes nobody wait", async () => {
  const old = lead();
  await old.execute("CREATE TABLE locked (who)");
  const tx = await old.transaction("write");
  await tx.execute("INSERT INTO locked VALUES ('old')");
  const started = Date.now();
  await lead().execute("INSERT INTO locked VALUES ('new')");
  // It would wait for 5 s for the lock, and for 10 s until the transaction expires.
  assert.ok(Date.now() - started < 4000, "the successor waited");
  await assert.rejects(tx.execute("INSERT INTO locked VALUES ('old')"), { code: "STALE_TOKEN" });
  await assert.rejects(tx.commit());
  assert.deepEqual((await client().execute("SELECT who FROM locked")).rows.map((row) => row.who), ["new"]);
});

test("a token belongs to the holder first named with it", async () => {
  const token = ++term;
  await client(`${token}.${base64url("node-a")}`).execute("SELECT 1");
  await assert.rejects(client(`${token}.${base64url("node-b")}`).execute("SELECT 1"), { code: "TOKEN_CONFLICT" });
});
