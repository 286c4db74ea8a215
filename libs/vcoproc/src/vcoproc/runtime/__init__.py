"""The process kit: everything that touches sockets, clocks, files and signals."""
