"""The processes that share one training, and the device of this one: a thin layer over Hugging Face accelerate.

Every process holds the whole program and takes its part of each batch, so that the batch of all of them is the batch of
one. What is summed over them is summed in one place, here; files and words are the main process's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from edgespa.errors import ConfigError

Precision = Literal["no", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those that share a training.

    Attributes:
        count: How many there are.
        index: Which one this is; 0 is the main one.
        device: What this one computes on.
        precision: Of the forward and backward passes of training; everything else is in the weights' own.
        accelerator: Hugging Face's object behind it; None for one process on a CPU that nothing was asked for.
    """

    count: int = 1
    index: int = 0
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "no"
    accelerator: Any = None

    @classmethod
    def start(cls, precision: Precision | None = None) -> Processes:
        """Join those that ``accelerate launch`` or ``torchrun`` started; else be alone, on a GPU if there is one.

        Args:
            precision: None for what accelerate was told, which is full precision if it was told nothing.

        Raises:
            ConfigError: If the device cannot train in that precision.
        """
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state()  # a script may adapt twice, with another precision; processes stay as they are
        on_cpu = not torch.cuda.is_available()
        try:
            accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision)
        except (ValueError, ImportError) as error:
            raise ConfigError(str(error), "train with --mixed-precision no or bf16") from error
        used = accelerator.mixed_precision
        if used not in ("no", "bf16", "fp16"):
            raise ConfigError(f"accelerate was set to the precision {used}", "use no, bf16 or fp16")
        if used == "fp16" and accelerator.device.type == "cpu":  # accelerate would use float32, without a word
            raise ConfigError("fp16 needs a GPU", "train with --mixed-precision no or bf16")
        return cls(accelerator.num_processes, accelerator.process_index, accelerator.device, used, accelerator)

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and says something."""
        return self.index == 0

    def end(self) -> None:
        """Leave the others; nothing is summed any more."""
        if self.count > 1:
            self.accelerator.end_training()

    def require_even(self, batch_size: int) -> None:
        """Refuse a batch that cannot be split evenly.

        Raises:
            ConfigError: It says which batch size would do.
        """
        if batch_size % self.count:
            raise ConfigError(
                f"a batch of {batch_size} images cannot be split over {self.count} processes",
                f"give a --batch-size that {self.count} divides: it is the batch of all processes together",
            )

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the training precision."""
        if self.accelerator is None:
            yield
        else:
            with self.accelerator.autocast():
                yield

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled where the precision needs it."""
        if self.accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(loss)

    def step(self, optimizer: Optimizer, clip: float | None = None) -> None:
        """One step along the mean of all processes' gradients, which is the gradient on the batch of all.

        Args:
            optimizer: Of the same parameters everywhere.
            clip: The longest that the gradient may be; a longer one is shortened.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._average(gradients)
        scaler = self.scaler
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            _shorten(gradients, clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    @property
    def scaler(self) -> Any:
        """What keeps gradients in the range of fp16, if anything does."""
        return getattr(self.accelerator, "scaler", None)

    def _average(self, tensors: Sequence[Tensor]) -> None:
        if self.count == 1 or not tensors:
            return
        flat = self.total(torch.cat([tensor.flatten() for tensor in tensors])) / self.count
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, part in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.copy_(part.reshape(tensor.shape))

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each.

        Args:
            values: Of one shape everywhere, on any device.
        """
        if self.count == 1:
            return values
        result = values.detach().to(self.device, copy=True).contiguous()
        torch.distributed.all_reduce(result)
        return result.to(values.device)

    def totals(self, numbers: Iterable[float]) -> list[float]:
        """Sums of some numbers over all processes."""
        own = list(numbers)
        return own if self.count == 1 else self.total(torch.tensor(own, dtype=torch.float64)).tolist()

    def gathered(self, values: Tensor) -> Tensor:
        """What every process has, ``[processes, ...]``, the same in each.

        Args:
            values: Bytes (uint8), of one shape everywhere.
        """
        rows = torch.zeros((self.count, *values.shape), dtype=torch.int32)
        rows[self.index] = values
        return self.total(rows).to(torch.uint8)

    def from_main(self, values: Tensor) -> Tensor:
        """What the main process has, in all of them."""
        if self.count == 1:
            return values
        result = values.detach().to(self.device, copy=True).contiguous()
        torch.distributed.broadcast(result, 0)
        return result.to(values.device)

    @property
    def part(self) -> tuple[int, int]:
        """Which part of each batch is this process's: the index, of how many."""
        return self.index, self.count


def _shorten(gradients: Sequence[Tensor], most: float) -> None:
    """Make the vector of all gradients at most so long.

    As ``torch.nn.utils.clip_grad_norm_``, but the same to the last bit in whatever order they come: a run that is gone
    on with has its parameters in another one.
    """
    if gradients:
        norms = torch.stack([torch.linalg.vector_norm(each) for each in gradients]).sort().values
        factor = (most / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
        for each in gradients:
            each.mul_(factor)


ALONE = Processes()


def synced_batch_norm(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    _cudnn: bool,
) -> Tensor:
    """Batch norm in training form over the batch of all processes, as one process would compute it.

    Mean, then biased variance about that mean, each a sum over all processes; the running variance gets the unbiased
    one. Stands in for ``aten.batch_norm``, with its arguments; all processes have batches of one shape.

    Args:
        inputs: ``[N, C, ...]``.
        weight: ``[C]``.
        bias: ``[C]``.
        running_mean: ``[C]``, updated in place.
        running_var: ``[C]``, updated in place.
        training: Always true: evaluation does not come here.
        momentum: Share of this batch in the running statistics.
        eps: Added to the variance.
        _cudnn: Not looked at.
    """
    dims = [0, *range(2, inputs.dim())]
    shape = [1, -1, *[1] * (inputs.dim() - 2)]
    values = inputs.float() if inputs.dtype in (torch.float16, torch.bfloat16) else inputs
    count = values.numel() // values.shape[1] * torch.distributed.get_world_size()
    mean = _summed(values.sum(dims)) / count
    centred = values - mean.reshape(shape)
    variance = _summed(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result = centred * (variance + eps).rsqrt().reshape(shape)
    if weight is not None:
        result = result * weight.reshape(shape)
    if bias is not None:
        result = result + bias.reshape(shape)
    return result.to(inputs.dtype)


def _summed(values: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return result


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        result = values.clone()
        torch.distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = gradients[0].clone()
        torch.distributed.all_reduce(result)
        return result
