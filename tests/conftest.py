from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: test processes share the cores

import pytest

pytest.register_assert_rewrite("nas.testing")


@pytest.fixture(scope="session")
def nas_data() -> Path:
    """The folder with real data; tests that need it are skipped elsewhere."""
    folder = os.environ.get("NAS_DATA")
    if not folder:
        pytest.skip("needs real data: set NAS_DATA")
    return Path(folder)
