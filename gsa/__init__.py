"""Visual attention as weighted sums: layers, the networks that host them, and the means to train and measure them."""

__version__ = "0.1.0"
