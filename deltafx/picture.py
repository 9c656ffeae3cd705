"""Pictures for people: two runs side by side, boxes on them, and what was updated glowing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise ImportError("pictures and films need pillow: pip install 'deltafx[demo]' (or: pip install pillow)") from error

from deltafx.detections import FOUND, Detections
from deltafx.playback import Shown, Step

PANEL_WIDTH, BAR = 640, 58  # pixels
INK, FAINT, PAPER = (245, 245, 245), (150, 158, 170), (18, 20, 26)
BOX, GLOW = (88, 214, 141), np.array((255, 176, 32), np.float32)


@dataclass(frozen=True)
class Panel:
    """A picture, uint8 RGB `[H, W, 3]`, and what is written under it: a title, a time, and a line below."""

    picture: np.ndarray
    title: str
    ms: float | None
    caption: str
    meaning: object  # boxes are drawn; what else it is does not show


def dense_panel(shown: Shown, name: str, macs: int) -> Panel:
    caption = f"{macs / 1e6:.0f} million multiply-accumulates"
    return Panel(shown.frame, f"{name}, dense", shown.dense_ms, caption, shown.dense_meaning)


def delta_panel(frame: np.ndarray, step: Step, title: str) -> Panel:
    """What was updated glows."""
    caption = f"{step.macs / 1e6:.0f} million multiply-accumulates; {step.update_rate:.0%} of the pixels updated"
    return Panel(glow(frame, step.mask), title, step.ms, caption, step.meaning)


def glow(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame, darkened, with the pixels of the mask `[H, W]` at full brightness and tinted."""
    dark = frame.astype(np.float32) * 0.55
    lit = frame.astype(np.float32) * 0.75 + GLOW * 0.25
    return np.where(mask[..., None] != 0, lit, dark).astype(np.uint8)


def jpeg(picture: np.ndarray, side: int) -> bytes:
    """A uint8 RGB picture `[H, W, 3]` as a JPEG file, made smaller if a side is longer than that many pixels."""
    sheet = Image.fromarray(picture)
    sheet.thumbnail((side, side))
    held = io.BytesIO()
    sheet.save(held, "JPEG", quality=82)
    return held.getvalue()


def side_by_side(panels: Sequence[Panel]) -> np.ndarray:
    """One picture of all panels, each PANEL_WIDTH wide."""
    drawn = [draw(panel) for panel in panels]
    sheet = Image.new("RGB", (sum(each.width for each in drawn), drawn[0].height), PAPER)
    left = 0
    for each in drawn:
        sheet.paste(each, (left, 0))
        left += each.width
    return np.asarray(sheet)


def draw(panel: Panel) -> Image.Image:
    height, width = panel.picture.shape[:2]
    scale = PANEL_WIDTH / width
    tall = round(height * scale)
    sheet = Image.new("RGB", (PANEL_WIDTH, tall + BAR), PAPER)
    sheet.paste(Image.fromarray(panel.picture).resize((PANEL_WIDTH, tall), Image.Resampling.BICUBIC), (0, 0))
    pen = ImageDraw.Draw(sheet)
    if isinstance(panel.meaning, Detections):
        for box in (panel.meaning.above(FOUND).boxes * scale).tolist():
            pen.rectangle(box, outline=BOX, width=3)
    large, small = ImageFont.load_default(21), ImageFont.load_default(15)
    pen.text((12, tall + 7), panel.title, INK, large)
    if panel.ms is not None:
        pen.text((PANEL_WIDTH - 12, tall + 7), f"{panel.ms:.1f} ms", INK, large, anchor="ra")
    pen.text((12, tall + 34), panel.caption, FAINT, small)
    return sheet


PLOT_HEIGHT, FINE = 96, 2  # pixels; lines are drawn this many times as large, and made smaller


@dataclass(frozen=True)
class Plot:
    """Numbers over time, the newest last: a title, what to write of the newest, and what the top of the scale is."""

    title: str
    values: Sequence[float]
    newest: str
    top: float
    top_label: str


def plots(row: Sequence[Plot], width: int, length: int) -> np.ndarray:
    """Plots side by side, uint8 RGB `[PLOT_HEIGHT, width, 3]`; each has room for `length` values."""
    sheet = Image.new("RGB", (width * FINE, PLOT_HEIGHT * FINE), PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15 * FINE), ImageFont.load_default(11 * FINE)
    each = width * FINE // len(row)
    for number, plot in enumerate(row):
        left, right = number * each + 12 * FINE, (number + 1) * each - 12 * FINE
        top, bottom = 30 * FINE, (PLOT_HEIGHT - 8) * FINE
        pen.text((left, 5 * FINE), plot.title, FAINT, large)
        pen.text((right, 5 * FINE), plot.newest, INK, large, anchor="ra")
        pen.line([(left, bottom), (right, bottom)], FAINT, FINE)
        pen.line([(left, top), (right, top)], (52, 57, 67), 1)
        shown = list(plot.values)[-length:]
        step = (right - left) / max(1, length - 1)
        points = [
            (left + step * i, bottom - (bottom - top) * min(1.0, value / plot.top)) for i, value in enumerate(shown)
        ]
        if len(points) > 1:
            pen.polygon([(left, bottom), *points, (points[-1][0], bottom)], (58, 47, 24))
            pen.line(points, tuple(GLOW.astype(int).tolist()), 2 * FINE, joint="curve")
        pen.text((left, top + FINE), plot.top_label, FAINT, small)
    return np.asarray(sheet.resize((width, PLOT_HEIGHT), Image.Resampling.LANCZOS))
