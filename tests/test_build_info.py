import json

import torch

import deltafx


def test_versions_are_those_that_run():
    info = deltafx.build_info()
    assert info["deltafx"] == deltafx.__version__
    assert info["torch"] == torch.__version__
    json.dumps(info)


def test_every_backend_is_available_or_says_why_not():
    backends = deltafx.build_info()["backends"]
    assert set(backends) == {"reference", "cpu", "cuda"}
    assert backends["reference"] == "available"
    assert all(isinstance(reason, str) and reason for reason in backends.values())


def test_auto_is_a_backend_that_is_available():
    info = deltafx.build_info()
    assert info["backends"][info["auto"]] == "available"
    model = torch.nn.Identity().eval()
    assert deltafx.report(deltafx.convert(model)).backend == info["auto"]


def test_auto_on_a_gpu_is_a_backend_where_there_is_one():
    info = deltafx.build_info()
    chosen = info["auto_on_gpu"]
    assert info["backends"][chosen] == "available" if torch.cuda.is_available() else chosen is None


def test_cuda_is_a_version_or_a_reason():
    if torch.cuda.is_available():
        assert deltafx.build_info()["cuda"] == torch.version.cuda
    else:
        assert deltafx.build_info()["cuda"] == "no CUDA device is visible"
