"""A checkpoint on disk: found, read, fetched, written; and LoRA files."""
