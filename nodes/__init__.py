"""The ComfyUI side: one file a family of nodes, over `janus_core`."""
