import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request):
    """Most tests run tensors so small that starting a second thread takes longer than the work."""
    threads = torch.get_num_threads()
    if "networks" not in request.path.parts or "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
