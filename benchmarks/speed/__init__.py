"""Accord and its peers, side by side: the same data, model, tokens, precision and optimiser step."""
