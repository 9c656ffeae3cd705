import subprocess
import sys

import pytest

from deltafx import __main__ as main
from deltafx.cli import COMMANDS


def test_help_names_every_command(run):
    done = run("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_exit_codes(run, command):
    done = run(command, "--help")
    assert f"deltafx {command}" in done.out
    assert "Examples" in done.out
    assert "130 interrupted" in " ".join(done.out.split())


def test_without_typer_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("deltafx.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"the command line needs typer: pip install 'deltafx\[demo\]'"):
        main.main()


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deltafx", "--help"], capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout


@pytest.mark.parametrize("command", ["run", "compare", "estimate", "calibrate"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("grey", "cannot run on frames of 96x64, of three colours. Give another --size, or a network for such frames."),
        ("wide", "is called without arguments, and cannot be: missing a required argument: 'width'."),
    ],
)
def test_a_network_that_is_of_no_use_is_one_sentence(run, clip, tmp_path, command, function, message):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef grey(): return nn.Conv2d(1, 4, 3)\ndef wide(width): return nn.Conv2d(3, width, 3)\n"
    )
    more = ["-o", tmp_path / "out.json"] if command == "calibrate" else []
    done = run(command, clip, "--model", f"{tmp_path / 'net.py'}:{function}", *more)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
