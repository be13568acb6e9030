// Interactive transactions: one HTTP request for each step, held together by batons.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startGate } from "./gate.mjs";

/** A gate with a table `t`, a client at token 7, and a way to count rows from outside. */
async function setting(t) {
  const gate = await startGate(t);
  const client = gate.client(7);
  await client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)");
  const reader = gate.client();
  const count = async () => (await reader.execute("SELECT count(*) AS n FROM t")).rows[0].n;
  return { gate, client, count };
}

for (const mode of ["write", "deferred"]) {
  test(`commit makes it seen, and not before: ${mode}`, async (t) => {
    const { client, count } = await setting(t);
    await commitIsSeen(await client.transaction(mode), count);
  });
}

async function commitIsSeen(tx, count) {
  await tx.execute({ sql: "INSERT INTO t (name) VALUES (?)", args: ["a"] });
  await tx.batch([{ sql: "INSERT INTO t (name) VALUES (?)", args: ["b"] }, "INSERT INTO t (name) VALUES ('c')"]);
  await tx.executeMultiple("INSERT INTO t (name) VALUES ('d'); INSERT INTO t (name) VALUES ('e')");
  assert.equal((await tx.execute("SELECT count(*) AS n FROM t")).rows[0].n, 5, "it reads its own writes");
  assert.equal(await count(), 0, "no one else does");
  await tx.commit();
  assert.equal(tx.closed, true);
  assert.equal(await count(), 5);
  await assert.rejects(tx.execute("SELECT 1"), { code: "TRANSACTION_CLOSED" });
}

test("rollback, and close without commit, leave nothing", async (t) => {
  const { client, count } = await setting(t);
  for (const end of ["rollback", "close"]) {
    const tx = await client.transaction("write");
    await tx.execute("INSERT INTO t (name) VALUES ('a')");
    await tx[end]();
    // The next writer waits until the transaction has let go of the database.
    await client.execute("DELETE FROM t");
    assert.equal(await count(), 0);
  }
});

test("a failed statement leaves the transaction open", async (t) => {
  const { client, count } = await setting(t);
  const tx = await client.transaction("write");
  await tx.execute("INSERT INTO t (name) VALUES ('a')");
  await assert.rejects(tx.execute("INSERT INTO t (name) VALUES ('a')"), { code: "SQLITE_CONSTRAINT" });
  await assert.rejects(tx.execute("SELEC"), { code: "SQLITE_ERROR" });
  await tx.execute("INSERT INTO t (name) VALUES ('b')");
  await tx.commit();
  assert.equal(await count(), 2);
});

test("savepoints", async (t) => {
  const { client, count } = await setting(t);
  const tx = await client.transaction("write");
  await tx.execute("INSERT INTO t (name) VALUES ('kept')");
  await tx.execute("SAVEPOINT inner_one");
  await tx.execute("INSERT INTO t (name) VALUES ('undone')");
  await tx.execute("ROLLBACK TO inner_one");
  await tx.execute("RELEASE inner_one");
  await tx.commit();
  assert.equal(await count(), 1);
});

test("a deferred transaction reads one state to its end", async (t) => {
  const { gate, client } = await setting(t);
  const tx = await gate.client().transaction("read");
  const seen = async () => (await tx.execute("SELECT count(*) AS n FROM t")).rows[0].n;
  assert.equal(await seen(), 0);
  await client.execute("INSERT INTO t (name) VALUES ('a')");
  assert.equal(await seen(), 0);
  await tx.commit();
});

test("a read transaction can't write", async (t) => {
  const { client, count } = await setting(t);
  const tx = await client.transaction("read");
  await tx.execute("SELECT 1");
  await assert.rejects(tx.execute("INSERT INTO t (name) VALUES ('a')"));
  tx.close();
  assert.equal(await count(), 0);
});

test("two transactions of one leader take turns", async (t) => {
  const { client, count } = await setting(t);
  const first = await client.transaction("write");
  await first.execute("INSERT INTO t (name) VALUES ('first')");
  const second = await client.transaction("write");
  const waiting = second.execute("INSERT INTO t (name) SELECT 'second after ' || count(*) FROM t");
  await first.commit();
  await waiting;
  await second.commit();
  const { rows } = await client.execute("SELECT name FROM t ORDER BY id");
  assert.deepEqual(rows.map((row) => row.name), ["first", "second after 1"]);
  assert.equal(await count(), 2);
});
