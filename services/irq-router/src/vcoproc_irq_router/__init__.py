"""See the package's README in its folder."""
