"""Bytes in motion: from a request into a store, and from the stores to a client, each block checked before it leaves."""
