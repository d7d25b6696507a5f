"""Distances between two sets of features, by kind. Adding one is a function of two arrays (N, D) and an entry here. No torch."""

from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.distances.interval import Statistic
from bench.metrics.distances.kernel import kernel_distance

DISTANCES: dict[str, Statistic] = {"frechet": frechet_distance, "kernel": kernel_distance}
