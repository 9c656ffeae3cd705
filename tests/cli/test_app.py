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
