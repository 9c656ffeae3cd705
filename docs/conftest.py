"""The examples in these pages run as tests; those of one page share their names."""

import contextlib
import tempfile

import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def setup(namespace):
    """Frames are small, and what an example writes belongs nowhere."""
    held = namespace["held"] = contextlib.ExitStack()
    held.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)
    held.enter_context(contextlib.chdir(held.enter_context(tempfile.TemporaryDirectory())))


def teardown(namespace):
    namespace["held"].close()


parsers = [PythonCodeBlockParser(), SkipParser()]
pytest_collect_file = Sybil(parsers=parsers, patterns=["*.md"], setup=setup, teardown=teardown).pytest()
