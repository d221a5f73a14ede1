"""Starts test_cluster.py where Ray is: `make test` puts it into the cache, apart from the test environment."""

import os

import pytest
from own_process import run_tests
from prepare import ray_folder


@pytest.mark.slow
def test_a_cluster_of_two_workers() -> None:
    folder = ray_folder()
    if not folder.is_dir():
        pytest.skip("Ray is not here: make test fetches it where the package index has it, which needs 600 MB")
    paths = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    run_tests("ray/test_cluster.py", PYTHONPATH=paths, OMP_NUM_THREADS="1", WITH_RAY="1")
