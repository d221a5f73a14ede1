"""The embedded default: a world of drawn shapes, a miniature Janus trained in it, and how well it does there."""
