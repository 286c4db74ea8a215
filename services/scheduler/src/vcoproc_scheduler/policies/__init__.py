"""Scheduling algorithms: the interface, the loader, and those that come with the scheduler."""
