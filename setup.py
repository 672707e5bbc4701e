"""Packaging. mmengine, mmcv and mmdet are left to the user: two stacks provide them under the same import names."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split("'")[1]
    for line in (ROOT / 'man_mm' / '__init__.py').read_text().splitlines()
    if line.startswith('__version__')
)

setup(
    name='man_mm',
    version=VERSION,
    description='Supervised local learning with a feature bank (MAN) for OpenMMLab models',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['man_mm', 'man_mm.*']),
    # .mim links to configs, tools and the model index: what `man_mm::` and OpenMMLab's installer look for in a package
    package_data={'man_mm': [f'.mim/**/*.{ending}' for ending in ('py', 'sh', 'yml', 'md')] + ['configs/*.py']},
    python_requires='>=3.11',
    install_requires=['torch>=2.1', 'numpy'],
    license='Apache-2.0',
)
