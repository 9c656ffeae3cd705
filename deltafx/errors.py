"""The two errors a user meets: the model cannot be converted, or a frame cannot be run."""

import difflib
from collections.abc import Iterable


class ConvertError(ValueError):
    """The model, or an argument of `convert`, cannot be used; nothing was changed."""


class NoGraph(ConvertError):
    """A module cannot be captured as a graph; its parts may."""


class FrameError(ValueError):
    """This frame cannot be run; the state is untouched unless the message says otherwise."""


class NoDeltaForm(FrameError):
    """What the model does with this frame cannot be followed from frame to frame."""


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """One sentence for a name that does not exist: what was met, what looks like it, what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=3)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    shown = ", ".join(known[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
    return f"unknown {what} {name!r}.{hint} Known: {shown or 'none'}."
