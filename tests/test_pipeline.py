"""Every image reaches the network once an epoch, mirrored every other time, shifted by what was drawn, normalised."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from gsa.data import Dataset
from gsa.data.pipeline import Images, Normalizer, alternating_flips, batches, flip, shift, split

CPU = torch.device("cpu")


def numbered(count: int, test: int = 3) -> Dataset:
    """Images of 4×4 whose pixels and label are the number of the image; test images are 255 and of class 0."""
    number, classes = torch.arange(count), tuple(map(str, range(max(2, count))))
    x = number.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    blank = torch.full((test, 3, 4, 4), 255, dtype=torch.uint8)
    return Dataset("numbered", "drawn by a test", classes, x, number, blank, torch.zeros(test).long())


def random_images(count: int, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8)


@given(count=st.integers(2, 200), holdout=st.floats(0.01, 0.99), images=st.integers(0, 250))
def test_a_split_shares_no_image_and_loses_none_unasked(count, holdout, images):
    assume(0 < round(holdout * count) < count)
    train, held_out, test = split(numbered(count), holdout, images, CPU)
    kept, back = set(train.y.tolist()), set(held_out.y.tolist())
    assert not kept & back
    assert len(back) == len(held_out) == round(holdout * count)
    assert len(kept) == len(train) == min(images or count, count - len(back))
    for part in (train, held_out):
        assert torch.equal(part.x[:, 0, 0, 0].long(), part.y)
    assert test.y.tolist() == [0] * 3 and (test.x == 255).all()


def test_the_same_images_are_held_out_in_every_run():
    parts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        parts.append(split(numbered(100), 0.2, 0, CPU))
    assert torch.equal(parts[0][1].y, parts[1][1].y)
    fewer = split(numbered(100), 0.2, 30, CPU)
    assert torch.equal(fewer[1].y, parts[0][1].y)
    assert torch.equal(fewer[0].y, parts[0][0].y[:30])


def test_a_split_is_a_copy_that_leaves_the_data_alone():
    data = numbered(20)
    train, *_ = split(data, 0.5, 0, CPU)
    train.x.zero_()
    assert torch.equal(data.x_train, numbered(20).x_train)


@given(count=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_an_epoch_shows_every_image_once_but_a_last_short_batch(count, size, seed, epoch):
    images = Images(numbered(count).x_train, torch.arange(count))
    shown = [batch.y for batch in batches(images, size, seed, epoch, crop=1)]
    assert len(shown) == count // size and all(len(y) == size for y in shown)
    flat = torch.cat(shown).tolist() if shown else []
    assert len(set(flat)) == len(flat) == count // size * size


def test_batches_keep_images_with_their_labels():
    images = Images(numbered(50).x_train, torch.arange(50))
    for batch in batches(images, 10, seed=3, epoch=1, crop=2):
        assert torch.equal(batch.x[:, 0, 0, 0].long(), batch.y)


class Drawn(NamedTuple):
    """What was drawn for an epoch: the order of the images and, image by image, whether it was mirrored and shifted."""

    order: list[int]
    flips: list[bool]
    offsets: list[list[int]]


def drawn(seed: int, epoch: int, size: int = 8, crop: int = 2) -> Drawn:
    """Read off images whose pixels say where they were: the middle one where the image was cropped, the next one right
    of it whether it was mirrored."""
    torch.manual_seed(torch.seed())
    places = (10 * torch.arange(7)[:, None] + torch.arange(7)).to(torch.uint8)
    images = Images(places.expand(32, 1, 7, 7).contiguous(), torch.arange(32))
    shown = [*batches(images, size, seed, epoch, crop)]
    order, x = torch.cat([batch.y for batch in shown]), torch.cat([batch.x[:, 0] for batch in shown])
    middle, right = (x[order.argsort(), 3, column].long() for column in (3, 4))
    return Drawn(
        order.tolist(),
        (right < middle).tolist(),
        (torch.stack([middle // 10, middle % 10], dim=1) - 3 + crop).tolist(),
    )


RUNS = [(seed, epoch) for seed in (0, 1, 2) for epoch in range(4)]


def test_order_and_shifts_differ_from_epoch_to_epoch_and_from_seed_to_seed():
    epochs = [drawn(*run) for run in RUNS]
    assert len({tuple(epoch.order) for epoch in epochs}) == len(RUNS)
    assert len({str(epoch.offsets) for epoch in epochs}) == len(RUNS)


def test_flips_differ_from_seed_to_seed_and_alternate_from_epoch_to_epoch():
    for seed in (0, 1, 2):
        first, *others = (drawn(seed, epoch).flips for epoch in range(4))
        other = [not flipped for flipped in first]
        assert others == [other, first, other]
    assert len({str(drawn(seed, 0).flips) for seed in (0, 1, 2)}) == 3


@pytest.mark.parametrize("run", [(0, 0), (1, 3)])
def test_what_is_drawn_depends_on_seed_and_epoch_alone(run):
    first = drawn(*run)
    assert drawn(*run) == drawn(*run, size=4) == first
    assert drawn(*run, crop=1)[:2] == drawn(*run, crop=0)[:2] == first[:2]
    assert first.order != sorted(first.order)


def test_without_shifts_an_image_comes_as_it_is_and_mirrored_in_turn():
    images = Images(random_images(40), torch.arange(40))
    seen = []
    for epoch in range(4):
        shown = torch.empty_like(images.x)
        for batch in batches(images, 8, 0, epoch, crop=0):
            shown[batch.y] = batch.x
        seen.append((shown == images.x).flatten(1).all(1))
        expected = torch.where(seen[-1][:, None, None, None], images.x, images.x.flip(-1))
        assert torch.equal(shown, expected)
    assert 0 < seen[0].sum() < 40
    assert torch.equal(seen[1], ~seen[0])
    assert torch.equal(seen[2], seen[0])
    assert torch.equal(seen[3], seen[1])


@given(count=st.integers(1, 100), seed=st.integers(0, 100), epoch=st.integers(0, 50))
def test_flips_alternate(count, seed, epoch):
    flips = alternating_flips(count, seed, epoch)
    assert torch.equal(alternating_flips(count, seed, epoch + 1), ~flips)


def test_flips_are_fair_coins_that_the_seed_tosses():
    assert 0.45 < alternating_flips(10_000, 0, 0).float().mean() < 0.55
    assert not torch.equal(alternating_flips(100, 0, 0), alternating_flips(100, 1, 0))


def test_flip_mirrors_columns_of_those_named():
    x = random_images(2)
    mirrored = flip(x, torch.tensor([True, False]))
    assert torch.equal(mirrored[0], x[0, :, :, [6, 5, 4, 3, 2, 1, 0]])
    assert torch.equal(mirrored[1], x[1])


@given(margin=st.integers(0, 4), data=st.data())
def test_shift_crops_the_reflected_image(margin, data):
    x = random_images(6)
    places = st.lists(st.integers(0, 2 * margin), min_size=12, max_size=12)
    offsets = torch.tensor(data.draw(places)).view(6, 2)
    shifted = shift(x, offsets, margin)
    for image, (row, column), out in zip(x, offsets.tolist(), shifted):
        padded = F.pad(image.double(), (margin,) * 4, mode="reflect")
        assert torch.equal(out, padded[:, row : row + 5, column : column + 7].to(torch.uint8))


def test_shifts_reach_every_offset_and_the_middle_is_no_shift():
    x = random_images(1).expand(9, -1, -1, -1)
    offsets = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    shifted = shift(x, offsets, 1)
    assert torch.equal(shifted[4], x[4])
    assert len({image.numpy().tobytes() for image in shifted}) == 9
    assert torch.equal(shifted[1][:, 1:], x[1][:, :-1])


def test_drawn_shifts_are_uniform_over_all_offsets():
    ramp = (torch.arange(5)[:, None] * 5 + torch.arange(5)).to(torch.uint8)
    images = Images(ramp.expand(4000, 1, 5, 5).contiguous(), torch.arange(4000))
    flips = alternating_flips(4000, 0, 0)
    (batch,) = batches(images, 4000, 0, 0, crop=1)
    unflipped = batch.x[~flips[batch.y]]
    counts = unflipped[:, 0, 2, 2].bincount()
    assert counts.nonzero().flatten().tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert counts[counts > 0].min() > 0.6 * len(unflipped) / 9


def test_normalised_training_images_have_mean_zero_and_variance_one():
    darker = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    images = Images(random_images(50) // darker, torch.arange(50))
    x = Normalizer.of(images)(images.x)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var((0, 2, 3)), torch.ones(3))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_normalizer_moves_as_a_module_does():
    normalize = Normalizer.of(Images(random_images(4), torch.arange(4)))
    assert [*normalize.state_dict()] == ["mean", "std"] and not [*normalize.parameters()]
    moved = normalize.to("meta")
    assert moved(random_images(2).to("meta")).device.type == "meta"


def test_a_constant_channel_stays_finite():
    images = Images(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(4).long())
    assert Normalizer.of(images)(images.x).abs().max() < 1e-3


def test_normalisation_is_that_of_the_training_images():
    data = numbered(60)
    train, *_ = split(data, 0.5, 0, CPU)
    normalize = Normalizer.of(train)
    red = train.x[:, 0].float()
    torch.testing.assert_close(normalize(data.x_test), (data.x_test - red.mean()) / red.std())
    other = replace(data, x_test=data.x_test * 0)
    assert torch.equal(Normalizer.of(split(other, 0.5, 0, CPU)[0]).mean, normalize.mean)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_split_goes_to_the_device(device):
    for part in split(numbered(10), 0.5, 0, torch.device(device)):
        assert part.x.device.type == part.y.device.type == device


@pytest.mark.parametrize(("share", "kept"), [(0.01, 0), (0.99, 10)])
def test_a_share_that_leaves_one_side_empty_is_refused(share, kept):
    with pytest.raises(ValueError, match=f"a holdout of {share} keeps back {kept} of 10 training images"):
        split(numbered(10), share, 0, CPU)
