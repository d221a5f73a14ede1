"""From a prompt to picture codes, and from pictures and words to words. Ids and tensors in, ids out."""
