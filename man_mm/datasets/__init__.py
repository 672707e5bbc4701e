"""Data sets that upstream lacks."""
