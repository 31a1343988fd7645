"""Judges of predicted video: FVD by I3D and by known attributes, PIPS-HED, and the table of the protocol."""
