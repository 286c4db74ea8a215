"""A scheduling algorithm from outside of the tree."""
