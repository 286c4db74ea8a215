"""State machines shared by services and tests: tables of transitions, without any I/O."""
