"""The wire format of the hot links: frames, messages, sessions."""
