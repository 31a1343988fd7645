"""Networks over pictures."""
