"""What the store's suites share: an empty database, open once or twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import pytest

from nas.storage.store import Store


class OpenStore(ABC):
    """Fixtures of an open database: a suite of tests inherits them, a test class says where it is."""

    @abstractmethod
    def url(self) -> str:
        """Fixture: the URL of an empty database, a new one for each test."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """Open the database."""
        with Store(url, create=True) as store:
            yield store

    @pytest.fixture
    def other(self, store: Store, url: str) -> Iterator[Store]:
        """Open the same database a second time, as another process would."""
        with Store(url, create=True) as other:
            yield other
