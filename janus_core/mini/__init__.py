"""janus-mini, the embedded default: its world, its vocabulary, its first weights and its evaluation."""
