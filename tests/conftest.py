import os
import re

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _seeded_fixtures():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    """So that a test does the same alone, after others, and again."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request):
    """Most tests run tensors so small that starting a second thread takes longer than the work."""
    threads = torch.get_num_threads()
    if "networks" not in request.path.parts or "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The tests of a network stay together, in one process: what the dense one gives is computed once for all of them.


def together(nodeid):
    """What a test shares with those that it stays with: in tests/networks file and network, elsewhere nothing."""
    found = re.match(r"(tests/networks/.*)::\w+\[(\w+)", nodeid)
    return found.groups() if found else nodeid


def pytest_collection_modifyitems(items):
    first = {}
    for index, item in enumerate(items):
        first.setdefault(together(item.nodeid), index)
    items.sort(key=lambda item: first[together(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """(Not by `--dist loadgroup`: since pytest 9.2 xdist cannot give its groups to the tests, and says nothing.)"""
    from xdist.scheduler import LoadScopeScheduling

    class KeepTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return str(together(nodeid))

    return KeepTogether(config, log)
