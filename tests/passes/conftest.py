import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """The networks are tiny: handing work to threads takes longer than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
