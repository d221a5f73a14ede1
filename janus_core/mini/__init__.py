"""janus-mini, the embedded default: its world, its words, its first weights and its evaluation."""
