"""Learning: one group after the other, then the network as a whole."""
