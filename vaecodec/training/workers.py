"""The processes of a run: a single one, or those that torchrun started, each with its own device and crops."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from vaecodec.model.torch_engine.engine import pick_device


@dataclass(frozen=True)
class Workers:
    """This process among all processes of the run; the first (rank 0) writes, the others only compute."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> "Workers":
        """Joins the other processes, if torchrun started this one; each then uses the GPU of its local rank.

        Raises:
            VaecModelError: (DEVICE) the device cannot be used.
        """
        chosen = pick_device(device)
        if not distributed.is_torchelastic_launched():
            return cls(0, 1, chosen)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size(), chosen)

    def wait(self) -> None:
        """Waits for all processes: one that leaves early may close the others' connections."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Leaves the process group."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """Wraps the model so that it averages its gradients over all processes."""
        if self.count == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def everywhere(self, condition: Tensor) -> bool:
        """Whether a condition (bool scalar) holds in every process."""
        if self.count > 1:
            holds = condition.to(torch.int32)
            distributed.all_reduce(holds, distributed.ReduceOp.MIN)
            return bool(holds)
        return bool(condition)

    def from_first(self, value: float) -> float:
        """The first process's value, because clocks differ and all must take the same steps."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, 0)
        return float(shared)
