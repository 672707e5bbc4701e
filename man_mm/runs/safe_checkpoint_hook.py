"""SafeCheckpointHook: a run that is killed, or meets a full disk, while it saves keeps its last good checkpoint."""

import io
import logging
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from ..keys import strict_keys
from ..registry import HOOKS
from ..versions import add_note

__all__ = ['SafeCheckpointHook']

UNFINISHED = '.part'
POINTER = 'last_checkpoint'


class _WholeFiles(LocalBackend):
    """Local files that appear whole or not at all, and of which none is deleted before `delete_removed`."""

    def __init__(self) -> None:
        self._removed: list[str] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write aside, then rename. If it fails, what was there before still is."""
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(target.name + UNFINISHED)
        try:
            with open(aside, 'wb') as file:
                file.write(obj)
            _replace(aside, target)
        except OSError as error:
            aside.unlink(missing_ok=True)
            add_note(error, f'{target} could not be saved; the last checkpoint before it is complete.')
            raise

    def remove(self, filepath: str | Path) -> None:
        self._removed.append(str(filepath))

    def delete_removed(self) -> None:
        while self._removed:
            super().remove(self._removed.pop())


register_backend('man_mm.whole_files', _WholeFiles)


def _replace(source: Path, target: Path) -> None:
    """Rename, when the contents are on the disk: a machine that loses power keeps one of the two files."""
    for path, action in ((source, lambda: os.replace(source, target)), (target.parent, lambda: None)):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        action()


@HOOKS.register_module()
@strict_keys
class SafeCheckpointHook(CheckpointHook):
    """`CheckpointHook` that never leaves a run without a complete checkpoint.

    Upstream's writes in place, and deletes what exceeds `max_keep_ckpts` first: killed in between, it leaves nothing to
    resume from. Here a checkpoint is written aside, forced to the disk and renamed, `last_checkpoint` follows, and only
    then are old ones deleted. So the disk holds one checkpoint more than `max_keep_ckpts` for a moment.

    Before training it deletes what a killed run left half written. If `last_checkpoint` names a file that is missing or
    cut off, it lets it name the newest complete checkpoint beside it, with a warning. A key that is misspelt is an
    error before training, not at the first save.

    With `backend_args` or `file_client_args` (object stores, which keep such promises themselves) all is upstream's.
    """

    backend_args: dict[str, Any] | None

    def before_run(self, runner: Runner) -> None:
        """Mend what a killed run left behind; here, because the runner loads before it trains.

        A test shares its work folder with a run that may be saving just now, so only training mends.
        """
        trains = isinstance(runner._train_loop, BaseLoop)  # otherwise it is still a config
        if trains and is_main_process():
            _mend(Path(runner.work_dir), self.filename_tmpl)
        barrier()

    def before_train(self, runner: Runner) -> None:
        """As upstream's; warns of what would be in every checkpoint and cannot be read again."""
        _warn_of_unreadable(runner)
        if self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend='man_mm.whole_files')
        super().before_train(runner)
        self._delete_removed()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        if not is_main_process():
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        kept = list(dict.fromkeys([*self.keep_ckpt_ids, step])) if self.max_keep_ckpts > 0 else None
        with _pointer_written_aside(Path(runner.work_dir)) as folder:
            super()._save_checkpoint_with_step(_Elsewhere(runner, str(folder), kept), step, meta)
        self._delete_removed()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._delete_removed()

    def _delete_removed(self) -> None:
        if isinstance(self.file_backend, _WholeFiles):
            self.file_backend.delete_removed()


def _warn_of_unreadable(runner: Runner) -> None:
    """What data set and schedulers add to checkpoints is their authors' choice; torch >= 2.6 reads plain values."""
    file = io.BytesIO()
    metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None)
    torch.save(dict(metainfo=metainfo, schedulers=_states(runner.param_schedulers)), file)
    file.seek(0)
    try:
        torch.load(file)
    except pickle.UnpicklingError as error:
        print_log(
            'Checkpoints of this run could be read, and resumed from, only with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in '
            'the environment: metainfo of the training data set, or a scheduler, holds more than tensors, numbers, '
            f'texts, lists and dicts of them. Make plain values of it. torch says: {" ".join(str(error).split())}',
            logger='current',
            level=logging.WARNING,
        )


def _states(schedulers: Any) -> Any:
    """States of a list of schedulers, or of lists by name (several optimizers)."""
    if isinstance(schedulers, dict):
        return {name: _states(own) for name, own in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers or ()]


class _Elsewhere:
    """A runner as upstream's hook is to see it while it saves.

    Its `work_dir`, where the hook writes `last_checkpoint`, is another folder. A checkpoint notes all that are `kept`
    while it is written: if the run is killed before it deletes the oldest, upstream's hook does so when it is resumed.
    """

    def __init__(self, runner: Runner, work_dir: str, kept: list[int] | None) -> None:
        self.work_dir = work_dir
        self._runner = runner
        self._kept = kept

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self._kept is not None:
            self._runner.message_hub.update_info('keep_ckpt_ids', self._kept)
        self._runner.save_checkpoint(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


@contextmanager
def _pointer_written_aside(work_dir: Path) -> Iterator[Path]:
    """A folder to write `last_checkpoint` in, which takes its place in `work_dir` when it is complete."""
    folder = work_dir / (POINTER + UNFINISHED)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
        _replace(folder / POINTER, work_dir / POINTER)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mend(work_dir: Path, template: str) -> None:
    """Delete what is half written, and let `last_checkpoint` name a complete file if there is one."""
    pointer = work_dir / POINTER
    named = pointer.read_text().strip() if pointer.is_file() else ''
    folder = Path(named).parent if named else work_dir
    if not folder.is_dir():  # the work folder was moved, or the path is relative to another folder
        folder = work_dir
    names = re.compile(f'({POINTER}|(best_.+_)?{_pattern(template)}){re.escape(UNFINISHED)}')
    for leftover in [path for place in {work_dir, folder} for path in place.iterdir() if names.fullmatch(path.name)]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    if not pointer.is_file() or (named and (Path(named).is_dir() or zipfile.is_zipfile(named))):
        return
    good = [path for path in _numbered(folder, template) if zipfile.is_zipfile(path)]
    if not good:
        return
    print_log(
        f'{pointer} names {named!r}, which is missing or cut off. The newest complete checkpoint is {good[-1]}: '
        '--resume takes that one.',
        logger='current',
        level=logging.WARNING,
    )
    _WholeFiles().put(str(good[-1]).encode(), pointer)


def _numbered(folder: Path, template: str) -> list[Path]:
    """Checkpoints that the hook wrote, the newest last."""
    pattern = re.compile(_pattern(template))
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _pattern(template: str) -> str:
    """A regular expression for the names of checkpoints, with a group for the number."""
    return r'(\d+)'.join(map(re.escape, re.split(r'{.*?}', template)))
