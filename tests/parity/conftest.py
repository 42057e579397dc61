"""Reference checkpoints for parity: LANGEVIN_REFERENCES names a folder to keep them in, LANGEVIN_HELDOUT a seed for others."""

import os
from pathlib import Path

import pytest

from tests.parity.goldens import Goldens


@pytest.fixture(scope="session")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> Goldens:
    kept = os.environ.get("LANGEVIN_REFERENCES")
    heldout = os.environ.get("LANGEVIN_HELDOUT")
    # several workers of pytest-xdist are one session: their folders of temporary files have one parent
    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.mktemp("goldens")
    folder = Path(kept) if kept else shared / "references"
    return Goldens(folder, int(heldout) if heldout else None)
