"""The estimate of a supernet's memory against what it takes, and the refusal of what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import nas
from facts import refusal
from scripted_searches import Silent

from nas.controller import SupernetBudget, TrainSupernet
from nas.driver.creation import create
from nas.driver.search import SearchDriver
from nas.driver.trials import Trials, executor
from nas.errors import Infeasible
from nas.evaluator import Context, SupernetJob
from nas.executors.worker import reports
from nas.settings.search import SearchConfig, validate
from nas.storage.store import Store
from nas.testing import oneshot
from nas.testing.oneshot import Noisy
from nas.training.oneshot import epochs, memory
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel

NOISY = "nas.testing.oneshot:Noisy"
MIB = 2**20


def configure(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "space": {"name": "nasbench201", "channels": 8},
        "controller": "nas.testing.oneshot:ToyOneShot",
        "tasks": {"name": "glyphs", "ways": 4, "queries": 2},
        "learner": "prototypical",
        "executor": "inline",
    }
    return validate(values | changes)


def context(**changes: Any) -> Context:
    config = configure(**changes)
    return config.make_context(config.make_space(), config.make_tasks())


def proposal(batch: int) -> TrainSupernet:
    return TrainSupernet(NOISY, {}, 1, SupernetBudget(batch=batch))


def test_the_peak_is_that_of_the_tensors_alive() -> None:
    before = torch.zeros(MIB // 4)
    peak = memory.Peak()
    with peak:
        one = before + 1  # 1 MiB
        two = torch.cat([one, one])  # 3
        del one  # 2
        two.mul_(2)
        view = two[:5]
        del two  # the view keeps it
        three = view.new_zeros(MIB // 4)  # 3
        del view, three
    assert peak.most == 3 * MIB
    with peak:
        torch.zeros(2 * MIB // 4)
    assert peak.most == 3 * MIB


def test_what_autograd_keeps_counts() -> None:
    x = torch.ones(MIB // 4, requires_grad=True)
    peak = memory.Peak()
    with peak:
        loss = x.exp().exp().exp().sum()  # each is kept for its own gradient
        assert peak.most >= 3 * MIB
        loss.backward()  # type: ignore[no-untyped-call]
    assert 4 * MIB <= peak.most <= 6 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["prototypical", {"name": "maml", "inner_steps": 2}], ids=str)
def test_a_few_examples_foretell_the_whole_batch(learner: Any) -> None:
    """Against the tensors of whole steps: within a tenth."""
    shared, asked = context(learner=learner), proposal(3)
    assembly = assemble(shared, asked, 0)
    batches, peak = Bilevel(assembly, shared.tasks, 3, 0), memory.Peak()
    with peak:
        for _ in range(memory.STEPS):
            assembly.strategy.step(batches.next(), assembly.optimizer, 0.0)
    assert memory.estimate(shared, asked, 0) == pytest.approx(peak.most, rel=0.1)


@pytest.mark.slow
def test_the_heaviest_of_a_few_steps_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy whose third step takes 100 MiB more than the others."""
    shared, asked, steps = context(), proposal(1), []
    before, step = memory.estimate(shared, asked, 0), Noisy.step

    def uneven(self: Noisy, *arguments: Any) -> float:
        steps.append(0)
        more = torch.zeros(100 * MIB if len(steps) % memory.STEPS == 3 else 0, dtype=torch.uint8)
        return step(self, *arguments) + 0 * len(more)

    monkeypatch.setattr(Noisy, "step", uneven)
    assert memory.estimate(shared, asked, 0) >= before + 50 * MIB


PROCESS = """
import gc, json, sys, threading, time
import torch
from nas.settings.search import validate
from nas.controller import SupernetBudget, TrainSupernet
from nas.training.oneshot import memory
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel

torch.set_num_threads(1)
config = validate(json.loads(sys.argv[1]))
context = config.make_context(config.make_space(), config.make_tasks())
proposal = TrainSupernet("nas.testing.oneshot:Noisy", {}, 1, SupernetBudget(batch=8))
estimate = memory.estimate(context, proposal, 0)
assembly = assemble(context, proposal, 0)
batches = Bilevel(assembly, context.tasks, 8, 0)
gc.collect()
def resident():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))
before, seen, done = resident(), [], threading.Event()
def watch():
    while not done.is_set():
        seen.append(resident())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(memory.STEPS):
    assembly.strategy.step(batches.next(), assembly.optimizer, 0.0)
done.set()
watcher.join()
print(estimate, max(seen) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_estimate_is_what_a_process_takes() -> None:
    """Against the resident memory that a process gains in a step: within a factor of 1.6 either way."""
    config = json.dumps(configure().model_dump(mode="json"))
    done = subprocess.run([sys.executable, "-c", PROCESS, config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    estimate, measured = map(int, done.stdout.split())
    assert measured > 50 * MIB
    assert 1 / 1.6 < estimate / measured < 1.6


def test_what_does_not_fit_is_refused_before_it_starts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 2 * MIB)
    learner = {"name": "maml", "inner_steps": 2, "meta_batch": 2}
    config = configure(learner=learner)
    tasks = config.make_tasks()
    lower = [
        *("space.channels", "space.cells", "tasks.ways"),
        *("controller.budget.batch", "learner.order", "learner.inner_steps"),
    ]
    with refusal(Infeasible, "'nasbench201'", "0.00 GiB", *lower):
        create(store, config, tasks)
    assert store.searches() == []
    job = SupernetJob(0, 0, TrainSupernet(NOISY), 0)
    [outcome] = reports(Trials(config, tasks), job)
    assert outcome.state == "infeasible"
    assert "`learner.meta_batch`" in (outcome.error or "")


def test_a_worker_takes_over_what_the_driver_measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supernet is put together three times to be measured, once a search, and once to be trained."""
    made: list[str] = []
    for module in (memory, epochs):

        def counted(*arguments: Any, name: str = module.__name__) -> Any:
            made.append(name)
            return assemble(*arguments)

        monkeypatch.setattr(module, "assemble", counted)
    budget = {"epochs": 1, "steps": 1, "batch": 3, "validation_episodes": 2}
    config = oneshot.configure(controller={"name": "nas.testing.oneshot:ToyOneShot", "budget": budget})
    tasks = config.make_tasks()
    row = create(store, config, tasks)
    assert row.environment["supernet_bytes"] > 0
    SearchDriver(store, row, config, config.make_space(), tasks, Silent()).run(executor(config, tasks))
    assert store.trials(row.id)[0].state == "completed"
    assert made == [memory.__name__] * 3 + [epochs.__name__]


def test_a_worker_with_less_memory_than_was_measured_refuses() -> None:
    config = oneshot.configure()
    outcomes = [
        list(reports(Trials(config, config.make_tasks()), replace(oneshot.job(), memory=taken)))[-1]
        for taken in (2**60, 1)
    ]
    assert [outcome.state for outcome in outcomes] == ["infeasible", "completed"]
    assert f"{2**30:.2f} GiB" in (outcomes[0].error or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "probes", "expected"),
    [(0.01, 1, 0), (0.5, 3, 3 * memory.STEPS)],
    ids=["a part is too large alone", "the whole is too large"],
)
def test_the_measurement_ends_where_too_much_is_seen(
    share: float, probes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, asked = context(), proposal(8)
    free = round(share * memory.estimate(shared, asked, 0))
    monkeypatch.setattr(memory, "available", lambda device: free)
    begun, steps, real = [], [], Noisy.step

    class Counted(memory.Peak):
        def __init__(self, limit: float) -> None:
            super().__init__(limit)
            begun.append(self)

    def step(self: Noisy, *arguments: Any) -> float:
        loss = real(self, *arguments)
        steps.append(loss)
        return loss

    monkeypatch.setattr(memory, "Peak", Counted)
    monkeypatch.setattr(Noisy, "step", step)
    with refusal(Infeasible, f"{free / 2**30:.2f} GiB"):
        memory.check(shared, asked, 0)
    assert (len(begun), len(steps)) == (probes, expected)


def test_the_measurement_is_announced(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: MIB)
    plugins = ("--space=nasbench201", "--controller=darts", "--tasks=glyphs", "--learner=prototypical")
    code, out, err = nas("run", *plugins, "--executor=inline", "--derive=1")
    assert (code, out) == (1, "")
    announced, refused = err.splitlines()
    assert ("memory" in announced, refused.startswith("error: ")) == (True, True)
    assert json.loads(nas("ls", "-f", "json")[1]) == []


def test_a_control_group_limits_what_is_available(tmp_path: Path) -> None:
    inner = tmp_path / "pod" / "container"
    inner.mkdir(parents=True)
    for folder, limit in ((tmp_path / "pod", str(300 * MIB)), (inner, "max")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{200 * MIB}\n")
        (folder / "memory.stat").write_text(f"anon {150 * MIB}\ninactive_file {50 * MIB}\n")
    (tmp_path / "cgroup").write_text("0::/pod/container\n")
    assert list(memory._groups(tmp_path, tmp_path / "cgroup")) == [150 * MIB]
    old = tmp_path / "memory" / "job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text(f"{100 * MIB}\n")
    (old / "memory.usage_in_bytes").write_text(f"{90 * MIB}\n")
    (old / "memory.stat").write_text("cache 0\n")
    (tmp_path / "cgroup").write_text("4:memory:/job\n2:cpu:/job\n")
    assert list(memory._groups(tmp_path, tmp_path / "cgroup")) == [10 * MIB]
    assert list(memory._groups(tmp_path, tmp_path / "absent")) == []


def test_the_system_says_what_is_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  4096 kB\nMemAvailable:    2048 kB\n")
    assert memory._system(meminfo) == 2 * MIB
    assert (memory._system(tmp_path / "absent") or MIB) >= MIB
    free = memory.available(torch.device("cpu"))
    assert free is None or free > 0
