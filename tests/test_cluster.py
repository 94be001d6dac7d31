"""A search on a cluster of `ray start` processes with a PostgreSQL, as docs/howto/cluster.md has it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from facts import lacking

from nas.errors import NotFound
from nas.storage.store import Store
from nas.tasks.data import data_root, present

pytest.importorskip("aiohttp", reason="needs Ray's Jobs API: the extra `cluster`")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "local_cluster.sh"
PLUGIN = """
from pathlib import Path

import beside
from nas.testing.evaluators import Scripted


class Mine(Scripted):
    '''Fails where its modules were not brought by Ray.'''

    def evaluate(self, job):
        for file in (__file__, beside.__file__):
            if "working_dir_files" not in Path(file).parts:
                raise RuntimeError(f"{file} did not travel")
        return super().evaluate(job)
"""
SEARCH = """
space = "nas.testing.toys:Toy"
controller = "random"
tasks = "sinusoid"
learner = "maml"
evaluator = "mine:Mine"
trials = 4
workers = 2
deduplicate = false
retries = 0
"""


def _postgres() -> list[str]:
    """Return where scripts/local_cluster.sh looks for PostgreSQL."""
    installed = (*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin"))
    return [os.environ["PATH"], *map(str, installed)]


NO_DATABASE = "PostgreSQL does not start"
"""What the script says where the machine lets no further server start."""


class Cluster:
    """A cluster that is up, a folder with a plug-in of one's own, and commands that are run there."""

    def __init__(self, folder: Path) -> None:
        base = {
            name: text for name, text in os.environ.items() if not name.startswith(("NAS_", "RAY_", "PG"))
        }
        base["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{base['PATH']}"
        base["PYTHONPATH"] = os.pathsep.join([str(ROOT), base.get("PYTHONPATH", "")])
        self.folder = folder
        self._own = base | {
            "NAS_CLUSTER_DIR": f"/tmp/nas-test-{os.getpid()}",
            "NAS_CLUSTER_PORT": "6480",
            "NAS_CLUSTER_JOBS_PORT": "8366",
            "NAS_CLUSTER_DB_PORT": "5534",
            "NAS_CLUSTER_SUBNET": "10.89.78",
        }
        self.environment = base
        (folder / "mine.py").write_text(PLUGIN)
        (folder / "beside.py").write_text("")
        (folder / "search.toml").write_text(SEARCH)

    def script(self, *arguments: str) -> str:
        command = [str(SCRIPT), *arguments]
        done = subprocess.run(command, env=self._own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        if not any(shutil.which("initdb", path=folder) for folder in _postgres()):
            pytest.skip("needs PostgreSQL's initdb")
        try:
            exports = shlex.split(self.script("up", "2"))
        except AssertionError as error:
            if NO_DATABASE in str(error):
                pytest.skip(f"needs a PostgreSQL that starts here: {error}")
            raise
        self.environment = self._own | dict(word.split("=", 1) for word in exports if "=" in word)

    def nas(self, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "nas", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def states(self, search: str) -> list[str]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PGPASSFILE", self.environment["PGPASSFILE"])
            with Store(self.environment["NAS_DB"]) as store:
                return [trial.state for trial in store.trials(store.search(search).id)]

    def wait_for(self, search: str, trials: int) -> int:
        """Wait until so many trials have completed; return how many have."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            with suppress(NotFound):
                if (done := self.states(search).count("completed")) >= trials:
                    return done
            time.sleep(0.5)
        raise TimeoutError(f"Search {search} has not {trials} trials after ten minutes.")

    @property
    def password(self) -> str:
        return Path(self.environment["PGPASSFILE"]).read_text().strip().rpartition(":")[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        found.start()
        yield found
    finally:
        found.script("down")


def test_modules_travel_with_a_driver_that_stays_here(cluster: Cluster) -> None:
    code, _, err = cluster.nas("run", "search.toml", "--resume-or-start=here")
    assert code == 0, err
    assert cluster.states("here") == ["completed"] * 4
    at, files = (cluster.environment[name] for name in ("RAY_ADDRESS", "NAS_ARTIFACTS"))
    again = f"nas resume here --ray-address {at} --artifacts {files}"
    assert f"`{again}`" in cluster.nas("stop", "here")[2]


def test_a_search_is_submitted_followed_and_found_completed(cluster: Cluster) -> None:
    for words in ("4/4 trials", "completed"):
        code, job, err = cluster.nas("submit", "search.toml", "--name=there")
        assert (code, lacking(err, f"nas job logs --follow {job.strip()}")) == (0, []), err
        code, out, err = cluster.nas("job", "logs", "--follow", job.strip())
        assert code == 0, err
        assert words in out
        assert "succeeded" in cluster.nas("job", "status", job.strip())[1]
    assert cluster.states("there") == ["completed"] * 4


def test_a_job_that_is_stopped_has_saved_all_and_goes_on(cluster: Cluster) -> None:
    """Within the three seconds that Ray leaves it."""
    done = 0
    for _ in range(2):
        options = ("--name=halted", "--set=evaluator.seconds=1", "--set=trials=10000")
        code, job, err = cluster.nas("submit", "search.toml", *options)
        assert code == 0, err
        done = cluster.wait_for("halted", done + 4)
        code, _, err = cluster.nas("job", "stop", job.strip())
        assert (code, lacking(err, job.strip(), "nas submit search.toml")) == (0, [])
        log = cluster.nas("job", "logs", job.strip())[1]
        again = shlex.join(["nas", "submit", "search.toml", *options])
        assert lacking(log, f"All that is done is saved. Continue: `{again}`") == []
        assert lacking(cluster.nas("stop", "halted")[2], "interrupted", f"Continue it: `{again}`") == []
        states = cluster.states("halted")
        assert set(states) == {"completed", "interrupted"}
        assert states.count("interrupted") <= 2
        done = states.count("completed")


def test_a_node_without_the_data_ends_the_search_by_its_name(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has it, and one node of three. Workers read data where settings of tasks are chosen."""
    if not present("omniglot"):
        pytest.skip("needs Omniglot: set NAS_DATA")
    with_data = {"NAS_DATA": str(data_root())}
    monkeypatch.setattr(cluster, "_own", cluster._own | with_data)
    cluster.script("up", "3")
    monkeypatch.setattr(cluster, "environment", cluster.environment | with_data)
    try:
        options = ("--space=few_shot", "--controller=random", "--tasks=omniglot", "--learner=prototypical")
        budget = ("--set=budget.train_episodes=1", "--set=budget.validation_episodes=2", "--workers=3")
        code, _, err = cluster.nas("run", *options, *budget, "--name=given", "--trials=3")
        assert code == 0, err
        chosen = "--slot=tasks.train_shots=[1, 2]"
        code, _, err = cluster.nas("run", *options, *budget, chosen, "--name=chosen", "--trials=30")
    finally:
        monkeypatch.undo()
        cluster.script("up", "2")
    told = re.search(r"The worker on host (\S+) cannot work: .*nas data fetch omniglot", err)
    assert (code, told and told[1] in {"node1", "node2"}) == (3, True), err
    assert "nas resume chosen" in err
    assert "failed" not in cluster.states("chosen")


def test_what_jobs_tell_holds_no_secret(cluster: Cluster) -> None:
    listed = "from ray.job_submission import JobSubmissionClient\nprint(JobSubmissionClient().list_jobs())\n"
    out = subprocess.run(
        [sys.executable, "-c", listed], env=cluster.environment, capture_output=True, text=True, check=True
    ).stdout
    assert "search.toml" in out
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert cluster.password not in out
    assert token not in out


@pytest.mark.parametrize(
    ("job", "changes", "code", "facts"),
    [
        ("nothing", {}, 3, ["nothing"]),
        ("nothing", {"RAY_AUTH_TOKEN": "a" * 64}, 2, ["RAY_AUTH_TOKEN_PATH", "token"]),
        ("nothing", {"RAY_AUTH_MODE": "disabled"}, 2, ["RAY_AUTH_MODE=token"]),
        ("nothing", {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, 2, ["--jobs-address"]),
    ],
    ids=["no such job", "wrong token", "no token", "wrong address"],
)
def test_what_a_cluster_refuses_is_said_in_a_line(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    changes: dict[str, str],
    code: int,
    facts: list[str],
) -> None:
    monkeypatch.setattr(cluster, "environment", cluster.environment | changes)
    found, _, err = cluster.nas("job", "status", job)
    assert (found, lacking(err, *facts), len(err.splitlines())) == (code, [], 1), err


@pytest.mark.parametrize(
    ("settings", "changes", "facts"),
    [
        (["--set=resources.cpus=9"], {}, ["resources.cpus=9", "1 core"]),
        (["--set=resources.custom.big=1"], {}, ["resources.custom.big=1"]),
        ([], {"RAY_AUTH_TOKEN": "a" * 64}, ["RAY_AUTH_TOKEN", "token"]),
        ([], {"RAY_AUTH_MODE": "disabled"}, ["RAY_AUTH_MODE=token"]),
    ],
    ids=["cores", "custom resource", "wrong token", "no token"],
)
def test_what_cannot_run_is_refused_before_the_search_is_written(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    changes: dict[str, str],
    facts: list[str],
) -> None:
    monkeypatch.setattr(cluster, "environment", cluster.environment | changes)
    code, _, err = cluster.nas("run", "search.toml", "--name=refused", *settings)
    assert (code, lacking(err, *facts)) == (2, []), err
    with pytest.raises(NotFound):
        cluster.states("refused")


def test_a_head_that_is_killed_ends_the_search_with_the_way_to_go_on(cluster: Cluster) -> None:
    """The last test here: it leaves no cluster."""
    command = [sys.executable, "-m", "nas", "run", "search.toml", "--name=orphan", "--trials=1000"]
    with subprocess.Popen(
        [*command, "--set=evaluator.seconds=0.2"],
        cwd=cluster.folder,
        env=cluster.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stderr is not None
        next(line for line in driver.stderr if "completed" in line)
        folder = cluster.environment["NAS_CLUSTER_DIR"].encode()
        heads = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if folder in (said := process.read_bytes()) and said.split(b"\0")[0].endswith(b"/gcs_server"):
                    heads.append(int(process.parent.name))
        [head] = heads
        os.kill(head, signal.SIGKILL)
        began = time.monotonic()
        err = driver.stderr.read()
    assert (driver.returncode, lacking(err, "nas resume orphan")) == (6, []), err
    assert time.monotonic() - began < 60
    assert "running" not in cluster.states("orphan")
