"""What the repository needs around the book and its package: measurements, copies for Colab, its own address."""
