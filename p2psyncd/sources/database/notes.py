"""What the source remembers of the app's database between two looks: kept in the share's store, beside its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2

from p2psyncd.sources.database.schema import Schema
from p2psyncd.sources.database.show import Catalogue, Settings

__all__ = ["Notes"]

NAME = "database-notes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """See the top of the file."""

    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The tables that were compared in full, and the columns that they had."""
    version: int = -1
    """SQLite's schema_version at that time."""
    baselined: bool = False
    """Whether what was there before the share was has been recorded."""

    @classmethod
    def load(cls, settings: Catalogue) -> Notes:
        """Return what is kept; nothing is, at first."""
        packed = settings.setting(NAME)
        if packed is None:
            return cls()
        stored: dict[str, Any] = cbor2.loads(packed)
        tables = {name: tuple(columns) for name, columns in stored["tables"].items()}
        return cls(tables=tables, version=stored["version"], baselined=stored["baselined"])

    def save(self, settings: Settings) -> None:
        """Keep this."""
        stored = {
            "tables": {name: list(columns) for name, columns in self.tables.items()},
            "version": self.version,
            "baselined": self.baselined,
        }
        settings.set_setting(NAME, cbor2.dumps(stored))

    def after(self, schema: Schema) -> Notes:
        """Return what is to be kept once all tables have been compared."""
        # A table that is gone for a while keeps its place: a rebuilt one is not new.
        seen = {name: tuple(column.name for column in table.columns) for name, table in schema.tables.items()}
        return Notes(tables={**self.tables, **seen}, version=schema.version, baselined=True)
