"""Weights that are gone: evaluations are trained again, and one is warned beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import nas
from facts import lacking

from nas.cli import messages
from nas.cli.options import artifacts_folder
from nas.storage.store import Store

ASK = (
    *("evaluate", "mlp:maml", "--tasks=sinusoid", "--learner=maml", "--seeds=2", "--executor=inline"),
    *("--train-episodes=10", "--validate-every=5", "--validation-episodes=4", "--set=learner.inner_lr=0.01"),
)


def test_what_has_lost_its_weights_is_trained_again(db: Path, tmp_path: Path, few_test_tasks: int) -> None:
    """One of two: the other is left alone. The same seed finds the same weights."""
    code, out, err = nas(*ASK, "-f", "json")
    assert (code, "--lost-weights" in err) == (0, False)
    with Store(f"sqlite:///{db}") as store:
        [first], [second] = (store.evaluations.artifacts(number) for number in (1, 2))
        before = store.evaluations.get(2)
    Path(first.uri).unlink()
    code, again, err = nas(*ASK, "-f", "json")
    assert (code, lacking(err, "1 evaluation", "--lost-weights")) == (0, [])
    assert json.loads(again) == json.loads(out)
    code, again, err = nas(*ASK, "--lost-weights", "-f", "json")
    assert (code, "--lost-weights" in err) == (0, False)
    [[was], [now]] = json.loads(out), json.loads(again)
    assert now["test_score"] == was["test_score"]
    with Store(f"sqlite:///{db}") as store:
        [anew], [same] = (store.evaluations.artifacts(number) for number in (1, 2))
        assert (anew.uri, anew.sha256) == (first.uri, first.sha256)
        assert anew.id != first.id
        assert (same.id, store.evaluations.get(2).finished_at) == (second.id, before.finished_at)
        assert len(store.evaluations.scores(1)) == few_test_tasks
    assert Path(anew.uri).is_file()
    assert list((tmp_path / "nas-artifacts" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("db_url", "given", "address", "cluster", "warned"),
    [
        ("postgresql://me:secret@host/nas", None, "head:6379", True, True),
        ("postgresql://me@host/nas", Path("/shared"), "head:6379", True, False),
        ("postgresql://me@host/nas", None, None, True, False),
        ("postgresql://me@host/nas", None, "head:6379", False, False),
        ("sqlite:///nas.db", None, "head:6379", True, False),
    ],
)
def test_a_folder_that_others_do_not_see_is_told(
    db_url: str,
    given: Path | None,
    address: str | None,
    cluster: bool,
    warned: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages._asked, "cluster", address)
    target = artifacts_folder(db_url, given, cluster=cluster)
    err = capsys.readouterr().err
    assert bool(err) == warned
    if warned:
        assert lacking(err, target, "--artifacts", "NAS_ARTIFACTS") == []
        assert "secret" not in err
