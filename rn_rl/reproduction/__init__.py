"""Reproduction of the paper's agents: the protocol, its arms and its questions."""
