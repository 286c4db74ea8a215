"""What tests and simulations of a cluster are built from: a virtual clock, a faulty network."""
