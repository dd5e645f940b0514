"""Deduplication: equal rows, patches and positions of a minibatch are computed once."""
