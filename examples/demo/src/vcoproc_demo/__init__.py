"""The demo: three domains share one coprocessor on real input."""
