"""Export and import: what travels, and that it travels once, whole or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import SCRIPTED, nas
from databases import on_postgres, server
from facts import refusal
from recorded import MIXED, Trained, record, record_one_shot, search
from sqlalchemy import make_url, select

from nas.controller import Measurement, Outcome, Score
from nas.errors import ConfigError, NotFound, StorageError
from nas.evaluation.artifacts import store_weights
from nas.space import Architecture
from nas.states import TrialState
from nas.storage import transfer
from nas.storage.evaluations import Origin
from nas.storage.schema import Evaluation, Search
from nas.storage.searches import NewInherited, NewSearch, continuation
from nas.storage.store import Store
from nas.testing.evaluations import asked, claim, trained
from nas.testing.stores import begin, columns
from nas.transfer.files import beside, export, load

HERE = ("id", "search_id", "architecture_id", "trial_id", "evaluation_id", "origin_search_id")
LEASE = ("host", "pid", "driver", "heartbeat_at")


@pytest.fixture(params=["sqlite", "postgresql"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of another database, which is empty."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/elsewhere.db"
        return
    with on_postgres() as url:
        yield url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/nas.db"


def fill(store: Store, folder: Path) -> None:
    """Write two searches, one of a supernet, a third that runs, and evaluations with files."""
    row = record(store, MIXED, name="a", seed=3)
    store.annotate(row.id, "größer")
    text = ".".join("0" * 11)
    one_shot = Trained([(text, 0.5)], skips=(1, 2), sampled={text: 0.25})
    record_one_shot(store, one_shot, {text: ("completed", 0.25)}, name="b", controller="darts", trials=32)
    running = inheriting(store)
    store.acquire(running.id)
    begin(store, running, 0)
    for number in (1, 3):
        trial = store.trial(row.id, number)
        found = claim(
            store,
            architecture=trial.architecture,
            key=f"key {number}",
            seed=number,
            origin=Origin(row.id, "a", number),
        )
        weights = store_weights(folder, f"network{number}", {})
        store.evaluations.complete(found.id, trained(weights=weights))
    store.evaluations.measure(found.id, list(points()))
    claim(store, seed=9)  # of no search
    store.add_artifact(store.trial(row.id, 1).id, kind="weights", uri="/gone/x.pt", sha256="0" * 64, bytes=9)


def points() -> Iterator[Measurement]:

    yield Measurement(100, "train_loss", 1.5)
    yield Measurement(100, "validation_score", float("nan"))


def inheriting(store: Store) -> Search:
    """Write a search that knew something when it began."""
    row = search(store, name="scratch", controller="random")
    new = NewSearch(
        **{
            name: getattr(row, name)
            for name in (
                *("source", "space", "controller", "tasks", "task_label", "learner", "executor", "seed"),
                *("trials", "settings", "environment", "plugins"),
            )
        },
        name="c",
        config=row.config | {"name": "c"},
    )
    store.delete(row.id)
    return store.create_search(new, [NewInherited("a", "0.0", 0.75), NewInherited("a", "1.0", 0.25)])


def plain(row: Any) -> dict[str, Any]:
    return {key: value for key, value in columns(row).items() if key not in (*HERE, *LEASE)}


def content(url: str) -> dict[str, Any]:
    """Return all that a database holds, in words that mean the same everywhere."""
    found: dict[str, Any] = {}
    with Store(url) as store:
        for name in store.names():
            row = store.search(name)
            ids = {trial.id: trial.number for trial in store.trials(row.id)}
            found[name] = {
                "search": plain(row),
                "trials": [plain(trial) for trial in store.trials(row.id)],
                "measured": [(ids[m.trial_id], *m[1:]) for m in store.measurements(row.id)],
                "inherited": [plain(one) for one in store.inherited(row.id)],
                "artifacts": [[plain(file) for file in store.artifacts(trial)] for trial in ids],
            }
        for row in evaluations(store):
            own = store.evaluations
            found[f"{row.architecture} {row.seed}"] = {
                "evaluation": plain(row),
                "origin": None if row.origin_search_id is None else origin(store, row.origin_search_id),
                "scores": own.scores(row.id),
                "measured": own.measurements(row.id),
                "artifacts": [plain(file) for file in own.artifacts(row.id)],
            }
    return found


def evaluations(store: Store) -> list[Evaluation]:

    with store.read() as session:
        return list(session.scalars(select(Evaluation).order_by(Evaluation.id)))


def origin(store: Store, search_id: int) -> str | None:
    with store.read() as session:
        return session.scalar(select(Search.name).where(Search.id == search_id))


def left(found: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a database as it is once nobody drives anything."""
    for part in found.values():
        for row in (part.get("search"), part.get("evaluation"), *part.get("trials", ())):
            if row and row["state"] == "running":
                row["state"] = "interrupted"
    return found


@pytest.mark.parametrize("name", ["file.db", "file.parquet"])
def test_everything_travels_and_twice_is_once(url: str, elsewhere: str, tmp_path: Path, name: str) -> None:
    """From one database to a file, into another one, which may be on a server, and back."""
    with Store(url, create=True) as store:
        fill(store, tmp_path / "nas-artifacts")
        there, back = tmp_path / name, tmp_path / "back.db"
        copied, _ = export(url, there)
    assert (copied.added, copied.evaluations) == (["a", "b", "c"], 3)
    expected = left(content(url))
    copied, _ = load(elsewhere, there)
    assert (copied.added, copied.renamed, copied.evaluations) == (["a", "b", "c"], {}, 3)
    assert content(elsewhere) == expected
    copied, _ = load(elsewhere, there)
    assert (copied.added, copied.extended, copied.known) == ([], [], ["a", "b", "c"])
    assert (copied.evaluations, copied.evaluations_known) == (0, 3)
    assert content(elsewhere) == expected
    export(elsewhere, back)
    assert content(f"sqlite:///{back}") == expected
    copied, _ = load(url, back)  # where it came from
    assert (copied.added, copied.evaluations) == ([], 0)


def test_where_a_driver_ran_stays_behind(url: str, elsewhere: str, tmp_path: Path) -> None:
    command, file = "nas resume a --ray-address head:6379", tmp_path / "all.db"
    with Store(url, create=True) as store:
        store.acquire(record(store, MIXED, name="a").id, again=command)
    export(url, file)
    load(elsewhere, file)
    with Store(url) as store, Store(elsewhere) as other:
        assert continuation(store.search("a")) == command
        assert continuation(other.search("a")) == "nas resume a"


@pytest.mark.parametrize(
    ("name", "facts"),
    [("results.csv", ["results.db", "results.parquet", ".csv"]), ("nowhere/x.db", ["nowhere"])],
)
def test_what_no_export_is_called_is_refused(url: str, tmp_path: Path, name: str, facts: list[str]) -> None:
    Store(url, create=True).close()
    with refusal(ConfigError, *facts):
        export(url, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["nas.db"]


def test_one_search_takes_what_belongs_to_it(url: str, tmp_path: Path) -> None:
    with Store(url, create=True) as store:
        fill(store, tmp_path / "nas-artifacts")
        copied, _ = export(url, tmp_path / "one.db", ["a"])
    assert (copied.added, copied.evaluations) == (["a"], 2)
    expected = content(url)
    found = content(f"sqlite:///{tmp_path}/one.db")
    assert found == {key: expected[key] for key in found}
    assert len(found) == 3
    with refusal(NotFound, "nothing"):
        export(url, tmp_path / "two.db", ["nothing"])
    assert not (tmp_path / "two.db").exists()
    with refusal(ConfigError, "one.db"):
        export(url, tmp_path / "one.db")


def test_another_search_of_the_name_is_refused_or_gets_a_free_one(
    url: str, elsewhere: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.db"
    for place, seed in ((url, 3), (elsewhere, 4)):
        with Store(place, create=True) as store:
            row = record(store, MIXED, name="a", seed=seed)
            claim(store, seed=seed, origin=Origin(row.id, "a", 1))
    export(url, file)
    before = content(elsewhere)
    with refusal(ConfigError, "a", "--rename", "a-2"):
        load(elsewhere, file)
    assert content(elsewhere) == before
    copied, _ = load(elsewhere, file, rename=True)
    assert (copied.added, copied.renamed) == (["a-2"], {"a": "a-2"})
    found = content(elsewhere)
    assert {name for name, part in found.items() if "search" in part} == {"a", "a-2"}
    assert found["a"] == before["a"]
    [moved] = [part for part in found.values() if "evaluation" in part and part["evaluation"]["seed"] == 3]
    assert (moved["origin"], moved["evaluation"]["origin_search"]) == ("a-2", "a-2")
    assert load(elsewhere, file)[0].known == ["a-2"]  # whatever it is called


def finish(store: Store, row: Search, number: int) -> None:
    score = Outcome(TrialState.COMPLETED, Architecture("toy", (0,)), Score(0.5, 0.01, 9), seconds=2.0)
    store.finish(begin(store, row, number), score)


def test_what_went_on_is_added_and_what_parted_is_refused(url: str, elsewhere: str, tmp_path: Path) -> None:
    with Store(url, create=True) as store:
        row = search(store, name="s")
        store.acquire(row.id)
        finish(store, row, 0)
        begin(store, row, 1)
        export(url, tmp_path / "early.db")
        load(elsewhere, tmp_path / "early.db")
        finish(store, row, 2)
        store.interrupt(row.id)
        store.release(row.id, "stopped")
        export(url, tmp_path / "late.db")
    assert load(elsewhere, tmp_path / "late.db")[0].extended == ["s"]
    assert content(elsewhere) == left(content(url))
    assert load(elsewhere, tmp_path / "early.db")[0].known == ["s"]  # further than that by now
    assert content(elsewhere) == left(content(url))
    for place in (url, elsewhere):
        with Store(place) as store:
            store.acquire(store.search("s").id)
            finish(store, store.search("s"), 3)
            store.release(store.search("s").id, "stopped")
    before = content(elsewhere)
    export(url, tmp_path / "parted.db")
    with refusal(ConfigError, "s", "nas rm"):
        load(elsewhere, tmp_path / "parted.db")
    assert content(elsewhere) == before


def test_a_search_that_was_completed_since_is_completed(url: str, elsewhere: str, tmp_path: Path) -> None:
    """It was exported after its last trial, before its driver had ended."""
    with Store(url, create=True) as store:
        row = record(store, MIXED, name="s")
        store.acquire(row.id)
        export(url, tmp_path / "running.db")
        store.release(row.id, "completed")
    load(elsewhere, tmp_path / "running.db")
    export(url, tmp_path / "completed.db")
    assert load(elsewhere, tmp_path / "completed.db")[0].extended == ["s"]
    assert content(elsewhere) == content(url)
    assert load(elsewhere, tmp_path / "completed.db")[0].known == ["s"]


def test_a_result_takes_the_place_of_what_was_not_done(url: str, elsewhere: str, tmp_path: Path) -> None:
    with Store(url, create=True) as store, Store(elsewhere, create=True) as other:
        done, waiting = claim(store), claim(other)
        store.evaluations.complete(done.id, trained())
        other.evaluations.interrupt([waiting.id])
    export(url, tmp_path / "file.db")
    assert load(elsewhere, tmp_path / "file.db")[0].evaluations == 1
    assert content(elsewhere) == content(url)


def test_a_result_travels_while_it_is_trained_again(url: str, elsewhere: str, tmp_path: Path) -> None:
    with Store(url, create=True) as store, Store(elsewhere, create=True) as other:
        done = claim(store)
        store.evaluations.complete(done.id, trained())
        store.evaluations.claim(asked(), anew=True)
        other.evaluations.interrupt([claim(other).id])
    export(url, tmp_path / "file.db")
    assert load(elsewhere, tmp_path / "file.db")[0].evaluations == 1
    with Store(elsewhere) as other, other.read() as session:
        [there] = session.scalars(select(Evaluation))
        assert (there.state, there.test_score) == ("completed", trained().test.value)


def test_an_import_that_is_interrupted_leaves_nothing(
    url: str, elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(url, create=True) as store:
        fill(store, tmp_path / "nas-artifacts")
    export(url, tmp_path / "file.db")
    Store(elsewhere, create=True).close()

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer._Copy, "_evaluation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(elsewhere, tmp_path / "file.db")
    assert content(elsewhere) == {}
    for name in ("new.db", "new.parquet"):
        with pytest.raises(KeyboardInterrupt):
            export(url, tmp_path / name)
    assert not [path.name for path in tmp_path.iterdir() if "new" in path.name]


def test_files_travel_where_they_are_asked_to(url: str, tmp_path: Path) -> None:
    artifacts, target = tmp_path / "nas-artifacts", tmp_path / "target"
    with Store(url, create=True) as store:
        fill(store, artifacts)
    file = tmp_path / "away" / "file.db"
    file.parent.mkdir()
    _, moved = export(url, file, artifacts=artifacts)
    assert (moved.copied, len(moved.gone)) == (2, 1)
    assert "/gone/x.pt" in moved.gone[0]
    assert sorted(path.parent for path in beside(file).rglob("*.pt")) == [beside(file) / "weights"] * 2
    for path in artifacts.rglob("*.pt"):
        path.unlink()
    other = f"sqlite:///{tmp_path}/other.db"
    _, moved = load(other, file, artifacts=target)
    assert (moved.copied, len(moved.gone)) == (2, 1)
    with Store(other) as store:
        files = [file for row in evaluations(store) for file in store.evaluations.artifacts(row.id)]
    assert {Path(file.uri).parent for file in files} == {target / "weights"}
    assert all(Path(file.uri).is_file() for file in files)


@pytest.mark.parametrize("kind", ["text", "foreign", "older", "newer", "nothing", "folder", "parquet"])
def test_other_files_are_refused(url: str, tmp_path: Path, kind: str) -> None:
    Store(url, create=True).close()
    file = tmp_path / "file.db"
    facts: tuple[object, ...] = (file,)
    if kind == "text":
        file.write_text("no database" * 100)
    elif kind == "foreign":
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE movies (id INTEGER)")
        connection.close()
        facts = ("movies",)
    elif kind in ("older", "newer"):
        Store(f"sqlite:///{file}", create=True).close()
        with sqlite3.connect(file) as connection:
            connection.execute(
                f"UPDATE alembic_version SET version_num = '{'0008' if kind == 'older' else '9999'}'"
            )
        connection.close()
        facts = ("nas db upgrade",) if kind == "older" else ("9999",)
    elif kind == "folder":
        file.mkdir()
    elif kind == "parquet":
        pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
        assert pyarrow
        file.mkdir()
        pandas.DataFrame({"a": [1]}).to_parquet(file / "searches.parquet")
        pandas.DataFrame({"a": [1]}).to_parquet(file / "architectures.parquet")
        facts = ("another program",)
    if kind == "nothing":
        facts = (file, "nas db export FILE --db URL")
    with refusal(NotFound if kind in ("nothing", "folder") else StorageError, *facts):
        load(url, file)
    assert content(url) == {}


def test_an_imported_search_goes_on_as_it_would_have(db: Path, tmp_path: Path) -> None:
    """Four trials here, or two here and two after a move: the same networks, the same scores."""
    run = ("run", *SCRIPTED, "--seed=5")
    assert nas(*run, "--trials=4", "--name=whole", "--db", f"sqlite:///{tmp_path}/whole.db")[0] == 0
    assert nas(*run, "--trials=2", "--name=moved")[0] == 0
    code, _, err = nas("db", "export", "moved.db", "moved")
    assert (code, "1 search " in err) == (0, True)
    other = f"--db=sqlite:///{tmp_path}/other.db"
    code, out, err = nas("db", "import", "moved.db", other)
    assert (code, out, "1 search " in err) == (0, "", True)
    assert nas("resume", "moved", "--trials=4", other)[0] == 0

    def outcomes(path: str, name: str) -> list[tuple[Any, ...]]:
        with Store(f"sqlite:///{tmp_path}/{path}.db") as store:
            trials = store.history(store.search(name).id)
        return [(trial.number, trial.architecture, trial.seed, trial.score) for trial in trials]

    assert outcomes("other", "moved") == outcomes("whole", "whole")
    code, _, err = nas("db", "import", "nothing.db", other)
    assert (code, "nothing.db" in err) == (3, True)


def test_a_copy_by_sqlite_is_a_backup(db: Path, tmp_path: Path) -> None:
    """As docs/howto/operate.md has it: while a search is written, and back."""
    url = f"sqlite:///{db}"
    with Store(url, create=True) as store:
        fill(store, tmp_path / "nas-artifacts")
        begin(store, store.search("c"), 1)  # in the write-ahead log
        copies = {"backup": f".backup {tmp_path}/backup.db", "vacuum": f"VACUUM INTO '{tmp_path}/vacuum.db'"}
        for command in copies.values():
            with sqlite3.connect(db) as connection:
                if command.startswith("."):
                    with sqlite3.connect(tmp_path / "backup.db") as copy:
                        connection.backup(copy)
                    copy.close()
                else:
                    connection.execute(command)
            connection.close()
        expected = content(url)
    for name in copies:
        assert content(f"sqlite:///{tmp_path}/{name}.db") == expected


def test_a_dump_of_postgresql_is_a_backup(tmp_path: Path) -> None:
    plain_url = make_url(server()).set(drivername="postgresql").render_as_string(hide_password=False)
    with on_postgres() as url:
        schema = str(make_url(url).query["options"]).partition("=")[2]
        with Store(url, create=True) as store:
            fill(store, tmp_path / "nas-artifacts")
        expected, dump = content(url), tmp_path / "nas.dump"
        call = {"check": True, "capture_output": True}
        subprocess.run(["pg_dump", "-Fc", "-n", schema, "-f", dump, plain_url], **call)  # type: ignore[call-overload]
        with Store(url) as store:
            store.delete(store.search("a").id)
        assert content(url) != expected
        subprocess.run(["pg_restore", "--clean", "-d", plain_url, dump], **call)  # type: ignore[call-overload]
        assert content(url) == expected
