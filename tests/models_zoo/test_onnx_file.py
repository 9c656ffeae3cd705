import pytest
import torch

import deltafx
from deltafx.models_zoo.onnx_file import fixed_size, read_onnx
from tests.tiny_onnx import write_tiny_onnx

pytest.importorskip("onnx2torch")


@pytest.fixture
def path(tmp_path):
    return write_tiny_onnx(tmp_path / "tiny.onnx")


def test_any_number_of_streams_although_the_file_fixes_it(path):
    model = read_onnx(path)
    assert not model.training
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 8, 32, 32)
        assert model(torch.randn(3, 3, 40, 56)).shape == (3, 8, 40, 56)


def test_it_converts_without_islands(path):
    """onnx2torch's own modules are looked into: an addition is an addition."""
    model = read_onnx(path)
    dm = deltafx.convert(model, strict=True)
    x = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        for _ in range(3):
            x[1, :, 3:9, 4:7] += 1
            torch.testing.assert_close(dm(x), model(x), rtol=1e-5, atol=1e-5)
    assert deltafx.report(dm)["Conv_1"].operator == "conv2d + add"


def test_sizes_that_the_graph_computes(tmp_path):
    """They are constants once the first frame has told them: a resize is a resize, a concatenation one."""
    model = read_onnx(write_tiny_onnx(tmp_path / "resizes.onnx", resizes=True))
    dm = deltafx.convert(model, strict=True)
    for size in ((24, 32), (16, 20)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            for _ in range(3):
                x[1, :, 3:9, 4:7] += 1
                torch.testing.assert_close(dm(x), model(x), rtol=1e-5, atol=1e-5)
        assert list(dm.parts) == [""]
        operators = [row.operator for row in deltafx.report(dm).nodes]
        assert operators == ["dense_to_delta", "conv2d + relu", "conv2d + add", "max_pool2d", "interpolate", "cat"]
    assert deltafx.report(dm)["Resize_0.interpolate"].reason is None


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        read_onnx(tmp_path / "none.onnx")


def test_not_onnx(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.onnx: not an ONNX file"):
        read_onnx(tmp_path / "text.onnx")


def test_what_onnx2torch_cannot_convert(tmp_path, path):
    import onnx

    model = onnx.load(str(path))
    model.graph.node[1].op_type = "Det"
    onnx.save(model, str(path))
    with pytest.raises(ValueError, match=r"tiny\.onnx: onnx2torch cannot convert it: .*Det"):
        read_onnx(path)


def test_the_size_that_it_was_exported_for(tmp_path):
    assert fixed_size(write_tiny_onnx(tmp_path / "tiny.onnx")) == (32, 32)
