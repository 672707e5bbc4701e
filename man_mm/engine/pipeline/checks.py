"""What makes processes of a pipeline depend on each other, refused before training starts."""

from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ...local import LocalBackbone
from ...readout import build_readout
from ..optim_wrapper import LocalOptimWrapper

__all__ = ['refuse_dependence', 'refuse_split_data']

WHERE = "with model_wrapper_cfg.type='man_mm.LocalPipeline'"


def refuse_dependence(host: nn.Module, backbone: LocalBackbone, optim_wrapper: OptimWrapper) -> None:
    """Raise ValueError if one process' step needs what another one computes in the same step."""
    assert isinstance(optim_wrapper, LocalOptimWrapper)
    if not optim_wrapper.serves(host):
        raise ValueError("custom_hooks lacks dict(type='man_mm.FeatureBankHook'), or has it after man_mm.PipelineHook.")
    readout = build_readout(host, backbone.num_modules)
    if readout.task_type.num_calls > 1 or readout.task_type.extract.startswith('backbone.'):
        raise ValueError(
            f'model.type={type(host).__name__} makes the images of its backbone itself, of several views or frames, '
            f'which no process {WHERE} but the last one does: train it without man_mm.LocalPipeline.'
        )
    shared = {p for auxiliary in backbone.auxiliaries for p in readout.shared_parameters(auxiliary)}
    if shared:
        names = [name for name, p in host.named_parameters() if p in shared]
        raise ValueError(
            f"auxiliary.head, auxiliary.neck or auxiliary.tail is 'shared' {WHERE}: local losses train {len(names)} "
            f'parameters of the last process, e.g. {names[0]}, so that each process would wait for all the others in '
            "every step. Set head='private', the config of a neck, tail='private'."
        )
    if any(auxiliary.follows for auxiliary in backbone.auxiliaries):
        raise ValueError(
            f'auxiliary.follow lets units of auxiliaries follow later ones of the backbone, which other processes '
            f'{WHERE} train: this one has old weights of them. Leave it out.'
        )
    if optim_wrapper.clip_grad_kwargs and not optim_wrapper.clip_per_module:
        raise ValueError(
            f'optim_wrapper.clip_grad clips by one norm over all parameters, of which each process {WHERE} has a part '
            'of the gradients: set clip_grad.per_module=True.'
        )
    if isinstance(optim_wrapper, AmpOptimWrapper) and optim_wrapper.loss_scaler.is_enabled():
        raise ValueError(
            f'optim_wrapper.loss_scale is one decision for all modules, which each process {WHERE} would take for '
            "itself: set dtype='bfloat16', loss_scale=dict(enabled=False)."
        )


def refuse_split_data(runner: Runner) -> None:
    """Raise ValueError if data or learning rate are those of processes with a part of the data each."""
    sampler = runner.train_dataloader.sampler
    parts = max(getattr(sampler, 'world_size', 1), getattr(sampler, 'num_replicas', 1))
    if parts > 1:
        raise ValueError(
            f'train_dataloader.sampler.type={type(sampler).__name__} gives each of {parts} processes a part of the '
            f"data, but {WHERE} all train on the same batches: set sampler=dict(type='man_mm.WholeSampler', ...), with "
            'inner=... for another type than DefaultSampler.'
        )
    if runner.auto_scale_lr and runner.auto_scale_lr.get('enable'):
        raise ValueError(
            f'auto_scale_lr.enable=True scales the lr by the number of processes, but {WHERE} they see one batch '
            'together: leave out --auto-scale-lr, and scale the lr yourself if the batch is another one.'
        )
