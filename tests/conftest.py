from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: test processes share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # and a thread that waits shall not have one

import pytest
import shared_statements
import torch
from alembic import command
from hypothesis import HealthCheck, Phase, settings
from quick_tables import Replayed

from nas.storage import engine
from nas.storage.store import Store

pytest.register_assert_rewrite("nas.testing", "facts")

# A loaded machine is slow, and no fault of a test. To explain a failure takes seconds, also where one is
# expected: `pytest --hypothesis-explain` does.
settings.register_profile(
    "nas",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
settings.load_profile("nas")


UPGRADE = command.upgrade


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: modules, and thousands of tests."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quick_tables() -> Iterator[None]:
    """Empty databases get their tables quickly, and statements are compiled once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", Replayed(UPGRADE))
        patch.setattr(engine, "create_engine", shared_statements.made)
        yield


@pytest.fixture
def alembic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alembic alone makes tables."""
    monkeypatch.setattr(command, "upgrade", UPGRADE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new database in a file."""
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        yield store


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the database that the command line uses, in the working directory; it is not there yet."""
    path = tmp_path / "nas.db"
    monkeypatch.setenv("NAS_DB", f"sqlite:///{path}")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """This process passes for a notebook; what is there is each text of the line that changes."""
    texts: list[str] = []

    class Handle:
        def update(self, content: dict[str, str], *, raw: bool) -> None:
            texts.append(content["text/plain"])

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert display_id
        texts.append(content["text/plain"])
        return Handle()

    module: Any = ModuleType("IPython")
    module.get_ipython = lambda: SimpleNamespace(kernel=object())
    module.display = SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return texts


@pytest.fixture
def few_test_tasks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Evaluations in this process test on fewer tasks than a user may ask for; return how many."""
    from nas.evaluation import work

    scores, few = work.lenient_scores, 20

    def fewer(learner: Any, tasks: Any, split: Any, episodes: int, arithmetic: Any) -> Any:
        return scores(learner, tasks, split, min(episodes, few), arithmetic)

    monkeypatch.setattr(work, "lenient_scores", fewer)
    return few


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as those of tests gain nothing from more; and sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def nas_data() -> Path:
    """The folder with real data; tests that need it are skipped elsewhere."""
    folder = os.environ.get("NAS_DATA")
    if not folder:
        pytest.skip("needs real data: set NAS_DATA")
    return Path(folder)
