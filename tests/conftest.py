"""Settings for the whole suite."""

import torch

# Test tensors are tiny: threads cost more than they give, and workers of xdist share the cores.
torch.set_num_threads(1)
