"""Nothing that is read can run code, and no password is written."""

from __future__ import annotations

import ast
import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import SCRIPTED, nas
from databases import server
from facts import refusal
from sqlalchemy import create_engine, make_url, text

from nas.errors import Unreadable
from nas.export.files import load
from nas.storage.engine import _masked, parse, shown
from nas.testing.stores import temporary_schema
from nas.training.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent
PICKLING = ("nas/executors/", "nas/testing/")
"""Where objects of this program go from one of its processes to another, or are tested to."""


class Evil:
    """A pickle of this makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._mark),)


def test_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    mark, model = tmp_path / "owned", tmp_path / "model.pt"
    torch.save({"format": "nas", "weights": Evil(mark)}, model)
    with pytest.raises(Exception, match=r"(?i)weights.?only"):
        torch.load(model, weights_only=True)
    with refusal(Unreadable, model):
        load(model)
    checkpoint = Checkpoint(tmp_path, "evil")
    checkpoint.path.parent.mkdir()
    model.rename(checkpoint.path)
    assert checkpoint.load() is None
    assert not mark.exists()
    torch.load(checkpoint.path, weights_only=False)  # it would have done it
    assert mark.is_dir()


def test_a_configuration_is_data_alone(tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    for number, value in enumerate(
        (f"__import__('os').mkdir('{mark}')", f"!!python/object/apply:os.mkdir ['{mark}']")
    ):
        file = tmp_path / f"{number}.toml"
        file.write_text(f"trials = {value}\n")
        assert nas("run", str(file))[0] == 2
        assert nas("run", *SCRIPTED, f"--set=trials={value}")[0] == 2
        assert nas("run", *SCRIPTED, f"--controller=os:mkdir('{mark}')")[0] == 2
    assert not mark.exists()


def sources() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in the code that is installed, with its file."""
    for folder in ("nas", "search_spaces", "controllers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield str(path.relative_to(ROOT)), node


def test_no_code_reads_what_can_run_code() -> None:
    wrong, safe = [], 0
    for path, call in sources():
        name = ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        where = f"{path}:{call.lineno}: {name}"
        if name == "torch.load":
            safe += 1
            wrong += [] if given.get("weights_only") == "True" else [where]
        elif name == "np.load":
            wrong += [] if given.get("allow_pickle") == "False" else [where]
        elif name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.read_pickle"):
            wrong.append(where)
        elif name.partition(".")[0] in (
            "pickle",
            "cloudpickle",
            "dill",
            "joblib",
            "marshal",
            "shelve",
            "yaml",
        ):
            wrong += [] if path.startswith(PICKLING) or name.endswith("dumps") else [where]
        elif "shell" in given:
            wrong.append(where)
    assert wrong == []
    assert safe >= 3


@pytest.mark.parametrize(
    "where",
    [
        "root:{}@127.0.0.1:1/x",
        "root@127.0.0.1:1/x?password={}",
        "root@h/x?sslpassword={}",
        "root@h/x?password={}&password=b",
    ],
)
def test_a_password_is_masked_as_it_is_typed_and_as_it_is_meant(where: str) -> None:
    typed, meant = "s3cr%40t%2Fx", "s3cr@t/x"
    url = parse(f"postgresql+psycopg://{where.format(typed)}")
    said = f"cannot reach {url.render_as_string(hide_password=False)} with {typed} or {meant}"
    for words in (shown(url), _masked(said, url)):
        assert typed not in words
        assert meant not in words
        assert "127.0.0.1" in words or "@h/" in words


def test_a_password_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the log, where a trial fails and an option is wrong, nor to the database."""
    postgres = server()
    monkeypatch.chdir(tmp_path)
    with temporary_schema(postgres) as url:
        secret = make_url(url).set(password="s3cr@t").render_as_string(hide_password=False)
        fails = ('--set=evaluator.faults={1="raise"}', "--set=retries=0", "--set=max_failed=1")
        printed = "".join(
            "".join(map(str, nas(*words, f"--db={secret}")))
            for words in (
                ("run", *SCRIPTED, *fails, "--trials=2", "--name=s", "--log-format=json"),
                ("resume", "s", "--trials=+1"),
                ("resume", "nothing"),
                ("show", "s", "-f", "json"),
                ("doctor", "-f", "json"),
            )
        )
        engine = create_engine(url)
        with engine.connect() as connection:
            names = connection.scalars(
                text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
            )
            stored = [
                str(row) for name in names for row in connection.execute(text(f'SELECT * FROM "{name}"'))
            ]
        engine.dispose()
    assert len(stored) > 5
    assert "nas resume s" in printed
    for form in ("s3cr@t", "s3cr%40t"):
        assert form not in printed
        assert not any(form in row for row in stored)


def test_what_an_audit_finds_is_judged() -> None:
    judge = runpy.run_path(str(ROOT / "scripts" / "audit.py"))["judge"]
    fine = {"name": "a", "version": "1", "vulns": []}
    flaw = {
        "name": "b",
        "version": "2",
        "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"], "description": ""}],
    }
    unknown = {"name": "c", "skip_reason": "not found"}

    def judged(*packages: object) -> tuple[int, list[str]]:
        found: tuple[int, list[str]] = judge(json.dumps({"dependencies": packages, "fixes": []}))
        return found

    assert judged(fine) == (0, [])
    code, [line] = judged(fine, flaw)
    assert (code, "b 2" in line, "CVE-1" in line, "2.1" in line) == (1, True, True, True)
    code, [line] = judged(fine, unknown)
    assert (code, line.startswith("warning: 1 of 2")) == (0, True)
    for nothing in ("", "ConnectionError: no route", "[]"):
        code, [line] = judge(nothing)
        assert (code, line.startswith("warning: ")) == (0, True)
