"""Refinement: the foreground of patches along the boundary of a coarse mask."""
