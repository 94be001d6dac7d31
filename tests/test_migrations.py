"""The revisions against the tables that the code declares, and the ways to be at the wrong one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from databases import on_postgres
from facts import refusal
from grids import rest_slow
from scripted_searches import configure, reopen, results, run
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from nas.controller import Measurement
from nas.costs import COSTS
from nas.driver.trials import executor
from nas.errors import ConfigError, NotFound, StorageError
from nas.states import TrialState
from nas.storage import migrations, schema
from nas.storage.migrations import configuration, current, upgrade
from nas.storage.store import Store
from nas.storage.trials import Measured, NewTrial
from nas.testing.evaluations import claim, trained
from nas.testing.stores import begin, columns, outcome, search

pytestmark = pytest.mark.usefixtures("alembic")

HEAD = schema.HEAD

NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "next", "{head}"

def upgrade():
    op.add_column("searches", sa.Column("color", sa.String()))
    with op.batch_alter_table("trials") as trials:
        trials.alter_column("seconds", new_column_name="duration")
    {end}
"""
"""A revision for which SQLite has to rebuild the table that measurements refer to."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/nas.db"
        return
    with on_postgres() as url:
        yield url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function after which the package has one more revision, that ends with a statement."""

    def add(end: str) -> None:
        scripts = tmp_path / "migrations"
        shutil.copytree(Path(migrations.__file__).parent, scripts)
        (scripts / "versions" / "next.py").write_text(NEXT.format(head=HEAD, end=end))
        config = configuration()
        config.set_main_option("script_location", str(scripts))
        monkeypatch.setattr(migrations, "configuration", lambda: config)
        monkeypatch.setattr(schema, "HEAD", "next")

    return add


def catalogue(engine: Engine) -> set[str]:
    """Return all that the database says of the tables: columns, defaults, constraints, indices, options."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name <> 'alembic_version'"
            # A table's lines, of which one holds all columns that a revision added; an index is one line.
            lines = "\n".join(connection.scalars(text(query))).splitlines()
            split = [line.split(", ") if line.startswith("\t") else [line] for line in lines]
            return {part.strip() for parts in split for part in parts}
        here = connection.scalar(text("SELECT current_schema()"))
        queries = (
            "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()",
            "SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = current_schema()::regnamespace",
            "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) "
            "FROM information_schema.columns WHERE table_schema = current_schema()",
        )
        lines = [line for query in queries for line in connection.scalars(text(query))]
        return {line.replace(f"{here}.", "") for line in lines if "alembic_version" not in line}


def test_the_revisions_make_the_tables_that_the_code_declares(url: str, engine: Engine) -> None:
    upgrade(url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.Base.metadata) == []


def test_the_revisions_make_the_same_catalogue_as_the_code(url: str, engine: Engine) -> None:
    """Autogenerate sees neither partial indices nor SQLite's table options."""
    schema.Base.metadata.create_all(engine)
    declared = catalogue(engine)
    schema.Base.metadata.drop_all(engine)
    assert catalogue(engine) <= {"CREATE TABLE sqlite_sequence(name,seq)"}
    upgrade(url)
    assert catalogue(engine) == declared
    assert any("INDEX ix_trials_leaderboard" in line and "WHERE" in line for line in declared)


def test_there_is_one_line_of_revisions_and_its_head_is_known() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    assert scripts.get_heads() == [schema.HEAD]
    assert len(scripts.get_bases()) == 1


def test_a_database_goes_from_nothing_to_head_and_stays(url: str) -> None:
    if url.startswith("sqlite"):
        with refusal(NotFound, "nas run"):
            current(url)
    else:
        assert current(url) == (None, schema.HEAD)
    assert upgrade(url) == (None, schema.HEAD)
    assert current(url) == (schema.HEAD, schema.HEAD)
    with Store(url, create=True) as store:
        row = search(store)
    assert upgrade(url) == (schema.HEAD, schema.HEAD)
    with Store(url) as store:
        assert store.search("@last").name == row.name


def test_downgrading_empties_the_database(url: str, engine: Engine) -> None:
    upgrade(url)
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert current(url) == (None, schema.HEAD)
    with Store(url, create=True) as store:
        assert store.searches() == []


@pytest.mark.parametrize("create", [True, False])
def test_an_older_database_is_refused_with_the_command_that_upgrades_it(
    url: str, following: Any, create: bool
) -> None:
    Store(url, create=True).close()
    following("pass")
    with refusal(StorageError, HEAD, "next", f"nas db upgrade --db {url.partition('?')[0]}"):
        Store(url, create=create)
    assert current(url) == (HEAD, "next")


def test_upgrading_keeps_every_row(url: str, engine: Engine, following: Any) -> None:
    with Store(url, create=True) as store:
        row = search(store)
        trial_id = begin(store, row, 0)
        store.finish(trial_id, outcome(0.5, seconds=2.5, measurements=(Measurement(1, "loss", 1.0),)))
        before = columns(store.trial(row.id, 0))
    following("pass")
    assert upgrade(url) == (HEAD, "next")
    with engine.connect() as connection:
        after = connection.execute(text("SELECT number, score, duration FROM trials")).one()
        assert tuple(after) == (0, before["score"], 2.5)
        measured = connection.execute(text("SELECT trial_id, metric, step, value FROM measurements")).one()
        assert Measured(*measured) == (trial_id, "loss", 1, 1.0)


def test_the_first_revision_is_upgraded_and_back(url: str, engine: Engine) -> None:
    """A database that the first release made, with a row in the table that the second rebuilds."""
    config = configuration()
    instant = "2026-01-01 12:00:00+00:00"
    search_row = (
        "INSERT INTO searches (name, state, config, space, controller, tasks, task_label, learner, executor, "
        "seed, trials, settings, environment, created_at) VALUES ('s', 'completed', '{}', 'chain', 'random', "
        f"'glyphs', 'glyphs 5-way 1-shot', 'maml', 'inline', 0, 1, 'x', '{{}}', '{instant}')"
    )
    trial_row = (
        "INSERT INTO trials (search_id, number, state, attempt, architecture_id, architecture, seed, "
        f"created_at, started_at) VALUES (1, 0, 'running', 0, 1, '0', 0, '{instant}', '{instant}')"
    )
    artifact_row = (
        "INSERT INTO artifacts (trial_id, kind, uri, sha256, bytes, created_at) "
        f"VALUES (1, 'weights', 'a.pt', 'ab', 3, '{instant}')"
    )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        assert "evaluations" not in inspect(connection).get_table_names()
        connection.execute(text(search_row))
        connection.execute(text("INSERT INTO architectures (space, key, text) VALUES ('chain', '0', '0')"))
        connection.execute(text(trial_row))
        connection.execute(text(artifact_row))
    assert upgrade(url) == ("0001", schema.HEAD)
    with Store(url, create=True) as store:
        [kept] = store.artifacts(1)
        assert (kept.trial_id, kept.evaluation_id, kept.uri, kept.bytes) == (1, None, "a.pt", 3)
        assert kept.created_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
        store.add_artifact(1, kind="weights", uri="b.pt", sha256="cd", bytes=4)
        evaluation = claim(store)
        store.evaluations.complete(evaluation.id, trained())
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert connection.execute(text("SELECT trial_id, uri FROM artifacts ORDER BY id")).all() == [
            (1, "a.pt"),
            (1, "b.pt"),
        ]
    assert current(url) == ("0001", schema.HEAD)


def test_supernets_come_and_go_with_their_revision(url: str, engine: Engine) -> None:
    """Every row stays where the trials' table is rebuilt, no id is given twice, and supernets go again."""
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        instant = "'2026-01-01 12:00:00+00:00'"
        connection.execute(
            text(
                "INSERT INTO searches (name, state, config, space, controller, tasks, task_label, learner, "
                "executor, seed, trials, settings, environment, created_at) VALUES ('s', 'completed', '{}', "
                f"'chain', 'random', 'glyphs', 'glyphs', 'maml', 'inline', 0, 3, 'x', '{{}}', {instant})"
            )
        )
        connection.execute(text("INSERT INTO architectures (space, key, text) VALUES ('chain', '0', '0')"))
        for number in range(3):
            connection.execute(
                text(
                    "INSERT INTO trials (search_id, number, state, attempt, architecture_id, architecture, "
                    f"score, seed, observed, created_at, started_at) VALUES (1, {number}, 'completed', 0, 1, "
                    f"'0', 0.5, 9, {number + 1}, {instant}, {instant})"
                )
            )
        connection.execute(text("INSERT INTO measurements VALUES (1, 'loss', 1, 0.25), (2, 'loss', 1, 0.5)"))
        connection.execute(text("DELETE FROM trials WHERE id = 3"))
    assert upgrade(url) == ("0002", schema.HEAD)
    with Store(url, create=True) as store:
        row = store.search("s")
        assert [trial.kind for trial in store.trials(row.id)] == ["evaluate", "evaluate"]
        assert [(m.trial_id, m.value) for m in store.measurements(row.id)] == [(1, 0.25), (2, 0.5)]
        supernet = store.begin(
            row.id,
            NewTrial(
                2, architecture=None, key=None, space="chain", seed=1, attempt=0, supernet={"derive": 1}
            ),
        )
        assert supernet == 4
        store.finish(supernet, outcome(measurements=(Measurement(1, "loss", 1.0),)))
        store.add_artifact(supernet, kind="weights", uri="a.pt", sha256="ab", bytes=3)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
        kept = connection.execute(text("SELECT id, architecture_id, score FROM trials ORDER BY id")).all()
        assert [tuple(row) for row in kept] == [(1, 1, 0.5), (2, 1, 0.5)]
        assert connection.scalar(text("SELECT count(*) FROM measurements")) == 2
        assert connection.scalar(text("SELECT count(*) FROM artifacts")) == 0
    assert upgrade(url) == ("0002", schema.HEAD)
    with Store(url, create=True) as store:
        row = store.search("s")
        store.delete(row.id)
        assert store.searches() == []


def test_a_search_that_an_older_nas_drove_is_upgraded_and_back(url: str, engine: Engine) -> None:
    """Rows keep all they had; what only the newer one knows is empty, and goes again."""
    config = configuration()
    instant = "'2026-01-01 12:00:00+00:00'"
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.execute(
            text(
                "INSERT INTO searches (name, state, config, space, controller, tasks, task_label, learner, "
                "executor, seed, trials, settings, environment, created_at, heartbeat_at, host, pid) VALUES "
                "('s', 'running', '{}', 'chain', 'random', 'glyphs', 'glyphs', 'maml', 'inline', 0, 3, 'x', "
                f"'{{}}', {instant}, {instant}, 'here', 1)"
            )
        )
        before = connection.execute(text("SELECT * FROM searches")).mappings().one()
    assert upgrade(url) == ("0003", schema.HEAD)
    with Store(url, create=True) as store:
        row = store.search("s")
        assert (row.pid, row.note, row.driver, row.plugins) == (1, None, None, None)
        store.annotate(row.id, "half \ud800, byte \0")
        assert store.search("s").note == "half ?, byte ?"
        store.annotate(row.id, None)
        assert store.search("s").note is None
        evaluation = claim(store).id
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        assert connection.execute(text("SELECT * FROM searches")).mappings().one() == before
        assert connection.scalar(text("SELECT id FROM evaluations")) == evaluation


def test_a_trial_of_an_older_nas_is_upgraded_and_back(url: str, engine: Engine) -> None:
    """It keeps its costs; those that were not counted then are empty, and the index goes by them too."""
    config = configuration()
    instant = "'2026-01-01 12:00:00+00:00'"
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        connection.execute(
            text(
                "INSERT INTO searches (name, state, config, space, controller, tasks, task_label, learner, "
                "executor, seed, trials, settings, environment, created_at) VALUES ('s', 'completed', '{}', "
                f"'chain', 'random', 'glyphs', 'glyphs', 'maml', 'inline', 0, 3, 'x', '{{}}', {instant})"
            )
        )
        connection.execute(text("INSERT INTO architectures (space, key, text) VALUES ('chain', '0', '0')"))
        connection.execute(
            text(
                "INSERT INTO trials (search_id, number, state, attempt, architecture_id, architecture, "
                "score, parameters, macs, seconds, seed, observed, created_at, started_at) VALUES "
                f"(1, 0, 'completed', 0, 1, '0', 0.5, 7, 9, 2.5, 3, 1, {instant}, {instant})"
            )
        )
        before = connection.execute(text("SELECT * FROM trials")).mappings().one()
    assert upgrade(url) == ("0004", schema.HEAD)
    with Store(url, create=True) as store:
        row = store.search("s")
        old = columns(store.trial(row.id, 0))
        assert {name: old[name] for name in COSTS} == {
            **dict.fromkeys(COSTS),
            "parameters": 7,
            "macs": 9,
            "seconds": 2.5,
        }
        store.finish(begin(store, row, 1), outcome(0.5, costs={"activations": 2**40, "latency": 0.25}))
        new = store.trial(row.id, 1)
        assert (new.parameters, new.activations, new.latency, new.latency_batch) == (None, 2**40, 0.25, None)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
        rows = connection.execute(text("SELECT * FROM trials ORDER BY id")).mappings().all()
        assert rows[0] == before
        assert rows[1]["score"] == 0.5


def test_a_reused_trial_is_given_the_length_of_its_score_and_back(url: str, engine: Engine) -> None:
    with Store(url, create=True) as store:
        row = search(store)
        store.finish(begin(store, row, 0), outcome(0.5, train_episodes=300))
        begin(
            store, row, 1, key="key0", outcome=outcome(0.5, TrialState.REUSED, reused=0, train_episodes=300)
        )
    config, lengths = configuration(), text("SELECT train_episodes FROM trials ORDER BY number")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0006")
        assert connection.scalars(lengths).all() == [300, 0]
    upgrade(url)
    with engine.connect() as connection:
        assert connection.scalars(lengths).all() == [300, 300]
        found = connection.execute(text("SELECT repeat, asked_episodes, continued_episodes FROM trials"))
        assert set(map(tuple, found)) == {(0, None, None)}


@pytest.mark.parametrize("revision", rest_slow([f"000{number}" for number in range(1, 10)], ("0001", "0009")))
def test_a_search_of_an_older_database_goes_on(tmp_path: Path, revision: str) -> None:
    """As if it had run there in one go: it has its outcomes again, without the settings of today."""
    url, whole = f"sqlite:///{tmp_path}/nas.db", configure(name="s", trials=12)
    config = configuration()
    with Store(f"sqlite:///{tmp_path}/whole.db", create=True) as store:
        expected = run(store, whole)
    with Store(url, create=True) as store:
        run(store, configure(name="s", trials=7))
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        settings = json.loads(connection.scalar(text("SELECT config FROM searches")) or "")
        for name in ("objective", "slots"):
            del settings[name]
        for name in ("max_activations", "max_latency", "max_latency_batch"):
            del settings["constraints"][name]
        del settings["resources"]["latency"]
        connection.execute(text("UPDATE searches SET config = :config"), {"config": json.dumps(settings)})
    engine.dispose()
    assert upgrade(url) == (revision, schema.HEAD)
    with Store(url) as store:
        search = reopen(store, "s", more=5)
        assert search.run(executor(whole, whole.make_tasks())) == "completed"
        assert results(store, "s") == expected


def test_an_evaluation_of_an_older_nas_is_upgraded_and_back(url: str, engine: Engine) -> None:
    """It keeps its costs; those that were not recorded then are empty."""
    with Store(url, create=True) as store:
        older = claim(store).id
        store.evaluations.complete(older, trained(costs={"parameters": 7, "macs": 9}))
        before = columns(store.evaluations.get(older))
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
        kept = connection.execute(text("SELECT * FROM evaluations")).mappings().one()
        assert (kept["parameters"], kept["macs"], kept["test_score"]) == (7, 9, before["test_score"])
        assert before.keys() - kept.keys() == {"activations", "latency", "latency_batch"}
    assert upgrade(url) == ("0005", schema.HEAD)
    with Store(url, create=True) as store:
        assert columns(store.evaluations.get(older)) == before
        newer = claim(store, seed=1).id
        costs = {"parameters": 7, "activations": 2**40, "latency": 0.25}
        store.evaluations.complete(newer, trained(costs=costs))
        found = store.evaluations.get(newer)
        assert (found.macs, found.activations, found.latency, found.latency_batch) == (
            None,
            2**40,
            0.25,
            None,
        )


def test_a_file_belongs_to_a_trial_or_an_evaluation(url: str, engine: Engine) -> None:
    with Store(url, create=True) as store:
        trial, evaluation = begin(store, search(store), 0), claim(store).id
    row = "INSERT INTO artifacts (trial_id, evaluation_id, kind, uri, sha256, bytes, created_at) VALUES "
    for owners in ("NULL, NULL", f"{trial}, {evaluation}"):
        with engine.connect() as connection, pytest.raises(IntegrityError):
            connection.execute(text(f"{row} ({owners}, 'weights', 'a', 'b', 1, '2026-01-01')"))


def test_an_upgrade_that_fails_changes_nothing(url: str, engine: Engine, following: Any) -> None:
    Store(url, create=True).close()
    before = catalogue(engine)
    following("op.execute('SELECT * FROM nowhere')")
    with refusal(StorageError, "nowhere"):
        upgrade(url)
    assert current(url) == (HEAD, "next")
    assert catalogue(engine) == before


def test_a_newer_database_is_refused_and_left_alone(url: str, engine: Engine) -> None:
    Store(url, create=True).close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'beef'"))
    for use in (Store, upgrade):
        with refusal(StorageError, "beef", "pip install --upgrade nas-service"):
            use(url)
    assert current(url) == ("beef", schema.HEAD)


def test_another_program_s_database_is_not_upgraded(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE studies (id INTEGER)"))
    for use in (Store, upgrade, current):
        with refusal(StorageError, "studies"):
            use(url)
    assert inspect(engine).get_table_names() == ["studies"]


def test_what_is_no_url_is_refused() -> None:
    for use in (upgrade, current):
        with refusal(ConfigError, "'nas.db'"):
            use("nas.db")


def test_threads_may_make_databases_at_once(tmp_path: Path) -> None:
    """Alembic keeps the connection that it migrates in a global of its module."""
    together = threading.Barrier(6)

    def make(number: int) -> tuple[str | None, str]:
        together.wait()
        return upgrade(f"sqlite:///{tmp_path}/{number}.db")

    with ThreadPoolExecutor(together.parties) as pool:
        made = list(pool.map(make, range(together.parties)))
    assert made == [(None, HEAD)] * together.parties
    for number in range(together.parties):
        assert current(f"sqlite:///{tmp_path}/{number}.db") == (HEAD, HEAD)
