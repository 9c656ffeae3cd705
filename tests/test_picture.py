import numpy as np
import torch

from deltafx.detections import Detections
from deltafx.picture import BAR, BOX, PANEL_WIDTH, Panel, glow, side_by_side


def test_what_was_updated_is_brighter():
    frame = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 1
    shown = glow(frame, mask)
    assert shown.dtype == np.uint8
    assert shown[1, 2].mean() > frame.mean() > shown[0, 0].mean()
    assert (shown[mask == 0] == shown[0, 0]).all()


def test_panels_stand_side_by_side():
    frame = np.zeros((30, 40, 3), np.uint8)
    sheet = side_by_side([Panel(frame, "dense", 12.0, "", None), Panel(frame + 200, "delta", 3.0, "few", None)])
    assert sheet.shape == (PANEL_WIDTH * 30 // 40 + BAR, 2 * PANEL_WIDTH, 3)
    assert sheet[100, 100].tolist() == [0, 0, 0]
    assert sheet[100, PANEL_WIDTH + 100].tolist() == [200, 200, 200]
    assert (sheet[-BAR:, :PANEL_WIDTH] != sheet[-BAR:, PANEL_WIDTH:]).any()  # other words


def test_boxes_are_drawn_where_they_are_sure_enough():
    frame = np.zeros((30, 40, 3), np.uint8)
    boxes = Detections(torch.tensor([[10.0, 5, 20, 15], [30, 20, 38, 28]]), torch.tensor([0.9, 0.1]), torch.zeros(2))
    sheet = side_by_side([Panel(frame, "", 0.0, "", boxes)])
    drawn = np.argwhere((sheet == BOX).all(2))
    scale = PANEL_WIDTH / 40
    np.testing.assert_allclose(drawn.min(0), [5 * scale, 10 * scale], atol=1)
    np.testing.assert_allclose(drawn.max(0), [15 * scale, 20 * scale], atol=1)


def test_what_is_no_box_does_not_show():
    frame = np.zeros((30, 40, 3), np.uint8)
    assert (side_by_side([Panel(frame, "", 0.0, "", 281)])[:400] == 0).all()
