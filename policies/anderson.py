"""Fixed points x = G(x) by Anderson acceleration (Walker & Ni, SIAM J. Numer. Anal. 49, 2011).

The next point is the combination of the last images whose combined residual G(x) − x is least. Safeguard:
an extrapolation that does not reduce the residual is forgotten, and the iteration averages, (x + G(x)) / 2,
which settles periodic maps too; after a few such falls it only averages.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MEMORY = 6  # differences that are combined
RESETS = 3  # of the acceleration, then plain averaged steps
_LONG = 2**9  # numbers in a point: beyond, its history is read once a step, and never copied


def rest(
    image_of: Callable[[Floats], Floats],
    point: Floats,
    tol: float,
    max_iter: int,
    memory: int = MEMORY,
) -> tuple[Floats, int]:
    """Return an image that differs from its point by at most `tol`, and the images that it took."""
    history = _History(point.size, memory + 1)
    best, resets = np.inf, 0
    for step in range(1, max(1, max_iter) + 1):
        image = image_of(point)
        residual = image - point
        size = float(np.abs(residual).max(initial=0.0))
        if size <= tol:
            return image, step
        if size > 2 * best:  # the extrapolation led away: forget it, average instead
            history.held = 0
            resets += 1
        best = min(best, size)
        if resets <= RESETS:
            history.add(residual, image)
        mixed = history.held > 1
        point = history.mixed().reshape(image.shape) if mixed else 0.5 * (point + image)
    return point, max(1, max_iter)


class _History:
    """The last residuals and images, a row each; the oldest gives way to the newest."""

    def __init__(self, size: int, rows: int) -> None:
        self.residuals, self.images = np.zeros((rows, size)), np.zeros((rows, size))
        self.products = np.zeros((rows, rows))
        """Of each residual with each, where points are long."""
        self.held = 0
        self.newest = -1

    def add(self, residual: Floats, image: Floats) -> None:
        """Hold one more."""
        rows, size = self.images.shape
        self.newest = row = (self.newest + 1) % rows
        self.held = min(self.held + 1, rows)
        self.residuals[row], self.images[row] = residual.reshape(size), image.reshape(size)
        if size > _LONG:
            self.products[row] = self.products[:, row] = self.residuals @ self.residuals[row]

    def mixed(self) -> Floats:
        """Return the combination of the images whose combined residual is least."""
        rows, size = self.images.shape
        order = np.arange(self.newest - self.held + 1, self.newest + 1) % rows  # oldest first
        if size > _LONG:
            shares = np.zeros(rows)
            shares[order] = _shares(self.products[np.ix_(order, order)])
            return shares @ self.images
        residuals, images = self.residuals[order], self.images[order]
        differences = np.diff(residuals, axis=0)
        weights = np.linalg.lstsq(differences.T, residuals[-1], rcond=1e-12)[0]
        return np.asarray(images[-1] - weights @ np.diff(images, axis=0))


def _shares(products: Floats) -> Floats:
    """Return the shares, 1 in all, that make the combined residual least, by the normal equations."""
    steps = np.diff(np.eye(len(products)), axis=0)
    normal, right = steps @ products @ steps.T, steps @ products[-1]
    length = np.sqrt(np.maximum(normal.diagonal(), np.finfo(np.float64).tiny))
    scaled = normal / np.outer(length, length)
    weights = np.linalg.lstsq(scaled, right / length, rcond=1e-12)[0] / length
    return np.diff(weights, prepend=0.0, append=1.0)
