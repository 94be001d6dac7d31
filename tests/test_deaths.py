"""Why a worker on Ray died, in one line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from facts import lacking

pytest.importorskip("ray")

from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import (
    ActorDiedError,
    ObjectFetchTimedOutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)

from nas.errors import Unready
from nas.executors import ray as on_ray
from nas.executors.ray import death

PROCESS = "The actor is dead because its worker process has died. Worker exit type: {} Worker exit detail: {}"
CRASH = PROCESS.format(
    "SYSTEM_ERROR",
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) "
    "the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called.",
)
MEMORY = PROCESS.format(
    "NODE_OUT_OF_MEMORY", "1 worker(s) were killed due to the node running low on memory."
)
NODE = (
    "The actor died because its node has died. Node Id: 1ca6\n\tthe actor's node was terminated unexpectedly"
)

FOREIGN = """The actor died because of an error raised in its creation task, \
\x1b[36mray::_Actor.__init__()\x1b[39m (pid=2712, ip=192.0.2.2, actor_id=e29b, repr=<TemporaryActor object>)
RuntimeError: The actor with name _Actor failed to import on the worker.

\x1b[36mray::_Actor.__init__()\x1b[39m (pid=2712, ip=192.0.2.2, actor_id=e29b)
ModuleNotFoundError: No module named 'nas'"""


def died(words: str, **context: Any) -> ActorDiedError:
    return ActorDiedError(ActorDiedErrorContext(error_message=words, actor_id=b"\0" * 16, **context))


@pytest.mark.ray
def test_the_causes_that_ray_knows_are_told_apart() -> None:
    preempted = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    errors = [
        died(CRASH),
        died(MEMORY),
        died(NODE),
        died(NODE, node_death_info=preempted),
        "",
    ]
    causes = [death(error) for error in errors]
    assert len(set(causes)) == len(errors)
    assert death(OutOfMemoryError("Task was killed.")) == causes[1]
    assert "connection error code 2" in causes[0]
    assert not any("\n" in cause for cause in causes)


@pytest.mark.ray
def test_what_does_not_arrive_at_a_worker_is_no_fault_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies of it and is replaced; a machine that lacks something ends the search."""

    def start(error: Exception) -> object:
        def get(reference: object) -> None:
            raise error

        monkeypatch.setattr(on_ray.ray, "get", get)
        return on_ray._Actor([None]).start()  # type: ignore[list-item]

    with pytest.raises(ObjectFetchTimedOutError):
        start(ObjectFetchTimedOutError("00ff", b"", ""))
    assert isinstance(start(RayError("No module named 'mine'")), Unready)


@pytest.mark.ray
def test_a_machine_without_nas_is_named_at_its_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(call: object) -> None:
        raise RayActorError("e29b", FOREIGN, actor_init_failed=True)

    monkeypatch.setattr(on_ray.ray, "get", get)
    actor = SimpleNamespace(start=SimpleNamespace(remote=object))
    told = on_ray._ActorWorker[Any, Any](0, actor, {}).hear()
    assert isinstance(told, Unready)
    assert (told.host, lacking(str(told), "No module named 'nas'")) == ("192.0.2.2", [])
