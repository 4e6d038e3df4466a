"""The book's style: six colours, one meaning each, and figures as wide as the text column."""

import sys

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.rcsetup import cycler

COLOURS = {
    "blue": "#0072b2",
    "vermilion": "#c84e00",
    "green": "#00805a",
    "purple": "#94459a",
    "ochre": "#8a6a00",
    "grey": "#6b6b6b",
}
"""Six colours that colour-blind readers tell apart, each dark enough on white (4.5:1) to be the colour of a text."""

INK = "#1f2933"
QUERY, KEY, VALUE = COLOURS["vermilion"], COLOURS["blue"], COLOURS["green"]
SEEN, UNSEEN = "#b4d9ee", "#eef0f2"

Pixel = tuple[int, int]
"""(row, column), counted from the upper left corner."""

RC = {
    "figure.figsize": (7.2, 3.2),
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": "#4a5561",
    "ytick.color": "#4a5561",
    "axes.edgecolor": "#8a949e",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": "#e3e7eb",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=list(COLOURS.values()))
    + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))]),
    "image.cmap": "Blues",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Draw in the book's style from here on: white figures, 7.2 inches wide, which is the text column."""
    plt.rcParams.update(RC)
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png", bbox_inches=None)  # uncropped: every figure keeps the width of the column


def tint(colour: str, strength: float = 0.3) -> tuple[float, ...]:
    """The colour thinned with white, to lie under a text."""
    return tuple(1 - strength * (1 - part) for part in to_rgb(colour))
