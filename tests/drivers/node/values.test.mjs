// Every kind of value, there and back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startGate } from "./gate.mjs";

/** The one value of a query's one row. */
async function one(client, sql, args = []) {
  const { rows } = await client.execute({ sql, args });
  assert.equal(rows.length, 1);
  return rows[0][0];
}

test("values come back as they went", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.execute("CREATE TABLE v (x)");
  const texts = ["", "plain", "naïve – 漢字 – עברית", "🦀👩‍👩‍👧", "a\0b", "quote ' \" \\ \u2028 \n\t", "x".repeat(100_000)];
  const numbers = [0, 1, -1, 1.5, -1.5e-300, 1.7976931348623157e308, 5e-324, 2 ** 53, 2 ** 63, 1e20, 1e21];
  for (const value of [...texts, ...numbers, null]) {
    await client.execute("DELETE FROM v");
    await client.execute({ sql: "INSERT INTO v VALUES (?)", args: [value] });
    assert.deepEqual(await one(client, "SELECT x FROM v"), value);
  }
});

test("booleans become integers, dates milliseconds", async (t) => {
  const client = (await startGate(t)).client(7);
  assert.equal(await one(client, "SELECT ?", [true]), 1);
  assert.equal(await one(client, "SELECT typeof(?)", [false]), "integer");
  assert.equal(await one(client, "SELECT ?", [new Date(1_700_000_000_123)]), 1_700_000_000_123);
});

test("blobs of every byte, and an empty one", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.execute("CREATE TABLE b (x BLOB)");
  for (const length of [0, 1, 2, 3, 4, 256, 70_000]) {
    const blob = Uint8Array.from({ length }, (_, i) => i % 256);
    await client.execute("DELETE FROM b");
    await client.execute({ sql: "INSERT INTO b VALUES (?)", args: [blob] });
    const back = await one(client, "SELECT x FROM b");
    assert.ok(back instanceof ArrayBuffer);
    assert.deepEqual(new Uint8Array(back), blob);
    assert.equal(await one(client, "SELECT typeof(x) || length(x) FROM b"), `blob${length}`);
  }
});

test("integers past 2^53 keep every digit", async (t) => {
  const gate = await startGate(t);
  const client = gate.client(7, { intMode: "bigint" });
  await client.execute("CREATE TABLE i (id INTEGER PRIMARY KEY, x INTEGER)");
  for (const value of [9007199254740993n, 9223372036854775807n, -9223372036854775808n]) {
    await client.execute({ sql: "INSERT INTO i (x) VALUES (?)", args: [value] });
    assert.equal(await one(client, "SELECT x FROM i WHERE x = ?", [value]), value);
  }
  const { lastInsertRowid } = await client.execute("INSERT INTO i VALUES (9223372036854775806, 1)");
  assert.equal(lastInsertRowid, 9223372036854775806n);

  const texts = gate.client(7, { intMode: "string" });
  assert.equal(await one(texts, "SELECT max(x) FROM i"), "9223372036854775807");
  await assert.rejects(one(gate.client(7), "SELECT max(x) FROM i"), RangeError);
});

test("infinity can be read", async (t) => {
  const client = (await startGate(t)).client();
  assert.equal(await one(client, "SELECT 9e999"), Infinity);
  assert.equal(await one(client, "SELECT -9e999"), -Infinity);
});

test("arguments by position and by name", async (t) => {
  const client = (await startGate(t)).client();
  const row = async (sql, args) => Array.from((await client.execute({ sql, args })).rows[0]);
  assert.deepEqual(await row("SELECT ?, ?", ["a", "b"]), ["a", "b"]);
  assert.deepEqual(await row("SELECT ?2, ?1", ["a", "b"]), ["b", "a"]);
  assert.deepEqual(await row("SELECT :one, @two, $three", { one: "1", two: "2", three: "3" }), ["1", "2", "3"]);
  assert.deepEqual(await row("SELECT :one, @two", { ":one": "1", "@two": "2" }), ["1", "2"]);
  assert.deepEqual(await row("SELECT :same, :same", { same: "s" }), ["s", "s"]);
  assert.deepEqual((await client.execute("SELECT ?, ?", ["as", "two"])).rows[0][1], "two");
});

test("columns have names and declared types", async (t) => {
  const client = (await startGate(t)).client(7);
  await client.execute("CREATE TABLE c (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL, raw)");
  await client.execute("INSERT INTO c VALUES (1, 'tea', 2.5, x'00ff')");
  const result = await client.execute("SELECT id, name AS label, price, raw, 1 + 1 FROM c");
  assert.deepEqual(result.columns, ["id", "label", "price", "raw", "1 + 1"]);
  assert.deepEqual(result.columnTypes, ["INTEGER", "TEXT", "REAL", "", ""]);
  assert.equal(result.rows[0].label, "tea");
  assert.equal(result.rows[0][1], "tea");
  const none = await client.execute("SELECT id, name FROM c WHERE id > 1");
  assert.deepEqual([none.columns, none.rows.length], [["id", "name"], 0]);
});
