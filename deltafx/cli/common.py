"""What the commands share: options, errors as one sentence, exit codes, progress."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deltafx.errors import ConvertError, FrameError
from deltafx.models_zoo.assets import AssetError
from deltafx.networks import Network, statistics_of
from deltafx.plain_json import to_json
from deltafx.preprocess import Preprocess
from deltafx.video import Video

FAILED, PARTIAL, INTERRUPTED = 1, 3, 130  # exit codes; 2 is typer's for arguments it does not take
EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, with the reason; 2 wrong arguments; 3 ended early, what was done is kept; "
    "130 interrupted."
)

messages = Console(stderr=True, highlight=False)  # standard output is for results


class Mode(str, Enum):
    exact = "exact"
    balanced = "balanced"
    fast = "fast"


MODEL_HELP = "centerface, mobilenet_v2, a name of torchvision, timm:NAME, FILE.onnx, or FILE.py:FUNCTION"


def models_like(start: str) -> list[str]:
    """The names that a network's can be completed to."""
    from deltafx import models_zoo

    names = list(models_zoo.NAMES)
    with contextlib.suppress(ImportError):
        from torchvision import models

        names += [name for name in models.list_models() if name not in names]
    return [name for name in names if name.startswith(start)]


def calibrations_like(start: str) -> list[str]:
    """The calibrations of the zoo; a shell completes names of files by itself."""
    from deltafx import models_zoo

    return [name for name in models_zoo.calibrated() if name.startswith(start)]


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completes an option that takes one of these."""

    def complete(start: str) -> list[str]:
        return [name for name in names if name.startswith(start)]

    return complete


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=models_like)]
ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, autocompletion=models_like)]
ModeOption = Annotated[Mode, typer.Option("--mode", help="what counts as changed")]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        "--threshold", metavar="FILE", autocompletion=calibrations_like,
        help="a calibration instead of a mode: what `deltafx calibrate` wrote, or the name of a network of the zoo",
    ),
]  # fmt: skip
FramesOption = Annotated[int | None, typer.Option("--frames", "-n", min=2, help="how many frames; all by default")]
ClipOption = Annotated[
    str | None,
    typer.Option("--clip", help="a video file, a camera's number or a stream's URL; without it a made-up scene"),
]
FewFramesOption = Annotated[int, typer.Option("--frames", "-n", min=2, help="how many frames")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="the result as JSON on standard output, and nothing else there")
]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="resize the frames; by default the video's own size")
]
MeanOption = Annotated[
    str | None, typer.Option("--mean", metavar="R,G,B", help="of the network's input, in 0..1; its own by default")
]
StdOption = Annotated[
    str | None, typer.Option("--std", metavar="R,G,B", help="deviation of the network's input, in 0..1")
]


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors that a user can do something about become one sentence and an exit code."""

    warnings.filterwarnings("ignore", category=UserWarning, module="onnx2torch")  # of its own code, as PyTorch sees it

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except (ConvertError, FrameError, AssetError, OSError, ImportError, ValueError) as error:
            messages.print(f"[red]deltafx {command.__name__}:[/red] ", end="")
            messages.print(str(error), markup=False)
            code = FAILED
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code:
            raise typer.Exit(code)

    return run


def ended(stopped: str | None) -> int:
    """Says why a run ended early, if it did; the exit code."""
    if stopped is None:
        return 0
    messages.print(
        f"[yellow]Ended early:[/yellow] {stopped}"
        if stopped != "interrupted"
        else "Interrupted; what was done is kept."
    )
    return INTERRUPTED if stopped == "interrupted" else PARTIAL


def deciding(mode: Mode, threshold: str | None) -> tuple[str, dict[str, Any]]:
    """What decides which changes count: in a word, and as arguments of `convert`."""
    from deltafx.settings import CALIBRATED

    return (mode.value, {"mode": mode.value}) if threshold is None else (CALIBRATED, {"threshold": threshold})


def statistics(mean: str | None, std: str | None) -> Preprocess | None:
    """What --mean and --std say."""
    if (mean is None) != (std is None):
        raise ValueError("--mean and --std belong together")
    return None if mean is None or std is None else statistics_of(numbers(mean, "--mean"), numbers(std, "--std"))


def numbers(text: str, option: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{option} is {text!r}; numbers with commas between are expected, as 0.485,0.456,0.406"
        ) from None


def size_of(text: str | None, video: Video) -> tuple[int, int]:
    """Height and width that --size names, or the video's."""
    return (video.height, video.width) if text is None else parsed_size(text)


def fitted(network: Network, size: tuple[int, int]) -> tuple[int, int]:
    """The frame size nearest to this one of which the network takes frames, as is tried on one."""
    height, width = network.fit(*size)
    network.try_on(height, width)
    return height, width


def parsed_size(text: str) -> tuple[int, int]:
    """Height and width that --size names."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:
        raise ValueError(f"--size is {text!r}; a width and a height are expected, as 640x480")
    return height, width


def made_room(path: Path) -> None:
    """The folder of a file that is about to be written is there."""
    path.parent.mkdir(parents=True, exist_ok=True)


def tell(*notes: str | None) -> None:
    for note in notes:
        if note:
            messages.print(f"[yellow]note:[/yellow] {note}")


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on standard error; yields what is called after each step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def total_of(video: Video, frames: int | None) -> int | None:
    """How many steps a progress bar has."""
    known = [number for number in (video.announced, frames) if number]
    return min(known) if known else None


def print_json(result: Any) -> None:
    sys.stdout.write(to_json(result))
