"""What workers print: kept in files, told by `nas logs`, deleted by `nas clean`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from facts import lacking

from nas.executors.output import log_of, logs, of_trials, written_to
from nas.storage.store import Store
from nas.testing.toys import Toy

PRINTS = [option for option in SCRIPTED if not option.startswith("--executor")] + [
    "--set=evaluator.prints=a word of its own",
    '--set=evaluator.faults={1="kill"}',
    "--set=evaluator.once=true",
    "--trials=3",
    "--name=s",
]


def test_what_a_process_and_its_children_write_is_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "0.0.log"
    for word in ("first", "second"):
        with written_to(str(file)):
            os.write(1, f"{word} to stdout\n".encode())
            os.write(2, f"{word} to stderr\n".encode())
            subprocess.run(["echo", f"echo of {word}"], check=True)
    lines = ["{} to stdout", "{} to stderr", "echo of {}"]
    told = [line.format(word) for word in ("first", "second") for line in lines]
    assert file.read_text().splitlines() == told
    os.write(1, b"not this\n")
    assert "not this" not in file.read_text()


def test_who_prints_nothing_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "0.0.log"
    with pytest.raises(ValueError, match="of the block: True"), written_to(str(file)):
        raise ValueError(f"of the block: {file.exists()}")
    assert not file.exists()
    (tmp_path / "file").write_text("")
    with written_to(str(tmp_path / "file" / "0.0.log")), written_to(None):
        os.write(1, b"where it went before\n")


def test_files_are_in_the_order_of_trials_and_attempts(tmp_path: Path) -> None:
    group = of_trials(tmp_path, "s")
    group.mkdir(parents=True)
    for job, attempt in (("10", 0), ("9", 11), ("9", 2), ("0", 0)):
        Path(log_of(group, job, attempt)).write_text("x")
    (group / "other.log").write_text("x")
    assert [(log.job, log.attempt) for log in logs(group)] == [("0", 0), ("9", 2), ("9", 11), ("10", 0)]


RAY = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=RAY)])
def test_what_workers_print_is_told_and_deleted(db: Path, executor: str) -> None:
    code, _, err = nas("run", *PRINTS, f"--executor={executor}", "--workers=1")
    assert code == 0, err
    assert "a word of its own" not in err
    assert "`nas logs s/1`" in err
    code, out, err = nas("logs", "s")
    assert (code, out.count("a word of its own\n")) == (0, 4)
    Path(log_of(of_trials(db.parent / "nas-artifacts", "s"), "0", 1)).touch()  # as a killed worker leaves it
    assert "s/0, attempt 1" not in nas("logs", "s")[2]
    assert lacking(err, "s/0, attempt 0", "s/1, attempt 0", "s/1, attempt 1", "s/2, attempt 0") == []
    assert nas("logs", "s/2")[1] == "a word of its own\n"
    code, _, err = nas("logs", "s/7")
    assert (code, lacking(err, "s", "7")) == (3, [])
    code, _, err = nas("clean", "s", "--yes")
    assert (code, lacking(err, "5 of log")) == (0, [])
    code, _, err = nas("logs", "s")
    assert (code, lacking(err, "--artifacts", "nas-artifacts")) == (3, [])


def test_a_trial_that_was_reused_has_the_words_of_the_first_one(db: Path, tmp_path: Path) -> None:
    fixed = [option for option in SCRIPTED if not option.startswith("--controller")]
    twice = f"--set=controller.architectures={json.dumps([Toy().encode(Toy().default)] * 2)}"
    made = ("--controller=fixed", twice, "--trials=2", "--name=s")
    assert (code := nas("run", *fixed, *made))[0] == 0, code
    with Store(f"sqlite:///{db}") as store:
        assert store.trial(store.search("s").id, 1).reused == 0
    group = of_trials(tmp_path / "nas-artifacts", "s")
    group.mkdir(parents=True)
    Path(log_of(group, "0", 0)).write_text("words\n")
    assert nas("logs", "s/1")[1] == "words\n"
    assert nas("rm", "s", "--yes")[0] == 0
    assert not group.exists()
