"""Training and fine-tuning of any Janus."""
