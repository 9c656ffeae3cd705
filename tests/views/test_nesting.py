import pytest

from deltafx.views.nesting import groups_of, label_of, parts_of


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("conv", ("conv",)),
        ("layer1.0.conv", ("layer1", "0", "conv")),
        ("block/Conv", ("block", "Conv")),
        ("dense_to_delta.x", ("dense_to_delta.x",)),
        ("dense_to_delta.head.x", ("head", "dense_to_delta.x")),
        ("head.conv#2@2", ("head", "conv#2@2")),
    ],
)
def test_parts_of_a_path(path, parts):
    assert parts_of(path) == parts


def test_groups_are_modules_with_several_nodes():
    paths = ["stem", "body.0.a", "body.0.b", "body.1.only", "tail.deep.a", "tail.deep.b"]
    groups = groups_of(paths)
    assert groups["stem"] == ()
    assert groups["body.0.a"] == ("body", "0")
    assert groups["body.1.only"] == ("body",)
    assert groups["tail.deep.a"] == ("tail.deep",)
    assert [label_of(path, groups[path]) for path in paths] == ["stem", "a", "b", "1.only", "a", "b"]


def test_a_module_around_everything_is_no_group():
    groups = groups_of(["net.a.x", "net.a.y", "net.b"])
    assert groups == {"net.a.x": ("net.a",), "net.a.y": ("net.a",), "net.b": ()}


def test_labels_keep_slashes():
    groups = groups_of(["first/Conv", "second/Conv"])
    assert label_of("first/Conv", groups["first/Conv"]) == "first/Conv"
