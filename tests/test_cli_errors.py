"""What the command line refuses: it says what, where and what is allowed, and leaves all as it was."""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import SCRIPTED, nas
from facts import lacking

from nas.cli.options import DEFAULT_DB
from nas.storage.store import Store

RUN = ("run", *SCRIPTED, "--trials=8")


def test_a_resume_that_cannot_start_adds_no_trials(db: Path) -> None:
    nas(*RUN, "--name=s", "--executor=inline")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE searches SET config = replace(config, '\"maml\"', '\"gone\"')")
    assert nas("resume", "s", "--trials=+4")[0] == 2
    assert json.loads(nas("ls", "-f", "json")[1])[0]["trials"] == 8


def test_tasks_that_changed_are_refused(db: Path) -> None:
    nas(*RUN, "--name=s")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE searches SET environment = replace(environment, 'sinusoid', 'cosinusoid')")
    code, _, err = nas("resume", "s", "--trials=+4")
    assert (code, lacking(err, "'s'", "sinusoid")) == (2, [])


def test_numbers_beyond_the_database(db: Path) -> None:
    nas(*RUN, "--name=s")
    for arguments in (
        ["leaderboard", "--limit=99999999999999999999"],
        ["leaderboard", "--max-parameters=99999999999999999999"],
        ["show", "s/99999999999999999999"],
        ["resume", "s", "--trials=+99999999999999999999"],
    ):
        assert nas(*arguments)[0] == 2, arguments


def test_an_empty_name_is_none(db: Path) -> None:
    code, _, err = nas(*RUN, "--resume-or-start=")
    assert (code, lacking(err, "name", "''")) == (2, [])


@pytest.mark.parametrize("option", ["--slot learner.lr", "--set tasks.ways"])
def test_what_gives_no_value_is_told_by_its_own_option(db: Path, option: str) -> None:
    code, _, err = nas(*RUN, *option.split())
    assert (code, lacking(err, option, "KEY=VALUE")) == (2, [])


def test_stop_of_a_search_that_does_not_run(db: Path) -> None:
    nas(*RUN, "--name=s")
    code, _, err = nas("stop", "s")
    assert (code, lacking(err, "'s'")) == (2, [])


@pytest.mark.parametrize("url", ["sqlite:///other.db", DEFAULT_DB])
def test_a_command_in_a_message_asks_the_same_database(db: Path, url: str) -> None:
    """NAS_DB names another one, and a command without --db would ask that."""
    end = nas(*RUN, "--name=s", f"--db={url}")[2]
    for words in (end.splitlines()[-1], nas("stop", "s", f"--db={url}")[2]):
        assert words.endswith(f" --db {url}`")
    assert "--db" not in nas(*RUN, "--name=s")[2]


def test_rm_asks_first(db: Path) -> None:
    nas(*RUN, "--name=s")
    code, _, err = nas("rm", "s")
    assert (code, "--yes" in err) == (2, True)
    assert nas("rm", "s", "--yes")[0] == 0
    assert json.loads(nas("ls", "-f", "json")[1]) == []


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 2, 1), ("s", 2, 1), ("y", 0, 0), ("Yes", 0, 0)])
def test_rm_deletes_if_the_answer_is_yes(
    db: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    nas(*RUN, "--name=s")
    monkeypatch.setattr("nas.cli.run.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr("typer.prompt", lambda *_, **__: answer)
    ended, _, err = nas("rm", "s")
    assert (ended, "error: " in err) == (code, code == 2)
    assert len(json.loads(nas("ls", "-f", "json")[1])) == left


def test_rm_refuses_a_running_search_before_it_asks(db: Path) -> None:
    nas(*RUN, "--name=s")
    with Store(DEFAULT_DB) as store:
        store.acquire(store.search("s").id)
        code, _, err = nas("rm", "s")
    assert (code, "nas watch s" in err, "--yes" in err) == (2, True, False)


def test_an_interrupt_before_anything_is_written_names_what_to_do(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    nas(*RUN, "--name=s")
    before = json.loads(nas("ls", "-f", "json")[1])
    monkeypatch.setattr("nas.verbs.ready", interrupted)
    command = ["resume", "s", "--trials", "+2"]
    monkeypatch.setattr(sys, "argv", ["nas", *command])
    code, _, err = nas(*command)
    assert code == 130
    assert err.splitlines()[-1].endswith("`nas resume s --trials +2`")
    assert json.loads(nas("ls", "-f", "json")[1]) == before
    command = [*RUN, "--name=t"]
    monkeypatch.setattr(sys, "argv", ["nas", *command])
    code, _, err = nas(*command)
    assert code == 130
    assert err.splitlines()[-1].endswith(f"`{shlex.join(['nas', *command])}`")
    assert json.loads(nas("ls", "-f", "json")[1]) == before


@pytest.mark.parametrize("reference", ["", "@first", "s"])
def test_rm_wants_the_whole_name(db: Path, reference: str) -> None:
    nas(*RUN, "--name=search")
    assert nas("rm", reference, "--yes")[0] in (2, 3)
    assert len(json.loads(nas("ls", "-f", "json")[1])) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--space=nasbench210"], 2, "'nasbench201'"),
        (["--controller=evolutoin"], 2, "'evolution'"),
        (
            ["--controller=random", "--derive=2"],
            2,
            "'random'",
        ),
        (
            ["--set=controller.derive=2"],
            2,
            "'evolution'",
        ),
        (["--controller=evolutoin", "--derive=2"], 2, "'evolution'"),
        (["--space=nasbench201"], 2, "'nasbench201'"),
        (["--space=nasbench201", "--controller=darts"], 2, "'nasbench201'"),
        (["--tasks=omniglo"], 2, "'omniglot'"),
        (["--learner=mamll"], 2, "'maml'"),
        (["--set=budgett.train_episodes=3"], 2, "'budget'"),
        (["--set=budget.train_episode=3"], 2, "'train_episodes'"),
        (["--set=tasks.shotz=3"], 2, "'shots'"),
        (["--set=controller.sample=99"], 2, "controller.sample"),
        (["--set=controller.sample=many"], 2, "controller.sample"),
        (["--set=budget.train_episodes=soon"], 2, "budget.train_episodes"),
        (["--set=budget.train_episodes=0"], 2, "budget.train_episodes"),
        (["--set=tasks.shots=0"], 2, "tasks.shots"),
        (["--set=tasks"], 2, "KEY=VALUE"),
        (["--trials=0"], 2, "trials"),
        (["--trials=-3"], 2, "trials"),
        (["--seed=-1"], 2, "seed"),
        (["--workers=0"], 2, "workers"),
        (["--workers=2"], 2, "--executor process or ray"),
        (["--executor=slurm"], 2, "executor"),
        (["--scheduler=hyperbnd"], 2, "hyperband"),
        (["--scheduler=asha", "--set=scheduler.minimum=900"], 2, "scheduler.minimum"),
        (["--name=a b"], 2, "name"),
        (["--learner=prototypical"], 2, "prototypical"),
        (["--tasks=glyphs", "--set=tasks.ways=5000"], 2, "tasks.ways"),
        (["--tasks=glyphs", "--set=tasks.shots=50"], 2, "tasks.shots"),
        (["--tasks=image_folder", "--set=tasks.path=nowhere"], 2, "nowhere"),
        (["--space=nowhere:Nothing"], 2, "nowhere:Nothing"),
        (["--controller=pathlib:Path"], 2, "Controller"),
        (["--evaluator=pathlib:Path"], 2, "Evaluator"),
        (["--set=space=3"], 2, "space:"),
        (["--set=tasks=[1, 2]"], 2, "tasks:"),
        (["--set=learner.lr=inf"], 2, "learner.lr"),
        (["--set=learner.lr=nan"], 2, "learner.lr"),
        (["--trials=99999999999999999999"], 2, "trials"),
        (["--set=budget.train_episodes=99999999999999999999"], 2, "budget.train_episodes"),
        (["--set=resources.cpus=100000"], 2, "resources.cpus"),
        (["nowhere.toml"], 3, "nowhere.toml"),
        (["--db=sqlite:////no/such/folder/nas.db"], 4, "folder"),
        (["--db=mysql://x"], 2, "sqlite:///"),
        (["--db=sqlite:///caf\udce9.db"], 2, "sqlite:///"),
        (["--tasks=image_folder", "--set=tasks.path=caf\udce9"], 2, r"caf\xe9"),
        (["--tasks=image_folder", "--set=tasks.path=."], 2, "tasks.path"),
        (["--executor=ray", "--ray-address=127.0.0.1:1"], 2, "127.0.0.1:1"),
        (["--db=postgresql+psycopg://nobody:secret@127.0.0.1:1/none"], 4, "127.0.0.1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_says_what_where_and_what_is_allowed(
    db: Path, arguments: list[str], code: int, words: str
) -> None:
    got, out, err = nas(*RUN, *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "secret" not in err
    assert "Traceback" not in err
    if db.exists():
        assert json.loads(nas("ls", "-f", "json")[1]) == []


def test_missing_data_names_the_fetch_command(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_DATA", str(tmp_path / "empty"))
    code, _, err = nas(*RUN, "--tasks=omniglot")
    assert (code, "nas data fetch omniglot" in err) == (3, True)


def test_a_name_is_given_once(db: Path) -> None:
    assert nas(*RUN, "--name=s")[0] == 0
    code, _, err = nas(*RUN, "--name=s")
    assert (code, "nas resume s" in err) == (2, True)
    assert json.loads(nas("ls", "-f", "json")[1])[0]["done"] == 8


@pytest.mark.parametrize("verb", ["resume", "show", "stop", "rm"])
def test_an_unknown_search(db: Path, verb: str) -> None:
    nas(*RUN, "--name=first-search")
    code, _, err = nas(verb, "firts-search")
    assert (code, "first-search" in err) == (3, True)


@pytest.mark.parametrize("verb", [["plot", "--text"], ["compare"], ["resume"], ["stop"]])
def test_a_trial_where_a_search_is_meant(db: Path, verb: list[str]) -> None:
    nas(*RUN, "--name=s", "--trials=1")
    code, out, err = nas(verb[0], "s/0", *verb[1:])
    assert (code, out, "nas show s/0" in err) == (3, "", True)


@pytest.mark.parametrize("verb", [["ls"], ["leaderboard"], ["show", "x"], ["resume", "x"]])
def test_no_database_yet(db: Path, verb: list[str]) -> None:
    code, _, err = nas(*verb)
    assert (code, "nas run" in err) == (3, True)
    assert not db.exists()


def test_other_databases_of_the_folder_are_named_where_one_is_missing(db: Path) -> None:
    nas(*RUN, "--trials=1", "--db=sqlite:///my own.db")
    code, _, err = nas("ls", "--db=sqlite:///nas.db")
    assert (code, "--db 'sqlite:///my own.db'" in err) == (3, True)
    assert not db.exists()


def test_a_database_that_is_none(db: Path) -> None:
    db.write_bytes(b"this is a letter, not a database, and long enough to tell" * 20)
    code, _, err = nas(*RUN)
    assert (code, str(db) in err) == (4, True)


def test_a_newer_database(db: Path) -> None:
    nas(*RUN)
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, _, err = nas("ls")
    assert code == 4
    assert "9999" in err


def test_a_locked_database(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage.engine.BUSY_SECONDS", 0.1)
    nas(*RUN, "--name=s")
    with sqlite3.connect(db, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, _, err = nas("resume", "s", "--trials=+1")
        other.execute("ROLLBACK")
    assert (code, "locked" in err) == (4, True)
    assert nas("resume", "s", "--trials=+1")[0] == 0


def test_errors_leave_with_their_code_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nas", *RUN, "--space=nope", f"--db=sqlite:///{tmp_path}/nas.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert lacking(done.stderr, "'nope'") == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--trials=two"], '"two"'),
        (["evaluate", "--seeds=0"], '"0"'),
        (["ls", "--format=yaml"], "'yaml'"),
        (["leaderboard", "--max-latency=-1"], '"-1"'),
    ],
)
def test_a_wrong_option_is_refused_in_the_words_of_a_setting(arguments: list[str], words: str) -> None:
    code, _, err = nas(*arguments)
    assert (code, words in " ".join(err.replace("│", " ").split())) == (2, True)
    assert not any(word in err for word in ("Input should", "Value error"))


def test_the_files_of_searches_and_benchmarks_are_told_apart(db: Path, tmp_path: Path) -> None:
    several, single = tmp_path / "several.toml", tmp_path / "single.toml"
    several.write_text('controllers = ["random"]')
    single.write_text('space = "mlp"')
    code, _, err = nas("run", str(several))
    assert (code, f"nas benchmark {several}" in err) == (2, True)
    code, _, err = nas("benchmark", str(single))
    assert (code, lacking(err, "controllers", "nas run")) == (2, [])


def test_a_misspelt_setting_of_a_section_within_a_section(db: Path) -> None:
    code, _, err = nas(*RUN, "--controller=darts", "--set=controller.budget.epoch=2")
    assert (code, lacking(err, "controller.budget.epoch")) == (2, [])
    assert lacking(err, "epochs", "steps", "batch", "validation_episodes") == []
