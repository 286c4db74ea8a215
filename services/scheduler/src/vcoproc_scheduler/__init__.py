"""The scheduler: who runs on each coproc, and for how long."""
