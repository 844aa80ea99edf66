"""Images above their answers."""

import torch

from apputils.Classify_apputils.contact_sheet import CAPTION, COLUMNS, SIDE, contact_sheet


def test_images_lie_in_rows_above_answers_in_their_colour() -> None:
    images = torch.linspace(0, 1, COLUMNS + 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    sheet = contact_sheet(images, ["cat"] * (COLUMNS + 1), [True] + [False] * COLUMNS)
    assert sheet.shape == (3, 2 * (SIDE + CAPTION), COLUMNS * SIDE)
    for place, image in enumerate(images):
        left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + CAPTION)
        assert sheet[:, top : top + SIDE - 2, left : left + SIDE - 2].sub(image[0, 0, 0]).abs().max() <= 0.51 / 255
        red, green, _ = (1 - sheet[:, top + SIDE : top + SIDE + CAPTION, left : left + SIDE]).sum((1, 2))
        assert (red > green) == (place == 0)  # what the text takes from white


def test_one_image_makes_a_small_sheet() -> None:
    assert contact_sheet(torch.zeros(1, 3, 4, 4), ["a"], [True]).shape == (3, SIDE + CAPTION, SIDE)
