"""The layout of OpenMMLab's projects asks for this file; what it would say is in pyproject.toml."""

from setuptools import setup

setup()
