"""Integrating a field: one loop, one file for each method, controllers, dense output."""
