"""Where the pack meets ComfyUI: the only package that imports `comfy`, `folder_paths` and `server`."""
