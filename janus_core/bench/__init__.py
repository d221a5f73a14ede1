"""`python -m janus_core bench`: our sampler beside the original's loop, transformers' own Janus, and the floor."""
