from __future__ import annotations

from collections.abc import Iterator

import pytest

from nas.executors.inline import InlineExecutor
from nas.settings.search import SearchConfig
from nas.tasks.base import TaskSource
from nas.testing.executors import ExecutorSuite


class TestInline(ExecutorSuite):
    isolated = False

    def make(self, config: SearchConfig, tasks: TaskSource) -> InlineExecutor:
        return InlineExecutor(config, tasks)


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    from nas.executors.ray import start

    with start(cpus=2):
        yield


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
@pytest.mark.xdist_group("ray")
class TestRay(ExecutorSuite):
    def make(self, config: SearchConfig, tasks: TaskSource):
        from nas.executors.ray import RayExecutor

        return RayExecutor(config, tasks)
