"""The toolstack: desired state, the public API, and the `vcoproc` command."""
