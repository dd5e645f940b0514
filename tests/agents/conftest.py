"""What is recorded for a GPU has all its tensors there; no GPU is needed to see that."""

import warnings

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from rn_rl.agents.program import Program, unchecked

_setup_privateuseone_for_python_backend("elsewhere")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """Every program is also run on tensors of another device, which have no values.

    PyTorch refuses operations on tensors of two devices there as it would on a GPU.
    """
    record = Program._record

    def checked(self, *tensors):
        with (
            FakeTensorMode(),
            torch.enable_grad(),
            unchecked(),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            given = [
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="elsewhere")
                for t in tensors
            ]
            self.function(*given)
        return record(self, *tensors)

    monkeypatch.setattr(Program, "_record", checked)
