"""The laws of what a release adds to its clipped sum, for every instrument that can compute that sum itself."""

from __future__ import annotations

import numpy as np

from consortia.audit import statistics
from consortia.audit.result import Check
from consortia.audit.statistics import Array

__all__ = ["in_words", "noise_laws"]


def in_words(noise: Array) -> str:
    """Return the size and the largest mean of noise in words, (n_releases, d) in its own deviations."""
    largest = float(np.abs(noise.mean(axis=0)).max())
    return f"mean square {np.square(noise).mean():.4g} over {noise.size} numbers, means up to {largest:.3g}"


def noise_laws(noise: Array, subject: str, law: str, rest: str, releases: str = "") -> list[Check]:
    """Return the checks that the noise has the charged size, is centred and Gaussian, and is new in each release.

    Parameters
    ----------
    noise : (n_releases, d), each release less its clipped sum, in deviations of the charged noise.
    law : what the size of the noise says of a release.
    rest : what the noise is called, such as "the rest of a round".
    releases : what the releases are called, such as "rounds"; empty if the caller compares them with each other.
    """
    found = in_words(noise)
    laws = [
        Check(law, subject, "a rest of standard normal numbers", found, statistics.size_p(noise)),
        Check(f"{rest} is centred", subject, "mean 0", found, statistics.mean_p(noise)),
        Check(f"{rest} is Gaussian", subject, "standard normal numbers", found, statistics.shape_p(noise)),
    ]
    if releases:
        p = statistics.alike_p(noise)
        laws.append(Check(f"no two {releases} share noise", subject, "independent noise", found, p))
    return laws
