"""The ComfyUI nodes: one file for each, over `janus_core`."""
