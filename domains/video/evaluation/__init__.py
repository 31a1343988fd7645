"""Judges of predicted video: FVD by I3D and by known attributes, LPIPS-HED, and the protocol that puts them in a table."""
