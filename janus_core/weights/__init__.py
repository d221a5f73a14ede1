"""Checkpoints on disk: find, read, download and write them; and LoRA files."""
