"""Another pack's nodes, of a kind that many packs have: their output fits every input, lists of names included."""

ANYTHING = """
import torch

class Fits(str):
    def __ne__(self, other):
        return False

class Anything:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("STRING", {})}})
    RETURN_TYPES = (Fits("*"),)
    FUNCTION = "run"

    def run(self, value):
        return (value,)

class Whatever(Anything):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*", {})}})

    def run(self, value):
        if isinstance(value, dict) and value.keys() & {"tensor", "shape"}:
            value = torch.zeros(value.get("shape", value.get("tensor")))
        return (value,)

NODE_CLASS_MAPPINGS = {"Anything": Anything, "Whatever": Whatever}
"""
