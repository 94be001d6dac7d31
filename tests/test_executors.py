from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nas.executors import make_executor
from nas.executors.base import Executor, MakeRunner
from nas.testing.executors import ExecutorSuite


class TestInline(ExecutorSuite):
    isolated = False

    def make(self, make: MakeRunner[Any, Any], workers: int) -> Executor[Any, Any]:
        return make_executor("inline", make)


@pytest.mark.slow
class TestProcess(ExecutorSuite):
    def make(self, make: MakeRunner[Any, Any], workers: int) -> Executor[Any, Any]:
        return make_executor("process", make, workers=workers)


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
    def make(self, make: MakeRunner[Any, Any], workers: int) -> Executor[Any, Any]:
        return make_executor("ray", make, workers=workers)
