"""Command lines and configs as the documents print them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/*/README.md')])
PROGRAMS = ('python', 'bash', 'make', 'pip')
SHELLS = ('bash', 'sh', 'shell', 'console')
NUMBERS = {'N': '2', 'S': '64', 'GPUS': '2'}
"""What stands for a number in a synopsis; other words in capitals stand for files."""


@dataclass(frozen=True)
class Block:
    """A block of code: its page and first line, its language (empty for an indented one), its text."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line: where it is printed, and its words as a shell would split them."""

    where: str
    words: tuple[str, ...]


def blocks() -> Iterator[Block]:
    """Every block of code of every page."""
    for page in PAGES:
        for token in MarkdownIt().parse(page.read_text()):
            if token.type in ('fence', 'code_block'):
                line = token.map[0] + (2 if token.type == 'fence' else 1)
                yield Block(str(page.relative_to(ROOT)), line, token.info.strip(), token.content)


def commands() -> Iterator[Command]:
    """Every command line. In a block that says it is for a shell, every line is one, or a comment."""
    for block in blocks():
        for number, line in enumerate(block.text.replace('\\\n', '  ').splitlines()):
            words = split(line)
            if words and (block.language in SHELLS or (not block.language and words[0] in PROGRAMS)):
                yield Command(f'{block.page}:{block.line + number}', words)


def split(line: str) -> tuple[str, ...]:
    """Words of a line, without comment and variables; of a synopsis, with all that is optional, once."""
    line = re.sub(r'\[([^\]]*)\]', r'\1', line.removeprefix('$ '))  # [--batch N] -> --batch N
    line = re.sub(r'(\w+)\|\w+', r'\1', line)  # cpu|cuda -> cpu
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose or output with a single quote
        return ()
    while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
        del words[0]
    words = [word.removesuffix('...') for word in words]
    return tuple(NUMBERS.get(part, part) for word in words for part in braces(word))


def braces(word: str) -> list[str]:
    """`a{b,c}` -> `ab`, `ac`."""
    found = re.fullmatch(r'(.*?)\{([^{}]+,[^{}]+)\}(.*)', word)
    if found is None:
        return [word]
    before, choices, after = found.groups()
    return [rest for choice in choices.split(',') for rest in braces(f'{before}{choice}{after}')]
