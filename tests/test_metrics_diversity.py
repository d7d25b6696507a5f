"""Precision, recall, density and coverage on a line, by hand."""

import numpy as np
import pytest

from bench.metrics.distances import diversity as module
from bench.metrics.distances.diversity import diversity


def line(*points: float) -> np.ndarray:
    return np.array(points, float)[:, None]


def test_by_hand_with_one_neighbour() -> None:
    real = line(0, 1, 3, 10)  # radii 1, 1, 2, 7: balls [-1, 1], [0, 2], [1, 5], [3, 17]
    fake = line(1.5, 4, 5.5, 30)  # radii 2.5, 1.5, 1.5, 24.5: balls [-1, 4], [2.5, 5.5], [4, 7], [5.5, 54.5]
    got = diversity(real, fake, num_neighbours=1)
    # real balls that hold 1.5: second, third; 4: third, fourth; 5.5: fourth; 30: none
    assert got == {"precision": 3 / 4, "recall": 1.0, "density": 5 / 4, "coverage": 3 / 4}
    assert diversity(fake, real, num_neighbours=1) == {"precision": 1.0, "recall": 3 / 4, "density": 5 / 4, "coverage": 3 / 4}


def test_by_hand_with_two_neighbours() -> None:
    real, fake = line(0, 1, 2, 10, 11, 12), line(-2.5, -2, 20, 50)
    # real radii 2, 1, 2, 2, 1, 2; fake radii 22.5, 22, 30, 52.5
    got = diversity(real, fake, num_neighbours=2)
    # -2 is on the edge of the ball of 0, and in; no other generated clip is in any
    assert got == {"precision": 1 / 4, "recall": 1.0, "density": 1 / 4 / 2, "coverage": 1 / 6}


def test_a_model_that_repeats_one_clip_is_precise_and_not_diverse() -> None:
    generator = np.random.default_rng(0)
    real = generator.standard_normal((200, 4))
    got = diversity(real, np.repeat(real[:1], 200, axis=0))
    assert got["precision"] == 1
    assert got["recall"] == 1 / 200  # all radii are 0: only the clip itself is in
    assert got["coverage"] < 0.1


def test_a_model_of_noise_is_not_precise() -> None:
    generator = np.random.default_rng(0)
    real, fake = generator.standard_normal((200, 4)), 30 * generator.standard_normal((200, 4))
    got = diversity(real, fake)
    assert got["precision"] < 0.05 and got["density"] < 0.05 and got["coverage"] < 0.05
    assert got["recall"] > 0.9  # wide balls hold everything: why coverage is read beside it


def test_one_outlier_moves_precision_and_not_density() -> None:
    generator = np.random.default_rng(0)
    real, fake = generator.standard_normal((200, 4)), 8 + generator.standard_normal((200, 4))
    real[0] = 40
    got = diversity(real, fake)
    assert got["precision"] == 1  # its one ball holds all
    assert got["density"] == pytest.approx(1 / 5)
    assert got["coverage"] == 1 / 200


def test_the_same_distribution_scores_near_1() -> None:
    generator = np.random.default_rng(0)
    got = diversity(generator.standard_normal((500, 4)), generator.standard_normal((500, 4)))
    assert got["precision"] > 0.9 and got["recall"] > 0.9
    assert got["density"] == pytest.approx(1, abs=0.1)
    # Naeem et al., eq. 9: 1 - (m - 1) ... (m - k) / ((2 m - 1) ... (2 m - k))
    assert got["coverage"] == pytest.approx(1 - 0.5**5, abs=0.03)


def test_a_copy_of_the_real_set_scores_1_with_ties() -> None:
    features = np.random.default_rng(0).integers(0, 3, (60, 3)) / 7 + 1e6
    got = diversity(features, features.copy())
    assert (got["precision"], got["recall"], got["coverage"]) == (1, 1, 1)
    assert got["density"] >= 1 + 1 / 5  # itself, the k nearest, and whatever ties with the last


def test_blocks_change_nothing(monkeypatch) -> None:
    generator = np.random.default_rng(0)
    real, fake = generator.standard_normal((50, 3)), generator.standard_normal((31, 3)) + 0.5
    whole = diversity(real, fake)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert diversity(real, fake) == whole


def test_sets_that_do_not_compare() -> None:
    with pytest.raises(ValueError, match="first set has NaN or infinite features in 1 of 9"):
        diversity(np.where(np.arange(18).reshape(9, 2) == 4, np.nan, 0.0), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="2 and 3 features"):
        diversity(np.zeros((9, 2)), np.zeros((9, 3)))
