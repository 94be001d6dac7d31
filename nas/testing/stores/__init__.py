"""What the store promises on every database, as a suite of tests; and a schema of one's own to try it in."""

from __future__ import annotations

from nas.testing.stores.leases import LeaseSuite
from nas.testing.stores.processes import ProcessSuite
from nas.testing.stores.rows import another_driver, begin, columns, outcome, search, temporary_schema
from nas.testing.stores.searches import SearchSuite
from nas.testing.stores.trials import TrialSuite

__all__ = [
    "StoreSuite",
    "another_driver",
    "begin",
    "columns",
    "outcome",
    "search",
    "temporary_schema",
]


class StoreSuite(SearchSuite, LeaseSuite, TrialSuite, ProcessSuite):
    """Tests that the store passes on any database. Inherit it and say where an empty one is.

    ```python
    class TestMine(StoreSuite):
        @pytest.fixture
        def url(self, tmp_path):
            return f"sqlite:///{tmp_path}/nas.db"
    ```
    """
