"""Demonstrations: adapters to recorded data sets. A recipe names these classes."""
