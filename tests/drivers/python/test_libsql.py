"""PyPI's libsql, as it is, through the gate."""

import unittest
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor

import libsql

from gate import Gate


class Libsql(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gate = Gate()
        cls.term = 0

    @classmethod
    def tearDownClass(cls):
        cls.gate.stop()

    def connect(self, token=None, **options):
        auth = "" if token is None else f"fgt.{token}"
        return libsql.connect(self.gate.url, auth_token=auth, **options)

    def lead(self):
        type(self).term += 1
        return self.connect(self.term)

    def test_values(self):
        db = self.lead()
        db.execute("CREATE TABLE vals (id INTEGER PRIMARY KEY, i INTEGER, f REAL, t TEXT, b BLOB, n)")
        row = (2**60, 1.5, "grüße 🎉", b"\x00\xff\x01", None)
        cursor = db.execute("INSERT INTO vals (i, f, t, b, n) VALUES (?, ?, ?, ?, ?)", row)
        self.assertEqual(cursor.lastrowid, 1)
        db.commit()
        read = self.connect().execute("SELECT i, f, t, b, n FROM vals WHERE id = ?", (1,))
        self.assertEqual([column[0] for column in read.description], ["i", "f", "t", "b", "n"])
        self.assertEqual(read.fetchone(), row)
        # As an argument, the driver sends an integer of more than 32 bits as a float; as a result it keeps every digit.
        largest = self.connect().execute("SELECT 9223372036854775807, -9223372036854775808").fetchone()
        self.assertEqual(largest, (2**63 - 1, -(2**63)))

    def test_every_kind_of_value_comes_back(self):
        db = self.connect()
        values = ["", "a\0b", "漢字 עברית 👩‍👩‍👧", "quote ' \" \\ \u2028", "x" * 100_000, b"", bytes(range(256)), b"\xff" * 70_000]
        values += [0, -1, 2**31 - 1, 0.1, -1.5e-300, 1.7976931348623157e308, 5e-324, None, True]
        for value in values:
            kind = {str: "text", bytes: "blob", int: "integer", bool: "integer", float: "real"}.get(type(value), "null")
            self.assertEqual(db.execute("SELECT ?, typeof(?)", (value, value)).fetchone(), (value, kind))
        self.assertEqual(db.execute("SELECT ?2, ?1", (1, 2)).fetchone(), (2, 1))

    def test_cursors(self):
        db = self.lead()
        db.execute("CREATE TABLE cur (id INTEGER PRIMARY KEY, v)")
        insert = db.execute("INSERT INTO cur (v) VALUES ('a'), ('b'), ('c')")
        self.assertEqual((insert.rowcount, insert.lastrowid), (3, 3))
        self.assertEqual(db.execute("UPDATE cur SET v = v || '!' WHERE id > 1").rowcount, 2)
        self.assertEqual(db.execute("INSERT INTO cur (v) VALUES ('d') RETURNING id, v").fetchall(), [(4, "d")])
        read = db.execute("SELECT id FROM cur ORDER BY id")
        self.assertEqual((read.fetchmany(2), read.fetchone(), read.fetchall()), ([(1,), (2,)], (3,), [(4,)]))
        self.assertIsNone(read.fetchone())
        none = db.execute("SELECT id, v AS label, 1 + 1 FROM cur WHERE 0")
        self.assertEqual([column[0] for column in none.description], ["id", "label", "1 + 1"])
        self.assertEqual(none.fetchall(), [])
        db.commit()

    def test_columns_of_a_table_that_was_just_changed(self):
        db = self.lead()
        db.execute("CREATE TABLE grown (a)")
        db.commit()
        read = "SELECT * FROM grown"
        for _ in range(16):
            self.assertEqual([column[0] for column in self.connect().execute(read).description], ["a"])
        db.execute("ALTER TABLE grown ADD COLUMN b")
        db.commit()
        for _ in range(16):
            self.assertEqual([column[0] for column in self.connect().execute(read).description], ["a", "b"])

    def test_without_implicit_transactions(self):
        db = self.lead()
        term = self.term
        db.execute("CREATE TABLE auto (v)")
        auto = self.connect(term, isolation_level=None)
        auto.execute("INSERT INTO auto VALUES (1)")
        self.assertFalse(auto.in_transaction)
        self.assertEqual(self.connect().execute("SELECT count(*) FROM auto").fetchone(), (1,))
        auto.execute("BEGIN IMMEDIATE")
        auto.execute("INSERT INTO auto VALUES (2)")
        self.assertTrue(auto.in_transaction)
        auto.execute("ROLLBACK")
        with db:
            db.execute("INSERT INTO auto VALUES (3)")
        self.assertEqual(self.connect().execute("SELECT v FROM auto").fetchall(), [(1,), (3,)])

    def test_many_connections(self):
        self.lead().execute("CREATE TABLE many (v)")
        term = self.term

        def insert(v):
            self.connect(term, isolation_level=None).execute("INSERT INTO many VALUES (?)", (v,))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(insert, range(100)))
        self.assertEqual(self.connect().execute("SELECT count(DISTINCT v) FROM many").fetchone(), (100,))

    def test_transactions(self):
        db = self.lead()
        db.execute("CREATE TABLE tx (v)")
        db.commit()
        db.execute("INSERT INTO tx VALUES (1)")
        self.assertEqual(db.execute("SELECT count(*) FROM tx").fetchone(), (1,))
        self.assertEqual(self.connect().execute("SELECT count(*) FROM tx").fetchone(), (0,))
        db.commit()
        db.execute("INSERT INTO tx VALUES (2)")
        db.rollback()
        self.assertEqual(self.connect().execute("SELECT count(*) FROM tx").fetchone(), (1,))
        db.executemany("INSERT INTO tx VALUES (?)", [(3,), (4,)])
        db.commit()
        db.executescript("INSERT INTO tx VALUES (5); INSERT INTO tx VALUES (6);")
        self.assertEqual(self.connect().execute("SELECT count(*) FROM tx").fetchone(), (5,))

    def test_errors(self):
        db = self.lead()
        db.execute("CREATE TABLE uniq (v UNIQUE)")
        db.execute("INSERT INTO uniq VALUES ('a')")
        db.commit()
        with self.assertRaisesRegex(Exception, "UNIQUE constraint failed: uniq.v"):
            db.execute("INSERT INTO uniq VALUES ('a')")
        db.rollback()
        with self.assertRaisesRegex(Exception, "syntax error"):
            db.execute("SELEC 1").fetchall()

    def test_a_write_needs_a_token(self):
        db = self.lead()
        db.execute("CREATE TABLE open (v)")
        db.commit()
        with self.assertRaisesRegex(Exception, "needs a fencing token|TOKEN_REQUIRED"):
            self.connect().execute("INSERT INTO open VALUES (1)")

    def test_a_malformed_token(self):
        for token in ("0", "07", "9223372036854775808"):
            with self.assertRaisesRegex(Exception, "TOKEN_MALFORMED"):
                self.connect(token).execute("SELECT 1").fetchall()

    def test_a_token_belongs_to_its_first_holder(self):
        type(self).term += 1
        name = [urlsafe_b64encode(name).rstrip(b"=").decode() for name in (b"node-a", b"node-b")]
        self.connect(f"{self.term}.{name[0]}").execute("SELECT 1").fetchall()
        with self.assertRaisesRegex(Exception, "TOKEN_CONFLICT"):
            self.connect(f"{self.term}.{name[1]}").execute("SELECT 1").fetchall()

    def test_a_claim_by_reading_refuses_the_commit(self):
        old = self.lead()
        old.execute("CREATE TABLE claimed (who)")
        old.execute("INSERT INTO claimed VALUES ('old, never committed')")
        self.lead().execute("SELECT 1").fetchall()
        with self.assertRaisesRegex(Exception, "You've been replaced"):
            old.commit()
        self.assertEqual(self.connect().execute("SELECT who FROM claimed").fetchall(), [])

    def test_being_replaced(self):
        old = self.lead()
        old.execute("CREATE TABLE led (who)")
        old.commit()
        old.execute("INSERT INTO led VALUES ('old, never committed')")
        new = self.lead()
        new.execute("INSERT INTO led VALUES ('new')")  # BUSY, where it waits for its predecessor's transaction
        new.commit()
        with self.assertRaisesRegex(Exception, "You've been replaced"):
            old.execute("INSERT INTO led VALUES ('old')")
        with self.assertRaisesRegex(Exception, "You've been replaced"):
            self.connect(self.term - 1).execute("SELECT 1").fetchall()
        self.assertEqual(self.connect().execute("SELECT who FROM led").fetchall(), [("new",)])


if __name__ == "__main__":
    unittest.main()
