"""Settings for all tests."""

import torch

torch.set_num_threads(1)  # threads do not help tiny models, and slow them down on a busy machine
