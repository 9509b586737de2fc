"""Graphs: the contract, the semantic graph, the dialects it is lowered to. Free of torch."""
