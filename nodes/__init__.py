"""The ComfyUI nodes: one file a node, and what they share."""
