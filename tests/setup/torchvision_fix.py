"""Let torchvision's Python side import beside a torch that its compiled half was not built for (a CPU build).

torchvision registers fakes for two of its operators and fails when nothing has declared them. A `.pth` file imports
this module in the test environment; when torchvision is about to be imported and its compiled half does not load,
the two are declared here.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


class DeclareOperators(MetaPathFinder):
    """Finds nothing: it only sees torchvision's import coming."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        spec = PathFinder.find_spec(name)
        folders = spec.submodule_search_locations if spec else None
        try:
            for library in Path(folders[0]).glob("_C*.so") if folders else ():
                torch.ops.load_library(str(library))
        except OSError:
            for operator in ("nms", "qnms"):
                schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{operator}", schema)


sys.meta_path.insert(0, DeclareOperators())
