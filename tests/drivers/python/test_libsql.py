"""PyPI's libsql, as it is, through the gate."""

import time
import unittest

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

    def connect(self, token=None):
        auth = "" if token is None else f"fgt.{token}"
        return libsql.connect(self.gate.url, auth_token=auth)

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

    def test_being_replaced(self):
        old = self.lead()
        old.execute("CREATE TABLE led (who)")
        old.commit()
        old.execute("INSERT INTO led VALUES ('old, never committed')")
        started = time.monotonic()
        new = self.lead()
        new.execute("INSERT INTO led VALUES ('new')")
        new.commit()
        self.assertLess(time.monotonic() - started, 4, "the successor waited for its predecessor's transaction")
        with self.assertRaisesRegex(Exception, "You've been replaced"):
            old.execute("INSERT INTO led VALUES ('old')")
        with self.assertRaisesRegex(Exception, "You've been replaced"):
            self.connect(self.term - 1).execute("SELECT 1").fetchall()
        self.assertEqual(self.connect().execute("SELECT who FROM led").fetchall(), [("new",)])


if __name__ == "__main__":
    unittest.main()
