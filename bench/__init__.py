"""Measurements behind the README's figures: `make bench`. Ratios are taken side by side in one run."""
