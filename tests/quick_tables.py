"""Tables of empty databases, made quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alembic.config import Config
from sqlalchemy import event, inspect

READS = ("SELECT", "PRAGMA")


class Replayed:
    """Alembic's `upgrade`, whose statements on a first empty database make the tables of the later ones.

    Alembic takes 60 ms for all revisions, and more than a thousand tests begin with an empty database.
    """

    def __init__(self, upgrade: Callable[..., None]) -> None:
        self._upgrade = upgrade
        self._written: dict[tuple[Any, ...], list[tuple[str, Any]]] = {}

    def __call__(self, config: Config, revision: str) -> None:
        """Bring the database of `config` to a revision."""
        connection = config.attributes["connection"]
        key = connection.dialect.name, config.get_main_option("script_location"), revision
        if inspect(connection).get_table_names():
            self._upgrade(config, revision)
        elif key in self._written:
            for statement, parameters in self._written[key]:
                connection.exec_driver_sql(statement, parameters or None)
        else:
            seen: list[tuple[str, Any]] = []

            def see(_: object, cursor: object, statement: str, parameters: Any, *rest: object) -> None:
                seen.append((statement, parameters))

            event.listen(connection, "before_cursor_execute", see)
            try:
                self._upgrade(config, revision)
            finally:
                event.remove(connection, "before_cursor_execute", see)
            self._written[key] = [pair for pair in seen if not pair[0].lstrip().startswith(READS)]
