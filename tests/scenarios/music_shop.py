"""A database like Chinook, the music shop that so many tutorials use: its tables, keys and references, and about as many rows.

What is in it is made up here, the same every time: fifteen thousand rows with names in several scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import apsw

__all__ = ["ROWS", "make_shop"]

SCHEMA = """
CREATE TABLE [Artist] ([ArtistId] INTEGER NOT NULL, [Name] NVARCHAR(120),
    CONSTRAINT [PK_Artist] PRIMARY KEY ([ArtistId]));
CREATE TABLE [Album] ([AlbumId] INTEGER NOT NULL, [Title] NVARCHAR(160) NOT NULL, [ArtistId] INTEGER NOT NULL,
    CONSTRAINT [PK_Album] PRIMARY KEY ([AlbumId]),
    FOREIGN KEY ([ArtistId]) REFERENCES [Artist] ([ArtistId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE [Employee] ([EmployeeId] INTEGER NOT NULL, [LastName] NVARCHAR(20) NOT NULL, [ReportsTo] INTEGER,
    [BirthDate] DATETIME, CONSTRAINT [PK_Employee] PRIMARY KEY ([EmployeeId]),
    FOREIGN KEY ([ReportsTo]) REFERENCES [Employee] ([EmployeeId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE [Customer] ([CustomerId] INTEGER NOT NULL, [FirstName] NVARCHAR(40) NOT NULL,
    [LastName] NVARCHAR(20) NOT NULL, [Company] NVARCHAR(80), [Country] NVARCHAR(40), [Email] NVARCHAR(60) NOT NULL,
    [SupportRepId] INTEGER, CONSTRAINT [PK_Customer] PRIMARY KEY ([CustomerId]),
    FOREIGN KEY ([SupportRepId]) REFERENCES [Employee] ([EmployeeId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE [Genre] ([GenreId] INTEGER NOT NULL, [Name] NVARCHAR(120),
    CONSTRAINT [PK_Genre] PRIMARY KEY ([GenreId]));
CREATE TABLE [MediaType] ([MediaTypeId] INTEGER NOT NULL, [Name] NVARCHAR(120),
    CONSTRAINT [PK_MediaType] PRIMARY KEY ([MediaTypeId]));
CREATE TABLE [Track] ([TrackId] INTEGER NOT NULL, [Name] NVARCHAR(200) NOT NULL, [AlbumId] INTEGER,
    [MediaTypeId] INTEGER NOT NULL, [GenreId] INTEGER, [Composer] NVARCHAR(220), [Milliseconds] INTEGER NOT NULL,
    [Bytes] INTEGER, [UnitPrice] NUMERIC(10,2) NOT NULL, CONSTRAINT [PK_Track] PRIMARY KEY ([TrackId]),
    FOREIGN KEY ([AlbumId]) REFERENCES [Album] ([AlbumId]) ON DELETE NO ACTION ON UPDATE NO ACTION,
    FOREIGN KEY ([GenreId]) REFERENCES [Genre] ([GenreId]) ON DELETE NO ACTION ON UPDATE NO ACTION,
    FOREIGN KEY ([MediaTypeId]) REFERENCES [MediaType] ([MediaTypeId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE [Invoice] ([InvoiceId] INTEGER NOT NULL, [CustomerId] INTEGER NOT NULL, [InvoiceDate] DATETIME NOT NULL,
    [BillingCity] NVARCHAR(40), [Total] NUMERIC(10,2) NOT NULL, CONSTRAINT [PK_Invoice] PRIMARY KEY ([InvoiceId]),
    FOREIGN KEY ([CustomerId]) REFERENCES [Customer] ([CustomerId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE [InvoiceLine] ([InvoiceLineId] INTEGER NOT NULL, [InvoiceId] INTEGER NOT NULL, [TrackId] INTEGER NOT NULL,
    [UnitPrice] NUMERIC(10,2) NOT NULL, [Quantity] INTEGER NOT NULL,
    CONSTRAINT [PK_InvoiceLine] PRIMARY KEY ([InvoiceLineId]),
    FOREIGN KEY ([InvoiceId]) REFERENCES [Invoice] ([InvoiceId]) ON DELETE NO ACTION ON UPDATE NO ACTION,
    FOREIGN KEY ([TrackId]) REFERENCES [Track] ([TrackId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE [Playlist] ([PlaylistId] INTEGER NOT NULL, [Name] NVARCHAR(120),
    CONSTRAINT [PK_Playlist] PRIMARY KEY ([PlaylistId]));
CREATE TABLE [PlaylistTrack] ([PlaylistId] INTEGER NOT NULL, [TrackId] INTEGER NOT NULL,
    CONSTRAINT [PK_PlaylistTrack] PRIMARY KEY ([PlaylistId], [TrackId]),
    FOREIGN KEY ([PlaylistId]) REFERENCES [Playlist] ([PlaylistId]) ON DELETE NO ACTION ON UPDATE NO ACTION,
    FOREIGN KEY ([TrackId]) REFERENCES [Track] ([TrackId]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE INDEX [IFK_AlbumArtistId] ON [Album] ([ArtistId]);
CREATE INDEX [IFK_InvoiceLineTrackId] ON [InvoiceLine] ([TrackId]);
CREATE INDEX [IFK_PlaylistTrackTrackId] ON [PlaylistTrack] ([TrackId]);
CREATE INDEX [IFK_TrackAlbumId] ON [Track] ([AlbumId]);
"""
ROWS = {
    "Artist": 275,
    "Album": 347,
    "Employee": 8,
    "Customer": 59,
    "Genre": 25,
    "MediaType": 5,
    "Track": 3503,
    "Invoice": 412,
    "InvoiceLine": 2240,
    "Playlist": 18,
    "PlaylistTrack": 8715,
}
WORDS = [
    "Águas",
    "Straße",
    "Ночь",
    "夜曲",
    "Ænima",
    "Café",
    "Ñandú",
    "Łódź",
    "Ιθάκη",
    "blue",
    "Iron",
    "'n'",
    "road",
    "love",
]
PRICES = [0.99, 1.99]


def make_shop(path: Path) -> None:
    """Make the database."""
    random = Random("a music shop")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(SCHEMA)
        with connection:
            for table, count in ROWS.items():
                rows = list(rows_of(table, count, random))
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO [{table}] VALUES ({marks})", rows)


def title(random: Random) -> str:
    """Return a few words."""
    return " ".join(random.choices(WORDS, k=random.randint(1, 4)))


def rows_of(table: str, count: int, random: Random) -> Iterator[tuple[Any, ...]]:
    """Yield a table's rows."""
    if table == "PlaylistTrack":
        every = [(list_, track) for list_ in range(1, 19) for track in range(1, ROWS["Track"] + 1)]
        yield from sorted(random.sample(every, count))
        return

    def some(parent: str) -> int:
        return random.randint(1, ROWS[parent])

    for number in range(1, count + 1):
        match table:
            case "Album":
                yield number, title(random), some("Artist")
            case "Employee":
                yield number, title(random), number // 2 or None, f"19{60 + number}-02-18 00:00:00"
            case "Customer":
                name = random.choice(WORDS)
                yield (
                    number,
                    name,
                    title(random),
                    None,
                    random.choice(WORDS),
                    f"{number}@example.org",
                    some("Employee"),
                )
            case "Track":
                composer = title(random) if random.random() < 0.7 else None
                size = random.randint(10**6, 10**9)
                yield (
                    *(number, title(random), some("Album"), some("MediaType"), some("Genre"), composer),
                    *(random.randint(1_000, 5_000_000), size, random.choice(PRICES)),
                )
            case "Invoice":
                day = f"20{random.randint(9, 13):02}-{random.randint(1, 12):02}-{random.randint(1, 28):02} 00:00:00"
                yield number, some("Customer"), day, random.choice(WORDS), random.randint(1, 2586) / 100
            case "InvoiceLine":
                yield number, some("Invoice"), some("Track"), random.choice(PRICES), 1
            case _:
                yield number, title(random)
