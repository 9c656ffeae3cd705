import pytest
import torch
from torchvision import models

from deltafx import Preprocess, networks
from deltafx.networks import load_network
from tests.tiny_onnx import write_tiny_onnx


@pytest.fixture
def offline(monkeypatch):
    """The hub cannot be reached."""
    build = models.get_model

    def get_model(name, weights, weights_backbone=None):
        if weights is not None or weights_backbone is not None:
            raise OSError("<urlopen error no route>")
        return build(name, weights=None, **({"weights_backbone": None} if "lraspp" in name else {}))

    monkeypatch.setattr(models, "get_model", get_model)


def test_torchvision_without_weights_says_so(offline):
    network = load_network("squeezenet1_1")
    assert network.note.startswith("random weights, since none could be fetched (<urlopen error no route>)")
    assert network.preprocess == networks.IMAGENET
    with torch.no_grad():
        logits = network.model(torch.randn(2, 3, 96, 96))
    assert 0.05 < logits.std() < 20  # scaled, not what initialisation gives
    other = load_network("squeezenet1_1").model.state_dict()
    torch.testing.assert_close(dict(network.model.state_dict()), dict(other), rtol=0, atol=0)


def test_what_a_download_says_is_no_result(capsys):
    def build(weights):
        print("Downloading:")
        return torch.nn.Conv2d(3, 1, 1)

    networks.pretrained(build)
    assert capsys.readouterr() == ("", "Downloading:\n")


def test_without_weights_for_the_backbone_either(offline):
    assert load_network("lraspp_mobilenet_v3_large").note.startswith("random weights")


def test_torchvision_with_weights(monkeypatch):
    monkeypatch.setattr(models, "get_model", lambda name, weights=None: torch.nn.Identity() if weights else None)
    assert load_network("resnet18").note is None


def test_onnx(tmp_path):
    pytest.importorskip("onnx2torch")
    path = str(write_tiny_onnx(tmp_path / "tiny.onnx"))
    network = load_network(path)
    assert (network.name, network.fit(100, 300)) == ("tiny.onnx", (96, 288))
    assert "RGB in 0..1" in network.note
    given = load_network(path, Preprocess((0.5,), (0.5,)))
    assert (given.preprocess, given.note) == (Preprocess((0.5,), (0.5,)), None)


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match="networks of timm need it: pip install timm"):
        load_network("timm:resnet18")


def test_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: build(name, pretrained=pretrained and fail()))
    build = timm.create_model.__globals__.get("timm").models.create_model

    def fail():
        raise RuntimeError("no pretrained weights exist")

    network = load_network("timm:resnet10t")
    assert network.preprocess.mean == (0.485, 0.456, 0.406)
    assert "no pretrained weights exist" in network.note


def test_unknown():
    with pytest.raises(ValueError, match=r"unknown network 'resnet19'\. Did you mean 'resnet1"):
        load_network("resnet19")


@pytest.mark.parametrize(("size", "fitted"), [((300, 400), (288, 384)), ((1, 1), (32, 32)), ((320, 640), (320, 640))])
def test_frames_are_fitted_to_the_stride(size, fitted):
    assert networks.Network("n", torch.nn.Identity(), networks.UNIT, stride=32).fit(*size) == fitted


@pytest.mark.parametrize(("name", "takes"), [("raft_small", "two pictures"), ("r3d_18", "clips")])
def test_what_takes_more_than_a_picture(name, takes):
    with pytest.raises(
        ValueError, match=f"{name} takes {takes}, not a picture; in Python, deltafx.convert converts it"
    ):
        load_network(name)


def test_a_detector_takes_a_batch(monkeypatch):
    class Detector(torch.nn.Module):
        def forward(self, pictures):
            return [{"boxes": x[0, :2, :4], "scores": x[0, 0, :2], "labels": torch.ones(2)} for x in pictures]

    monkeypatch.setattr(models, "get_model", lambda name, weights=None: Detector())
    network = load_network("ssd300_vgg16")
    batch = torch.rand(2, 3, 8, 8)
    first = network.meaning(network.model(batch))
    assert torch.equal(first.boxes, batch[0, 0, :2, :4])
    assert len(network.postprocess(network.model(batch))) == 2
    assert network.fit(301, 203) == (301, 203)


FILE = """
import torch
from deltafx.networks import Network, UNIT

def model():
    return torch.nn.Conv2d(3, 2, 1).train()

def network():
    return Network("mine", model().eval(), UNIT, stride=16)

def nothing():
    return 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


def test_a_function_in_a_file_gives_a_model(file):
    network = load_network(f"{file}:model")
    assert not network.model.training
    assert (network.preprocess, network.stride) == (networks.UNIT, 1)
    assert "--mean and --std" in network.note
    other = Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (load_network(f"{file}:model", other).preprocess, load_network(f"{file}:model", other).note) == (other, None)


def test_a_function_in_a_file_gives_a_network(file):
    network = load_network(f"{file}:network")
    assert (network.name, network.stride, network.note) == ("mine", 16, None)


def test_what_a_file_does_not_give(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.py: no such file"):
        load_network(f"{tmp_path / 'none.py'}:model")
    with pytest.raises(ValueError, match=r"unknown function in .*'modle'\. Did you mean 'model'"):
        load_network(f"{file}:modle")
    with pytest.raises(ValueError, match=r"returned int; a torch\.nn\.Module or a Network is expected"):
        load_network(f"{file}:nothing")
