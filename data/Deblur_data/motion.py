"""Blur of a camera that moves while the shutter is open.

Random trajectories, the kernels (point spread functions) made of them, and images blurred by a kernel. Not
here: which images are blurred and with which seed (data/pairs.py, make_pairs.py).
"""

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from data.images import Pixels
from data.pairs import Degradation

POINTS = 2000  # of a trajectory, as in DeblurGAN
SHORTEST_BLUR, LONGEST_BLUR = 2.0, 256.0  # pixels: of the camera's way
Trajectory = NDArray[np.complex128]
Kernel = NDArray[np.float32]


def random_trajectory(draw: np.random.Generator, length: float, points: int = POINTS) -> Trajectory:
    """A camera's way during one exposure, by Boracchi and Foi's Markov process.

    Source: Boracchi and Foi 2012, Modeling the performance of image restoration from motion blur, section III, with the
    parameters of Kupyn et al. 2018 (arXiv 1711.07064), algorithm 1. Speed is constant; in each step the direction is
    perturbed at random, drawn back to the start, and now and then thrown round. How anxious the hand is, how strong
    these three are and where it first goes are drawn for each trajectory.

    Args:
        draw: makes every random choice.
        length: of the whole way, pixels, > 0.
        points: its samples, >= 2, equally spaced in time.

    Returns:
        (points,), x + i y in pixels, from 0.
    """
    anxiety, inertia, big_shake, gaussian = draw.uniform(0.0, (0.1, 0.7, 0.2, 10.0)).tolist()
    stride = length / (points - 1)
    angle = draw.uniform(0.0, 2 * math.pi)
    velocity = stride * complex(math.cos(angle), math.sin(angle))
    shaken = draw.random(points - 1) < big_shake * anxiety
    # The camera's plane as complex numbers: a factor e^(i phi) turns a vector by phi. Twice the velocity, turned by
    # about pi and added to it, throws it round.
    turns = np.exp(1j * (math.pi + draw.random(points - 1) - 0.5))
    noise = draw.standard_normal(points - 1) + 1j * draw.standard_normal(points - 1)
    kicks = (anxiety * gaussian * stride * noise).tolist()
    place, way = 0j, [0j]
    for kick, shake, turn in zip(kicks, shaken.tolist(), turns.tolist(), strict=True):
        velocity += kick - anxiety * inertia * stride * place + (2 * velocity * turn if shake else 0.0)
        # Only the direction changes; the way has the length that was asked for.
        velocity *= stride / abs(velocity)
        place += velocity
        way.append(place)
    return np.array(way)


def kernel_of(trajectory: Trajectory) -> Kernel:
    """The point spread function of a trajectory: each of its points leaves the same light in the four nearest pixels.

    Its centre of mass is the centre, so that an image is blurred where it is and not moved.

    Args:
        trajectory: from `random_trajectory`.

    Returns:
        (side, side), its sum 1; the side, pixels, is the smallest odd one that the trajectory fits into.
    """
    centred = trajectory - trajectory.mean()
    radius = math.ceil(max(np.abs(centred.real).max(), np.abs(centred.imag).max(), 1.0))
    x, y, last = centred.real + radius, centred.imag + radius, 2 * radius - 1
    left, top = np.minimum(np.floor(x), last).astype(int), np.minimum(np.floor(y), last).astype(int)
    right, below = x - left, y - top
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    for rows, columns, light in (
        (top, left, (1 - below) * (1 - right)),
        (top, left + 1, (1 - below) * right),
        (top + 1, left, below * (1 - right)),
        (top + 1, left + 1, below * right),
    ):
        np.add.at(kernel, (rows, columns), light)
    return (kernel / kernel.sum()).astype(np.float32)


def random_kernel(draw: np.random.Generator, length: float) -> Kernel:
    """A random kernel whose trajectory is between half of `length` and `length` pixels long."""
    return kernel_of(random_trajectory(draw, draw.uniform(0.5, 1.0) * length))


def blur(pixels: Pixels, kernel: Kernel) -> Pixels:
    """Convolution inside the image: (3, H, W), 0..255 -> (3, H - side + 1, W - side + 1), rounded to 8 bits."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).float()[:, None]
    weight = torch.from_numpy(kernel[::-1, ::-1].copy())[None, None]  # torch's convolution does not turn the kernel
    blurred = functional.conv2d(image, weight)[:, 0]
    return cast(Pixels, blurred.round().clamp(0, 255).byte().numpy())


def blur_whole(pixels: Pixels, kernel: Kernel) -> Pixels:
    """The same at the image's own size: what lies outside mirrors what lies inside."""
    margin = kernel.shape[0] // 2
    return blur(np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric"), kernel)


class CameraMotion(Degradation):
    """Blur by random camera motion: a crop has a kernel of its own, a measured image two fixed ones.

    Args:
        length: of the camera's way, pixels.
    """

    copies = 2

    def __init__(self, length: float) -> None:
        self.length = length

    def begin(self, draw: np.random.Generator) -> Degradation:
        """See `Degradation`."""
        return KernelBlur(random_kernel(draw, self.length))

    def whole(self, sharp: Pixels, draw: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        return self.begin(draw).whole(sharp, draw)

    def facts(self) -> dict[str, Any]:
        """See `Degradation`."""
        return {"blur": f"up to {self.length:g} pixels long"}


class KernelBlur(Degradation):
    """Blur by one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.margin = kernel, kernel.shape[0] // 2

    def whole(self, sharp: Pixels, draw: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        return blur_whole(sharp, self.kernel)

    def crop(self, wide: Pixels, draw: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        return blur(wide, self.kernel)

    def facts(self) -> dict[str, Any]:
        """See `Degradation`."""
        return {"blur": "by one kernel"}
