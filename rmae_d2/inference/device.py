"""Where a model runs."""

import torch


def pick_device(name: str) -> torch.device:
    """``auto`` is this process's GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        # The launcher's choice; without a GPU whoever uses the device says so.
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
        return torch.device("cuda", index)
    return torch.device(name)
