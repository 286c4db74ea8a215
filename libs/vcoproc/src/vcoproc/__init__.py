"""vcoproc: one coprocessor, several domains that each believe they own it."""
