// Drizzle on @libsql/client, as it is, through the gate.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createClient } from "@libsql/client";
import { eq, relations, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/libsql";
import { migrate } from "drizzle-orm/libsql/migrator";
import { blob, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { startGate } from "./gate.mjs";

const authors = sqliteTable("authors", {
  id: integer("id").primaryKey({ autoIncrement: true }),
  name: text("name").notNull().unique(),
  born: integer("born", { mode: "timestamp" }),
  portrait: blob("portrait", { mode: "buffer" }),
});
const books = sqliteTable("books", {
  id: integer("id").primaryKey(),
  title: text("title").notNull(),
  authorId: integer("author_id").references(() => authors.id, { onDelete: "cascade" }),
});
const authorsRelations = relations(authors, ({ many }) => ({ books: many(books) }));
const booksRelations = relations(books, ({ one }) => ({
  author: one(authors, { fields: [books.authorId], references: [authors.id] }),
}));
const schema = { authors, books, authorsRelations, booksRelations };

let gate;
before(async () => (gate = await startGate()));
after(() => gate.stop());
const open = (token) => drizzle(createClient({ url: gate.url, authToken: `fgt.${token}` }), { schema });

test("migrations, queries, relations, transactions, and being replaced", async () => {
  const db = open(1);
  const migrationsFolder = fileURLToPath(new URL("./migrations", import.meta.url));
  await migrate(db, { migrationsFolder });
  await migrate(db, { migrationsFolder }); // nothing is left to do

  const born = new Date("1929-10-21T00:00:00Z");
  const portrait = Buffer.from([1, 2, 255]);
  const [ursula] = await db.insert(authors).values({ name: "Ursula", born, portrait }).returning();
  assert.equal(ursula.id, 1);
  assert.deepEqual([ursula.born, [...ursula.portrait]], [born, [1, 2, 255]]);
  await db.insert(books).values([
    { id: 1, title: "The Dispossessed", authorId: ursula.id },
    { id: 2, title: "A Wizard of Earthsea", authorId: ursula.id },
  ]);
  await db.update(books).set({ title: "The Tombs of Atuan" }).where(eq(books.id, 2));
  const joined = await db.select({ name: authors.name, title: books.title }).from(books)
    .innerJoin(authors, eq(books.authorId, authors.id)).orderBy(books.id);
  assert.deepEqual(joined[1], { name: "Ursula", title: "The Tombs of Atuan" });
  const found = await db.query.authors.findFirst({ with: { books: true } });
  assert.equal(found.books.length, 2);
  await assert.rejects(db.insert(authors).values({ name: "Ursula" }), (error) => /UNIQUE/.test(String(error.cause ?? error)));

  await db.transaction(async (tx) => {
    await tx.insert(authors).values({ name: "Stanislaw" });
    assert.equal((await tx.select().from(authors)).length, 2);
  });
  const undone = db.transaction(async (tx) => {
    await tx.insert(authors).values({ name: "Nobody" });
    throw new Error("changed my mind");
  });
  await assert.rejects(undone, /changed my mind/);
  assert.equal((await db.select().from(authors)).length, 2);
  await db.delete(authors).where(eq(authors.id, ursula.id));
  assert.equal((await db.select({ n: sql`count(*)` }).from(books))[0].n, 0, "the deletion cascades");

  await open(2).insert(authors).values({ name: "the successor's" });
  await assert.rejects(db.insert(authors).values({ name: "too late" }), (error) => {
    const told = error.cause ?? error;
    assert.equal(told.code, "STALE_TOKEN");
    assert.match(told.message, /You've been replaced/);
    return true;
  });
});

test("batches, prepared queries, nested transactions, and a transaction that is overtaken", async (t) => {
  const own = await startGate(t);
  const open = (token) => drizzle(own.client(token), { schema });
  const db = open(1);
  await migrate(db, { migrationsFolder: fileURLToPath(new URL("./migrations", import.meta.url)) });
  const names = async () => (await open().select({ name: authors.name }).from(authors).orderBy(authors.id)).map((row) => row.name);

  const add = (on, name) => on.insert(authors).values({ name });
  const [, found] = await db.batch([add(db, "Ursula"), db.select().from(authors)]);
  assert.equal(found[0].name, "Ursula");
  const byName = db.select({ id: authors.id }).from(authors).where(eq(authors.name, sql.placeholder("name"))).prepare();
  assert.deepEqual(await byName.all({ name: "Ursula" }), [{ id: 1 }]);
  assert.deepEqual(await byName.all({ name: "nobody" }), []);
  const changed = add(db, "Ursula").onConflictDoUpdate({ target: authors.name, set: { born: new Date(0) } });
  assert.equal((await changed.returning())[0].born.getTime(), 0);

  await db.transaction(async (tx) => {
    await add(tx, "outer");
    const inner = tx.transaction(async (nested) => {
      await add(nested, "undone");
      nested.rollback();
    });
    await assert.rejects(inner, /Rollback/i);
    await tx.transaction((nested) => add(nested, "inner"));
  });
  assert.deepEqual(await names(), ["Ursula", "outer", "inner"]);

  const overtaken = db.transaction(async (tx) => {
    await add(tx, "never committed");
    await add(open(2), "the successor's");
  });
  await assert.rejects(overtaken, { code: "STALE_TOKEN" });
  assert.deepEqual(await names(), ["Ursula", "outer", "inner", "the successor's"]);
});
