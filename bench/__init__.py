"""The figures of vcoproc, each measured beside its floor in the same run: `python -m bench`."""
