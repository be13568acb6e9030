"""SQLAlchemy through sqlalchemy-libsql, as they are, through the gate.

No BLOB columns: SQLAlchemy asks the driver for a `Binary` that it doesn't have.
"""

import unittest

from sqlalchemy import ForeignKey, create_engine, func, insert, select, text
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


if __name__ == "__main__":
    unittest.main()
