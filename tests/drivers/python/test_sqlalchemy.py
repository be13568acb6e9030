"""SQLAlchemy through sqlalchemy-libsql, as they are, through the gate.

No BLOB columns: SQLAlchemy asks the driver for a `Binary` that it doesn't have.
"""

import unittest
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import JSON, ForeignKey, MetaData, Numeric, create_engine, func, insert, inspect, select, text
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from gate import Gate


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    pages: Mapped[int | None]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    at: Mapped[datetime | None]
    day: Mapped[date | None]
    done: Mapped[bool | None]
    cost: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    data: Mapped[dict | None] = mapped_column(JSON)
    ratio: Mapped[float | None] = mapped_column(index=True)


class SqlAlchemy(unittest.TestCase):
    def setUp(self):
        self.gate = Gate()
        self.addCleanup(self.gate.stop)

    def engine(self, token=None):
        auth = {} if token is None else {"auth_token": f"fgt.{token}"}
        engine = create_engine(f"sqlite+libsql://{self.gate.address}", connect_args=auth)
        self.addCleanup(engine.dispose)
        return engine

    def test_a_model_from_its_tables_to_being_replaced(self):
        engine = self.engine(1)
        Base.metadata.create_all(engine)
        Base.metadata.create_all(engine)  # nothing is left to make
        with Session(engine) as session:
            author = Author(name="Ursula")
            author.books = [Book(title="The Dispossessed", pages=2**60), Book(title="The Tombs of Atuan")]
            session.add(author)
            session.commit()
            self.assertEqual(author.id, 1)
        with Session(engine) as session:
            found = session.scalars(select(Author).where(Author.name == "Ursula")).one()
            self.assertEqual([book.pages for book in found.books], [2**60, None])
            found.books[1].title = "Tehanu"
            session.commit()
            session.add(Author(name="Nobody"))
            session.flush()
            session.rollback()
            self.assertEqual(session.scalar(select(func.count()).select_from(Author)), 1)
        with Session(engine) as session:
            session.add(Author(name="Ursula"))
            with self.assertRaisesRegex(Exception, "UNIQUE constraint failed"):
                session.commit()
        with engine.begin() as connection:
            connection.execute(insert(Author), [{"name": "Stanislaw"}, {"name": "Octavia"}])
        with self.engine().connect() as connection:
            self.assertEqual(connection.execute(text("SELECT count(*) FROM authors")).scalar(), 3)

        with Session(self.engine(2)) as session:
            session.add(Author(name="the successor's"))
            session.commit()
        with Session(engine) as session:
            session.add(Author(name="too late"))
            with self.assertRaisesRegex(Exception, "You've been replaced"):
                session.commit()
        with self.engine().connect() as connection:
            names = connection.execute(text("SELECT name FROM authors")).scalars().all()
            self.assertNotIn("too late", names)

    def names(self):
        with self.engine().connect() as connection:
            return connection.execute(select(Event.name).order_by(Event.id)).scalars().all()

    def test_types_and_reflection(self):
        engine = self.engine(1)
        Base.metadata.create_all(engine)
        at = datetime(2024, 2, 29, 12, 30, 15, 123456)
        row = {"at": at, "day": at.date(), "done": True, "cost": Decimal("12.34"), "data": {"k": [1, None, "ü"]}, "ratio": 0.1}
        with engine.begin() as connection:
            connection.execute(insert(Event).values(name="types", **row))
            found = connection.execute(select(Event.__table__)).one()._asdict()
        self.assertEqual(found, {"id": 1, "name": "types", **row})
        inspector = inspect(engine)
        self.assertLessEqual({"authors", "books", "events"}, set(inspector.get_table_names()))
        self.assertEqual([index["column_names"] for index in inspector.get_indexes("events")], [["ratio"]])
        self.assertEqual(inspector.get_unique_constraints("events")[0]["column_names"], ["name"])
        self.assertEqual(inspector.get_foreign_keys("books")[0]["referred_table"], "authors")
        reflected = MetaData()
        reflected.reflect(engine, only=["events"])
        self.assertEqual(reflected.tables["events"].columns.keys(), ["id", "name", *row])

    def test_many_rows_upserts_and_savepoints(self):
        engine = self.engine(1)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            many = insert(Event).returning(Event.id, sort_by_parameter_order=True)
            ids = connection.execute(many, [{"name": f"event {n}"} for n in range(100)]).scalars().all()
            self.assertEqual(ids, list(range(1, 101)))
            again = upsert(Event).values(name="event 0", ratio=1)
            again = again.on_conflict_do_update(index_elements=["name"], set_={"ratio": 2.5}).returning(Event.id, Event.ratio)
            self.assertEqual(connection.execute(again).one(), (1, 2.5))
            connection.execute(Event.__table__.delete())
        with Session(engine) as session:
            session.add(Event(name="outer"))
            session.flush()
            with self.assertRaises(KeyError), session.begin_nested():
                session.add(Event(name="undone"))
                session.flush()
                raise KeyError
            with session.begin_nested():
                session.add(Event(name="inner"))
            session.commit()
        self.assertEqual(self.names(), ["outer", "inner"])

    def test_an_open_session_is_refused_at_its_commit(self):
        engine = self.engine(1)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(Event(name="never committed"))
            session.flush()
            with Session(self.engine(2)) as successor:
                successor.add(Event(name="the successor's"))
                successor.commit()
            with self.assertRaisesRegex(Exception, "You've been replaced"):
                session.commit()
            # The connection is of no use any more: SQLAlchemy must not roll back on it.
            session.invalidate()
        self.assertEqual(self.names(), ["the successor's"])


if __name__ == "__main__":
    unittest.main()
