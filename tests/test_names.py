"""Names of searches: how long they may be, and those that look like numbers or nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import refusal
from scripted_searches import configure

from nas.controller import TrainSupernet
from nas.driver.records import Records, checkpoints
from nas.errors import ConfigError
from nas.storage.names import LONGEST, checked, default, free
from nas.storage.store import Store
from nas.testing.stores import search
from nas.training.checkpoint import Checkpoint

ODD = ("0", "1e5", "null")


def test_the_longest_name_fits_in_all_that_is_named_after_it(tmp_path: Path) -> None:
    name = "x" * LONGEST
    with refusal(ConfigError, LONGEST):
        checked(name + "x")
    config = configure(name=checked(name))
    records = Records(name, config, config.make_space(), tmp_path, {})
    job = records.supernet(2**31 - 1, TrainSupernet("enas"))
    checkpoint = Checkpoint(tmp_path, job.name)
    checkpoint.save({})
    assert [found.path for found in checkpoints(tmp_path, name)] == [checkpoint.path]


def test_a_name_made_from_long_parts_is_cut(store: Store) -> None:
    long = "package.of." * 20 + "module:Class"
    names = [search(store, space=long).name for _ in range(12)]
    assert len(set(names)) == 12
    assert all(len(checked(name)) <= LONGEST for name in names)
    assert len(free(default(long), {default(long)})) <= LONGEST


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('names')}/nas.db"
    for name in ODD:
        assert nas("run", *SCRIPTED, "--trials=2", "--name", name, "--db", url)[0] == 0
    return url


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_looks_like_a_number_is_one_of_a_search(db: str, name: str) -> None:
    for target in (name, f"{name}/1"):
        code, out, _ = nas("show", target, "-f", "json", "--db", db)
        assert (code, json.loads(out)["search"]) == (0, name)
    out = nas("leaderboard", "--search", name, "-f", "ndjson", "--db", db)[1]
    assert {json.loads(line)["search"] for line in out.splitlines()} == {name}
    assert [group["searches"] for group in json.loads(nas("compare", name, "-f", "json", "--db", db)[1])]
    assert nas("plot", name, "--text", "--db", db)[0] == 0


def test_every_format_prints_names_as_they_are(db: str) -> None:
    newest = list(reversed(ODD))
    forms = ("json", "ndjson", "csv", "markdown", "table")
    printed = {form: nas("ls", "-f", form, "--db", db)[1] for form in forms}
    assert [row["search"] for row in json.loads(printed["json"])] == newest
    assert [json.loads(line)["search"] for line in printed["ndjson"].splitlines()] == newest
    assert [row["search"] for row in csv.DictReader(io.StringIO(printed["csv"]))] == newest
    assert [line.split("|")[1].strip() for line in printed["markdown"].splitlines()[2:]] == newest
    assert [line.split()[0] for line in printed["table"].splitlines()[1:]] == newest
