"""The machines of a Ray cluster, each asked on itself: versions, plug-ins, data, shared folder, clock."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from nas import plugins
from nas.errors import NasError
from nas.files import writing
from nas.tasks.data import DATASETS, present

PACKAGES = {"nas": "nas-service", "torch": "torch", "ray": "ray"}
"""Distributions whose versions are compared, by what they are called here."""

PATIENCE = 60.0
"""Seconds in which a machine has to answer."""

APART = 2.0
"""Seconds that clocks may be apart: signs of life are compared across machines."""

SHARE = "Mount one folder on all machines under one path, and name it with --artifacts (or NAS_ARTIFACTS)."


@dataclass(frozen=True, slots=True)
class Equipment:
    """What one machine says of itself.

    Attributes:
        versions: of Python and of `PACKAGES`; empty text: it is not installed.
        plugins: all that are installed, as `KIND NAME`.
        broken: what does not load, and why.
        data: names of the data sets that are there.
    """

    versions: Mapping[str, str]
    plugins: tuple[str, ...]
    broken: tuple[str, ...]
    data: tuple[str, ...]


@dataclass(slots=True)
class NodeRow:
    """One machine of a cluster, compared with the driver's.

    Attributes:
        node: its host name and address.
        status: `ok`, `warning` or `error`.
        cpus, gpus: what it offers.
        python, torch, ray, nas: versions; None: not known.
        plugins: how many load.
        data: the data sets that are there.
        folder: `shared`, `its own` or `not writable`: what the folder of artifacts is; None: not known.
        clock: seconds that its clock is ahead of the driver's; None: not known.
        finding: what is wrong, and what to do.
    """

    node: str
    status: str = "ok"
    cpus: float = 0.0
    gpus: float = 0.0
    python: str | None = None
    torch: str | None = None
    ray: str | None = None
    nas: str | None = None
    plugins: int | None = None
    data: str | None = None
    folder: str | None = None
    clock: float | None = None
    finding: str = ""

    def warn(self, finding: str) -> None:
        """Take note of what may be wrong."""
        self.finding = f"{self.finding} {finding}".lstrip()
        self.status = "warning" if self.status == "ok" else self.status

    def fail(self, finding: str) -> None:
        """Take note of what is wrong."""
        self.warn(finding)
        self.status = "error"


def here() -> Equipment:
    """Return what this machine says of itself."""
    versions = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        try:
            versions[name] = version(distribution)
        except PackageNotFoundError:
            versions[name] = ""
    found, broken = list[str](), list[str]()
    for kind in plugins.GROUPS:
        for name, plugin in plugins.installed(kind).items():
            found.append(f"{kind} {name}")
            try:
                plugin.load()
            except NasError as error:
                broken.append(f"{kind} {name}: {error}")
    return Equipment(versions, tuple(found), tuple(broken), tuple(filter(present, DATASETS)))


class Inspector:
    """Looks around on one machine, as an actor of Ray."""

    def look(self) -> Equipment:
        """Return what the machine says of itself."""
        return here()

    def clock(self) -> float:
        """Return the machine's time, in seconds since 1970."""
        return time.time()

    def write(self, mark: Path) -> str | None:
        """Make an empty file; return why that fails."""
        try:
            mark.touch()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def sees(self, mark: Path) -> bool:
        """Return whether a file is there."""
        return mark.is_file()

    def remove(self, mark: Path) -> None:
        """Delete a file, if it is there."""
        mark.unlink(missing_ok=True)


def inspect(folder: Path) -> list[NodeRow]:
    """Return a row for each living machine of the cluster that this process is connected to, its own first.

    Args:
        folder: of artifacts, which all are to share.

    Raises:
        Unwritable: this machine cannot write the folder.
    """
    import ray

    own, driver = here(), ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    nodes.sort(key=lambda node: (node["NodeID"] != driver, node["NodeManagerHostname"], node["NodeID"]))
    asked = [(_row(node), _inspector(node["NodeID"])) for node in nodes]
    try:
        for row, inspector in asked:
            with _answered(row):
                compare(row, own, _ask(inspector.look))
                _clock(row, inspector)
        _share(folder, [(row, inspector) for row, inspector in asked if row.clock is not None])
    finally:
        for _, inspector in asked:
            ray.kill(inspector)
    return [row for row, _ in asked]


def _row(node: Mapping[str, Any]) -> NodeRow:
    offer, name = node["Resources"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    return NodeRow(name, cpus=offer.get("CPU", 0.0), gpus=offer.get("GPU", 0.0))


def _inspector(node: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Inspector).options(num_cpus=0, scheduling_strategy=there).remote()


def _ask(method: Any, *arguments: object) -> Any:
    import ray

    return ray.get(method.remote(*arguments), timeout=PATIENCE)


@contextmanager
def _answered(row: NodeRow) -> Iterator[None]:
    """Say in a row why its machine does not answer, and go on."""
    from ray.exceptions import GetTimeoutError, RayError

    try:
        yield
    except GetTimeoutError:
        row.fail(f"It did not answer within {PATIENCE:g} s: see `ray status`, and its logs.")
    except RayError as error:
        words = str(error).strip()
        if "No module named 'nas" in words:
            row.fail("nas is not installed there: install there what the driver has.")
        else:
            row.fail(f"It cannot start a worker: {words.splitlines()[-1] if words else type(error).__name__}")


def compare(row: NodeRow, own: Equipment, there: Equipment) -> None:
    """Fill in what a machine said of itself, and what differs from the driver's."""
    row.python, row.torch, row.ray, row.nas = (there.versions[name] for name in ("python", *_VERSIONED))
    row.plugins, row.data = len(there.plugins) - len(there.broken), ", ".join(there.data) or "none"
    for name, mine in own.versions.items():
        if (theirs := there.versions[name]) == mine:
            continue
        differs = f"{name} is {theirs or 'missing'} there, and {mine} on the driver: install the same"
        if name == "torch" and theirs:
            row.warn(f"{differs}, or scores differ in rounding.")
        else:
            row.fail(f"{differs}.")
    lacking = [plugin for plugin in own.plugins if plugin not in there.plugins]
    if lacking:
        row.fail(f"Plug-ins are missing there: {', '.join(lacking)}. Install what the driver has.")
    if there.broken:
        row.fail(f"Plug-ins do not load there: {'; '.join(there.broken)}")
    missing = [name for name in own.data if name not in there.data]
    if missing:
        row.warn(
            f"Data of the driver is not there: {', '.join(missing)}. Workers need it where a search chooses "
            "settings of tasks: set NAS_DATA, or `nas data fetch`."
        )


_VERSIONED = ("torch", "ray", "nas")


def _clock(row: NodeRow, inspector: Any) -> None:
    """Compare clocks by the quickest of a few round trips, which bounds the error."""
    best = float("inf")
    for _ in range(5):
        began = time.time()
        theirs = _ask(inspector.clock)
        took = time.time() - began
        if took < best:
            best, row.clock = took, round(theirs - began - took / 2, 3)
    if row.clock is not None and abs(row.clock) - best / 2 > APART:
        row.fail(f"Its clock is {row.clock:+.1f} s off the driver's: run a time service (NTP) on both.")


def _share(folder: Path, asked: Sequence[tuple[NodeRow, Any]]) -> None:
    """Have the driver write a file that each machine reads, and each machine one that the driver reads."""
    run = uuid4().hex
    ours = folder / f".doctor-{run}"
    with writing(ours):
        folder.mkdir(parents=True, exist_ok=True)
        ours.touch()
    try:
        for number, (row, inspector) in enumerate(asked):
            theirs = folder / f".doctor-{run}-{number}"
            with _answered(row):
                error = _ask(inspector.write, theirs)
                if error is not None:
                    row.folder = "not writable"
                    row.fail(f"It cannot write to {folder}: {error}. {SHARE}")
                    continue
                row.folder = "shared" if theirs.is_file() and _ask(inspector.sees, ours) else "its own"
                _ask(inspector.remove, theirs)
                if row.folder != "shared":
                    row.fail(f"Its folder {folder} is not the driver's. {SHARE}")
    finally:
        ours.unlink(missing_ok=True)
