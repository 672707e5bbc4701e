"""Meters and descriptions: functions that return plain data."""
