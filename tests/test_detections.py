import pytest
import torch

from deltafx.detections import Agreement, Detections, matches, suppress


def seen(*rows, labels=None):
    """Boxes of 10x10 at (x, y), each with its score."""
    boxes = torch.tensor([[x, y, x + 10, y + 10] for x, y, _ in rows], dtype=torch.float).reshape(-1, 4)
    return Detections(boxes, torch.tensor([score for *_, score in rows]), torch.tensor(labels or [0] * len(rows)))


def agreement(*pairs):
    result = Agreement()
    for got, want in pairs:
        result.add(got, want)
    return result


def test_matches_pairs_each_box_once():
    assert matches(seen((0, 0, 1.0), (1, 0, 1.0)), seen((0, 0, 1.0))) == 1
    assert matches(seen((0, 0, 1.0), (40, 0, 1.0)), seen((41, 0, 1.0), (0, 1, 1.0))) == 2


def test_matches_needs_overlap_and_the_same_label():
    assert matches(seen((0, 0, 1.0)), seen((6, 0, 1.0))) == 0
    assert matches(seen((0, 0, 1.0), labels=[1]), seen((0, 0, 1.0), labels=[2])) == 0
    assert matches(seen(), seen((0, 0, 1.0))) == 0


def test_suppress_keeps_the_best_of_each_label():
    both = seen((0, 0, 0.6), (1, 0, 0.9), (0, 0, 0.5), labels=[0, 0, 1])
    kept = suppress(both, 0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5])


def test_f1_counts_misses_and_inventions():
    result = agreement((seen((0, 0, 0.9)), seen((0, 0, 0.9), (50, 0, 0.9))), (seen((90, 0, 0.8)), seen()))
    assert result.f1 == pytest.approx(2 * 1 / 4)


def test_a_score_around_the_threshold_is_no_disagreement_with_hysteresis():
    result = agreement((seen((0, 0, 0.38)), seen((0, 0, 0.55))), (seen((0, 0, 0.52)), seen((0, 0, 0.36))))
    assert result.f1 == 0
    assert result.f1_with_hysteresis == 1


def test_hysteresis_asks_both_ways():
    lost = agreement((seen(), seen((0, 0, 0.9))), (seen((0, 0, 0.9)), seen((0, 0, 0.9))))
    assert lost.f1_with_hysteresis == pytest.approx(2 * 0.5 * 1 / 1.5)
    invented = agreement((seen((0, 0, 0.9)), seen()), (seen((0, 0, 0.9)), seen((0, 0, 0.9))))
    assert invented.f1_with_hysteresis == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_nothing_seen_by_either_is_agreement():
    result = agreement((seen(), seen()))
    assert (result.frames, result.f1, result.f1_with_hysteresis) == (1, 1, 1)
