"""Jobs on Ray: warm actors, on this machine or a cluster."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic

_ENVIRONMENT = {
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
for _name, _value in _ENVIRONMENT.items():  # Ray reads some of them when it is imported
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray._private import ray_constants  # noqa: E402
from ray._private.authentication.authentication_token_setup import (  # noqa: E402
    ensure_token_if_auth_enabled,
)
from ray.exceptions import (  # noqa: E402
    AuthenticationError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)

from nas import own_code, submission  # noqa: E402
from nas.errors import ConfigError, HeadLost, NasError, Stillborn, Unready, Unwritable  # noqa: E402
from nas.executors.base import JobT, MakeRunner, ReportT, Runner, Workload  # noqa: E402
from nas.executors.capacity import Demand, Machine  # noqa: E402
from nas.executors.pool import Died, PoolExecutor, Ready, Word, Worker  # noqa: E402
from nas.executors.worker import logged, ready  # noqa: E402

_RAYLET: Any = ray._raylet

_MEMORY = re.compile(r"NODE_OUT_OF_MEMORY|running low on memory")
_NODE = re.compile(r"node (?:has |was |is )?(?:died|dead|terminated)|NODE_DIED", re.IGNORECASE)
_TAKEN, _GONE = "its machine was taken away", "its machine is gone"
_TOLD = re.compile(
    r"Worker exit detail: (.+?)(?: Some common causes| There are some potential|$)", re.MULTILINE
)

_GROUP = "ray.io/node-group"
"""The label by which the autoscaler, or KubeRay, tells the group of a node."""

_USUAL = ("CPU", "GPU", "memory", "object_store_memory")

SOCKET_ROOM = 36
"""Bytes that are left for a folder in the path of a socket: 107, less what Ray appends."""

ROOM_BYTES = 10_000_000
"""What Ray's folder needs to begin with: its logs take a megabyte."""

HEAD_SECONDS = 30.0
"""How long a head may not answer: less than the minute after which Ray ends this process without a word."""

LOOK_SECONDS = 2.0
"""How often to ask whether the head is there."""


class RayExecutor(PoolExecutor[JobT, ReportT]):
    """Runs jobs on actors of a local Ray that it starts, or of the cluster at `address` (or `RAY_ADDRESS`).

    All actors are asked for at once, so that a cluster that grows on demand knows what is wanted; jobs begin
    on those that are there.

    Args:
        make: makes the runner of a worker; what it holds is put into Ray's object store once.
        workers: jobs at a time.
        demand: what a job takes of a machine.
        address: of the cluster.
        say: told if none gets ready for long.
    """

    def __init__(
        self,
        make: MakeRunner[JobT, ReportT],
        workers: int,
        demand: Demand,
        address: str | None,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(workers, say)
        self._make, self._demand = make, demand
        self._address = address or os.environ.get("RAY_ADDRESS")

    def run(self, workload: Workload[JobT, ReportT]) -> None:
        """Run every job, so many workers at a time.

        Raises:
            HeadLost: the head of the cluster is gone.
            Unwritable: no worker starts, since the folder of Ray's files is full.
        """
        cpus, memory = self._workers * self._demand.cpus, self._workers * (self._demand.memory or 0)
        with start(cpus, self._address, memory or None):
            self._made = [ray.put(self._make)]  # in a list, so that the actor looks for it, not Ray
            self._actors = ray.remote(**self._options())(_Actor)
            self._calls: dict[ray.ObjectRef[Any], _ActorWorker[JobT, ReportT]] = {}
            self._head = _Head(ray.get_runtime_context().gcs_address)
            try:
                super().run(workload)
            except Stillborn:
                node: Any = ray._private.worker._global_node
                _refuse_full(node.get_temp_dir_path())
                raise

    def look(self) -> None:
        """Ask whether the head is there.

        Raises:
            HeadLost: it is gone.
        """
        self._head.check()

    def _options(self) -> dict[str, Any]:
        demand = self._demand
        gpus = demand.gpus
        if gpus is None:
            available = ray.cluster_resources().get("GPU", 0)
            gpus = 1 / math.ceil(self._workers / available) if available else 0
        options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": gpus}
        if demand.memory is not None:
            options["memory"] = demand.memory
        if demand.custom:
            options["resources"] = dict(demand.custom)
        return options

    def _start(self, place: int) -> Worker[JobT, ReportT]:
        actor: Any = self._actors.remote(self._made)
        return _ActorWorker(place, actor, self._calls)

    def _heard(
        self, workers: Sequence[Worker[JobT, ReportT]], seconds: float
    ) -> Sequence[Worker[JobT, ReportT]]:
        self._head.check()
        calls = list(self._calls)  # the oldest first: no worker has to wait for others that are faster
        answered, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        if not answered:
            answered, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        return [self._calls[call] for call in answered]


class _ActorWorker(Worker[JobT, ReportT]):
    """The driver's end of one actor, which is asked one thing at a time.

    Args:
        place: from 0.
        actor: that begins to start.
        calls: what actors were asked and have not answered; this one adds its own.
    """

    def __init__(
        self,
        place: int,
        actor: Any,
        calls: dict[ray.ObjectRef[Any], _ActorWorker[JobT, ReportT]],
    ) -> None:
        super().__init__(place)
        self._actor, self._calls = actor, calls
        self._host = "a machine of the cluster"
        self._asked(actor.start.remote())

    def begin(self, job: JobT) -> None:
        """Have it run a job to its first report."""
        self.job = job
        self._asked(self._actor.begin.remote(job))

    def answer(self, goes_on: bool) -> None:
        """Have it run its job to the next report, or drop it."""
        if goes_on:
            self._asked(self._actor.go_on.remote())
        else:
            self._actor.drop.remote()

    def hear(self) -> Word[ReportT]:
        """Return what it answers, or that it died."""
        del self._calls[self._call]
        try:
            answer = ray.get(self._call)
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                return _foreign(error)
            why = death(error)
            return Died(f"The worker on {self._host} died: {why}.", gone=why in (_TAKEN, _GONE))
        if not self.ready and isinstance(answer, str):
            self._host = f"host {answer}"
            return Ready()
        word: Word[ReportT] = answer
        return word

    def kill(self) -> None:
        """End it, whatever it does, and also if it has not begun."""
        self._calls.pop(self._call, None)
        with suppress(RayError, ValueError):
            ray.kill(self._actor)

    def _asked(self, call: ray.ObjectRef[Any]) -> None:
        self._call = call
        self._calls[call] = self


class _Actor(Generic[JobT, ReportT]):
    """A warm worker: keeps its runner, and runs a job from report to report, each when it is asked for."""

    def __init__(self, made: Sequence[ray.ObjectRef[MakeRunner[JobT, ReportT]]]) -> None:
        self._made = made

    def start(self) -> str | Unready:
        """Make the runner; return the name of the host, or why there can be none here."""
        _quiet()
        try:
            self._runner: Runner[JobT, ReportT] = ready(lambda: ray.get(self._made[0]))
        except Unready as error:
            if isinstance(error.__cause__, ObjectLostError):
                raise error.__cause__ from None  # what makes runners did not arrive: another worker gets it
            return error
        return socket.gethostname()

    def begin(self, job: JobT) -> ReportT | Unwritable | Unready:
        """Return the first report of a job."""
        self._reports = logged(self._runner, job)
        return self.go_on()

    def go_on(self) -> ReportT | Unwritable | Unready:
        """Return the next report of the job."""
        try:
            report = next(self._reports)
        except (Unwritable, Unready) as error:
            return error
        if report.final:
            self._reports.close()  # what it printed is in its file before the driver asks
        return report

    def drop(self) -> None:
        """Leave the job where it is."""
        self._reports.close()


class _Head:
    """Tells whether the head of a cluster is there: Ray says nothing for a minute, then ends this process.

    Args:
        address: of the head, `HOST:PORT`.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host.strip("[]"), int(port)
        self._looked = -math.inf
        self._seen = False
        self._silent: float | None = None

    def check(self) -> None:
        """Ask now and then; one that cannot be reached from here at the first time is not asked again.

        Raises:
            HeadLost: it has not answered for `HEAD_SECONDS`.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            socket.create_connection(self._address, timeout=LOOK_SECONDS).close()
            self._seen, self._silent = True, None
        except OSError as error:
            if not self._seen:
                self._looked = math.inf
                return
            self._silent = now if self._silent is None else self._silent  # not when it was seen: we may sleep
            if now - self._silent > HEAD_SECONDS:
                raise HeadLost(
                    f"The head of the Ray cluster at {self._address[0]}:{self._address[1]} has not answered "
                    f"for {now - self._silent:.0f} s ({error.strerror or error}). Bring the cluster back."
                ) from None


def death(error: object) -> str:
    """Return why a worker died in one line, as far as Ray's error tells."""
    words = str(error)
    if getattr(error, "preempted", False):
        return _TAKEN
    if isinstance(error, OutOfMemoryError) or _MEMORY.search(words):
        return "its machine ran out of memory; try fewer --workers"
    if _NODE.search(words):
        return _GONE
    told = _TOLD.search(words) or re.search(r"(\S.*)\s*$", words)
    return told[1].strip().rstrip(".") if told else "Ray gives no reason"


def _foreign(error: RayActorError) -> Unready:
    """Return why a machine cannot make an actor, which does nothing yet: what it is made of is not there."""
    host = re.search(r"\bip=([^,)\s]+)", str(error))
    why = f"{death(error)}. Install there what this machine has, in the same versions."
    return Unready(host[1] if host else "unknown", why)


def _quiet() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray prints what its nodes complain of to stdout, whatever `log_to_driver` says; what counts we say.
    ray._private.worker.print_to_stdstream = lambda *words, **prefix: None


def _reach(address: str) -> None:
    """Ask whether something listens, and takes our token, for Ray itself takes minutes to give up.

    Raises:
        ConfigError: it does not.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():  # `auto` and the like: Ray's own affair
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigError(
            f"No Ray cluster answers at {address} ({error.strerror or error}): give --ray-address HOST:PORT, "
            "or leave it out (and RAY_ADDRESS unset) to start Ray on this machine."
        ) from None
    try:
        if _RAYLET.get_authentication_mode() == _RAYLET.AuthenticationMode.TOKEN:
            ensure_token_if_auth_enabled(create_token_if_missing=False)  # without one, the next line aborts
        with _unheard():
            _RAYLET.GcsClient(address=f"{host}:{port}")
    except AuthenticationError as error:
        raise ConfigError(
            f"The Ray cluster at {address} does not let this process in: its token is wrong, or missing. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, a file) to the cluster's token."
        ) from error
    except RayError:
        pass  # what else is wrong is for `ray.init` to say


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep from stderr what Ray's own library, which asks no logger, writes there."""
    with Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _temporary() -> str | None:
    """Return a folder for Ray's files; None: Ray's own choice, by RAY_TMPDIR and TMPDIR, will do.

    Raises:
        NasError: no folder will do.
        Unwritable: the one chosen is full.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if _usable(chosen):
        _refuse_full(chosen)
        return None
    for other in ("/tmp", "/var/tmp", "/dev/shm"):
        if _usable(other):
            return f"{other}/ray"
    raise NasError(
        f"Ray cannot put its files into {chosen}, nor into /tmp: it needs a folder that can be written and "
        f"whose path has at most {SOCKET_ROOM} characters. Set RAY_TMPDIR to one, or use --executor inline."
    )


def _refuse_full(folder: str) -> None:
    """Refuse a folder without room for Ray's files, with which it would fail to start a minute later.

    Raises:
        Unwritable: it is full.
    """
    if shutil.disk_usage(folder).free < ROOM_BYTES:
        raise Unwritable(
            f"Ray cannot put its files into {folder}: its disk is full. Free some space there, set "
            "RAY_TMPDIR to another folder, or use --executor process."
        )


def _usable(folder: str) -> bool:
    return len(os.fsencode(folder)) <= SOCKET_ROOM and Path(folder).is_dir() and os.access(folder, os.W_OK)


def _own_token() -> None:
    """Give a Ray started here its token in the environment, where it cannot be kept in the home folder."""
    try:
        kept = Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # this user has no home
        kept = Path("/nonexistent")
    named = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    nearest = next(folder for folder in kept.parents if folder.exists())
    if not named and not kept.exists() and not os.access(nearest, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers: Ray sets its own, by which SIGTERM aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except SystemExit:  # by Ray's handler
        if callable(own := before[signal.SIGTERM]):
            own(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def machines() -> list[Machine]:
    """Return what the machines offer that Ray runs on."""
    return [_machine(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def grows() -> bool:
    """Return whether machines may be added: something that starts them by groups has started these."""
    return any(_GROUP in node["Labels"] for node in ray.nodes() if node["Alive"])


def _machine(offer: Mapping[str, float]) -> Machine:
    custom = {
        name: amount
        for name, amount in offer.items()
        if name not in _USUAL and not name.startswith(("node:", "accelerator_type:"))
    }
    return Machine(offer.get("CPU", 0.0), offer.get("GPU", 0.0), offer.get("memory"), custom)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that starts here listen on 127.0.0.1 alone, as it does by itself on macOS and Windows."""
    name, allowed = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = allowed
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _absent(error: Exception, address: str | None) -> NasError:
    """Return the error for a Ray that is not there."""
    what = f"Cannot {f'connect to the Ray cluster at {address}' if address else 'start Ray here'}"
    kind = ConfigError if address else NasError
    form = "An address is HOST:PORT; " if address else ""
    return kind(f"{what}: {str(error).rstrip('.')}. {form}`nas doctor` checks the set-up.")


@contextmanager
def start(cpus: int = 1, address: str | None = None, memory: int | None = None) -> Iterator[None]:
    """Use this process's Ray if there is one, else connect to a cluster or start Ray here; end it after.

    To a cluster go the user's own modules, which plug-ins of the working directory are made of.

    Args:
        cpus: cores of a Ray that is started here.
        address: of a cluster.
        memory: bytes for the jobs of a Ray that is started here; None: as much as there is.

    Raises:
        ConfigError: no cluster answers at `address`.
        NasError: Ray does not start here.
        Unwritable: its folder is full.
    """
    if ray.is_initialized():
        yield
        return
    if address:
        _reach(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _own_signals():
            if address:
                with tempfile.TemporaryDirectory(prefix="nas-") as folder:
                    bring = not submission.brought() and own_code.copy(Path(folder))
                    ray.init(address=address, runtime_env={"working_dir": folder} if bring else None, **quiet)
            else:
                _own_token()
                quiet |= {"include_dashboard": False, "_temp_dir": _temporary(), "_memory": memory}
                with _on_loopback():
                    ray.init(address="local", num_cpus=cpus, **quiet)
    except UnicodeEncodeError as error:
        raise NasError(
            "Ray takes no path that is not UTF-8, in the command or as the folder that it runs in. Give "
            "the path by a symbolic link with another name, or choose --executor inline."
        ) from error
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise _absent(error, address) from error
    except Exception as error:
        if type(error) is not Exception:  # which is what Ray raises where a part of it does not come up
            raise
        raise _absent(error, address) from error
    _quiet()
    try:
        yield
    finally:
        ray.shutdown()
