"""Worker processes and what is known of the code they run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.evaluation import code as sources
from nas.evaluation.processes import default_workers
from nas.settings.evaluation import validate


@pytest.mark.parametrize(("gpus", "workers"), [(0, 16), (1, 1), (4, 4)])
def test_a_gpu_is_not_shared_unless_it_is_asked_for(
    gpus: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert default_workers(cores=16) == workers


def test_another_state_of_the_code_is_told_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "anothers"
    package.mkdir()
    (package / "__init__.py").write_text("")

    def code(space: str) -> str:
        sources._of_package.cache_clear()
        return sources.code(validate({"space": space, "tasks": "sinusoid", "learner": "maml"}))

    ours = code("mlp")
    assert code("mlp") == ours
    class_of_theirs = "class Space(Mlp):\n    name = 'theirs'\n"
    (package / "theirs.py").write_text(f"from search_spaces.mlp import Mlp\n{class_of_theirs}")
    theirs = code("anothers.theirs:Space")
    assert theirs != ours
    (package / "helper.py").write_text("# what it may import\n")
    assert code("anothers.theirs:Space") != theirs
    assert code("mlp") == ours
