"""Clips of videos: adapters to folders of files and sources that are computed. A recipe names these classes."""
