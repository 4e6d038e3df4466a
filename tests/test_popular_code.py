"""What popular code gets wrong: each line that the appendix names does what the page says of it."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import SqueezeExcite
from timm.layers.halo_attn import HaloAttn
from timm.models.twins import GlobalSubSampleAttn
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from gsa.layers import (
    ChannelGate,
    GlobalSubsampledAttention,
    SqueezeExcitation,
    StandAloneSelfAttention,
    attend,
    record_weights,
)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "popular_code.md").read_text()
CELLS = re.findall(r"^```\{code-cell\} python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


# The page


def test_page_names_these_tests():
    here = re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE)
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert sorted(named) == sorted(name for name in here if not name.startswith("test_page"))
    assert all((ROOT / file).exists() for file in re.findall(r"`(tests/test_\w+\.py)`", PAGE))


def test_page_names_each_line_at_a_commit():
    links = re.findall(r"https://github\.com/[^)\s]+", PAGE)
    lines = [link for link in links if "/blob/" in link]
    assert len(lines) > 20
    assert [link for link in lines if not re.search(r"/blob/[0-9a-f]{7}/.+#L\d+$", link)] == []


def test_page_names_a_probe_for_each_line():
    rows = re.findall(r"^\|.*/blob/.*\| (.+) \|$", PAGE, re.MULTILINE)
    probes = [probe.lower() for probe in re.findall(r"^\d\. \*\*(.+)\.\*\*", PAGE, re.MULTILINE)]
    found = [re.fullmatch(r"(?:fault|choice) \((.+)\)", row)[1] for row in rows]
    assert len(rows) > 20
    assert set(found) == set(probes)


def test_page_has_short_cells_that_run():
    names: dict = {}
    for cell in CELLS:
        assert len(cell.splitlines()) <= 15
        exec(compile(cell, "popular_code.md", "exec"), names)
    torch.set_printoptions(profile="default")


# Gates


def test_timm_rounds_the_hidden_width():
    for channels, timms in ((64, 8), (128, 8), (192, 16), (320, 24)):
        assert SqueezeExcite(channels).fc1.out_channels == timms
        assert SqueezeExcitation(channels, reduction=16).fc1.out_channels == channels // 16


def test_a_network_for_the_maxima():
    gate, x = ChannelGate(16, reduction=4), torch.randn(2, 16, 5, 5)
    of_maxima = nn.Sequential(nn.Conv2d(16, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 16, 1, bias=False))

    def with_two_networks(x):
        of_means = gate.fc2(gate.fc1(x.mean((2, 3), keepdim=True)).relu())
        return (of_means + of_maxima(x.amax((2, 3), keepdim=True))).sigmoid() * x

    assert not torch.allclose(gate(x), with_two_networks(x), atol=1e-3)
    of_maxima[0].weight, of_maxima[2].weight = gate.fc1.weight, gate.fc2.weight
    torch.testing.assert_close(gate(x), with_two_networks(x))


# Sampling


def test_meshgrid_runs_along_rows_first():
    x, y = torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 3)
    as_in_the_notes = torch.meshgrid(x, y, indexing="ij")[0]  # the default, of which PyTorch warns
    meant = torch.meshgrid(x, y, indexing="xy")[0]
    assert meant.shape == (3, 4)
    assert torch.equal(as_in_the_notes, meant.mT)


def test_a_hook_that_returns_nothing():
    def drops(module, grad_input, grad_output):
        grad_input = tuple(None if g is None else 0.1 * g for g in grad_input)

    def returns(module, grad_input, grad_output):
        return tuple(None if g is None else 0.1 * g for g in grad_input)

    conv, x, gradients = nn.Conv2d(2, 3, 3), torch.randn(1, 2, 8, 8, requires_grad=True), []
    for hook in (None, drops, returns):
        handle = hook and conv.register_full_backward_hook(hook)
        gradients += torch.autograd.grad(conv(x).sum(), x)
        if handle:
            handle.remove()
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[2], 0.1 * gradients[0])


# Neighbourhoods


def test_halves_of_all_channels():
    rows, columns = torch.full((8, 3, 1), 1.0), torch.full((8, 1, 3), 2.0)
    split_first = torch.cat((rows[:4].expand(4, 3, 3), columns[:4].expand(4, 3, 3))).unflatten(0, (2, 4))
    assert (split_first[0] == 1).all()
    assert (split_first[1] == 2).all()

    layer, x = StandAloneSelfAttention(8, heads=2, kernel_size=3), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        for places in (layer.height_rel, layer.width_rel):
            before = layer(x)
            places.normal_()
            change = (layer(x) - before).abs().amax((0, 2, 3)).unflatten(0, (2, 4)).amax(1)
            assert (change > 1e-3).all()


def test_a_strided_map():
    x = torch.randn(1, 8, 6, 6)
    strided = F.pad(x, [1, 1, 1, 1]).unfold(2, 3, 2).unfold(3, 3, 2)
    with pytest.raises(RuntimeError, match="shape"):
        strided.contiguous().view(1, 2, 4, 6, 6, -1)
    assert StandAloneSelfAttention(8, heads=2, kernel_size=3, stride=2)(x).shape == (1, 8, 3, 3)


def test_a_sum_over_all_channels():
    q, k, v = (rearrange(torch.randn(6, 8), "n (h d) -> 1 h n d", h=4) for _ in range(3))
    together = torch.einsum("bhid, bhjd -> bij", q, k).softmax(-1)
    with record_weights() as weights:
        mine = attend(q, k, v, scale=1.0)
    assert weights[0].shape == (1, 4, 6, 6)
    assert (mine - together[:, None] @ v).abs().max() > 0.1
    with record_weights() as weights:
        attend(rearrange(q, "b h n d -> b 1 n (h d)"), rearrange(k, "b h n d -> b 1 n (h d)"), v[:, :1], scale=1.0)
    torch.testing.assert_close(weights[0][:, 0], together)


def test_the_padding_of_timms_halo():
    layer, ones = HaloAttn(8, num_heads=2, block_size=1, halo_size=1), torch.ones(1, 8, 5, 5)
    nn.init.zeros_(layer.q.weight)
    nn.init.ones_(layer.kv.weight)
    y = layer(ones)[0, 0] / 8
    torch.testing.assert_close(y[1:-1, 1:-1], torch.ones(3, 3))
    torch.testing.assert_close(y[0, 1:-1], torch.full((3,), 6 / 9))
    torch.testing.assert_close(y[0, 0], torch.tensor(4 / 9))

    mine = StandAloneSelfAttention(8, heads=2, kernel_size=3)
    nn.init.ones_(mine.kv.weight)
    torch.testing.assert_close(mine(ones)[0, 0] / 8, torch.ones(5, 5))


# Windows and summaries


def test_the_padding_of_swin():
    layer, ones = ShiftedWindowAttention(8, [4, 4], [0, 0], 2), torch.ones(1, 10, 10, 8)
    nn.init.zeros_(layer.relative_position_bias_table)
    nn.init.zeros_(layer.qkv.bias)
    change = (layer(ones) - layer(ones)[:, :1, :1]).abs().amax(-1)[0]
    assert change[:8, :8].max() < 1e-6
    assert min(change[8:].min(), change[:, 8:].min()) > 1e-3


def test_rows_left_over():
    layer, x = GlobalSubSampleAttn(8, num_heads=2, sr_ratio=2), torch.randn(1, 81, 8)
    other = x.clone()
    other[:, -9:] = torch.randn(9, 8)
    torch.testing.assert_close(layer(x, (9, 9))[:, :-9], layer(other, (9, 9))[:, :-9])
    with pytest.raises(ValueError, match="9×9"):
        GlobalSubsampledAttention(8, heads=2, reduction=2)(torch.randn(1, 8, 9, 9))


# The five documents


def test_swapped_queries_and_keys():
    q, k, v = torch.randn(3, 1, 1, 6, 4)
    assert (attend(q, k, v) - attend(k, q, v)).abs().max() > 0.1
    torch.testing.assert_close(q @ k.mT, (k @ q.mT).mT)


def test_loudness_without_a_norm():
    layer, x = GlobalSubsampledAttention(8, heads=2, reduction=2), torch.randn(1, 8, 6, 6)
    nn.init.zeros_(layer.sr.bias)
    lines, louder = (layer.sr(t).flatten(2).mT for t in (x, 10 * x))
    torch.testing.assert_close(louder, 10 * lines)
    torch.testing.assert_close(layer.norm(louder), layer.norm(lines), rtol=1e-3, atol=1e-3)
