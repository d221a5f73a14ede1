"""Lists on a cluster. test_with_ray.py starts the other file in a process that has Ray."""

import os

if "WITH_RAY" not in os.environ:
    collect_ignore = ["test_cluster.py"]
