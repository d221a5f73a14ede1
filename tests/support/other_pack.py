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

class AsksCLIP:
    INPUT_TYPES = classmethod(lambda cls: {
        "required": {"clip": ("CLIP",), "prompt": ("STRING", {}), "max_length": ("INT", {"max": 32768})},
        "optional": {"image": ("IMAGE",), "video": ("IMAGE",), "use_default_template": ("BOOLEAN", {})},
        "hidden": {"graph": "PROMPT", "node": "UNIQUE_ID"},
    })
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    def run(self, clip, prompt, max_length, graph, node, image=None, video=None, use_default_template=True):
        given = graph[node]["inputs"]
        sampling = {name[14:]: value for name, value in given.items() if name.startswith("sampling_mode.")}
        what = {"image": image, "video": video, "audio": None, "thinking": False}
        tokens = clip.tokenize(prompt, skip_template=not use_default_template, min_length=1, **what)
        return (clip.decode(clip.generate(tokens, do_sample=bool(sampling), max_length=max_length, **sampling)),)

NODE_CLASS_MAPPINGS = {"Anything": Anything, "Whatever": Whatever, "AsksCLIP": AsksCLIP}
"""
