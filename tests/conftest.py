"""For all tests."""

import torch

torch.set_num_threads(1)  # tiny models gain nothing from threads, and lose much when the machine is busy
