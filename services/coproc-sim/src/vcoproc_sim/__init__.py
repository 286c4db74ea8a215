"""coproc-sim: one process that is one coprocessor, its MMU and its contexts."""
