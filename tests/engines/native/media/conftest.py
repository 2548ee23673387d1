"""The oracle computes tiny models: a second thread costs it more than it gains."""

import torch

torch.set_num_threads(1)
