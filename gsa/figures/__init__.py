"""How the book draws: one style, one meaning for each colour, and the pictures that chapters share."""

from gsa.figures.draw import (
    draw_attention,
    draw_butterfly,
    draw_costs,
    draw_growth,
    draw_images,
    draw_losses,
    draw_map,
    draw_path,
    draw_sight,
    draw_weights,
    mark,
)
from gsa.figures.family import FRAMED, KINDS, draw_answers, draw_eyes, draw_family, members
from gsa.figures.studies import draw_accuracy_cost, draw_forest
from gsa.figures.style import COLOURS, INK, KEY, QUERY, RC, SEEN, UNSEEN, VALUE, Pixel, tint, use_style

__all__ = [
    "COLOURS",
    "FRAMED",
    "INK",
    "KEY",
    "KINDS",
    "QUERY",
    "RC",
    "SEEN",
    "UNSEEN",
    "VALUE",
    "Pixel",
    "draw_accuracy_cost",
    "draw_answers",
    "draw_attention",
    "draw_butterfly",
    "draw_costs",
    "draw_eyes",
    "draw_family",
    "draw_forest",
    "draw_growth",
    "draw_images",
    "draw_losses",
    "draw_map",
    "draw_path",
    "draw_sight",
    "draw_weights",
    "mark",
    "members",
    "tint",
    "use_style",
]
