import importlib

import pytest


def test_refuses_to_be_a_top_level_package(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath)
    with pytest.raises(ImportError, match=r"this folder is the package deltafx\.models_zoo"):
        importlib.import_module("models_zoo")
