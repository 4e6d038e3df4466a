"""What a run computes on: the device, the numbers that it multiplies fastest, and what is shared by the process."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env


@contextmanager
def accelerated(precision: str) -> Iterator[Accelerator]:
    """An accelerator for this precision, or for "auto" that of :func:`best_precision`; ``mixed_precision`` names it.

    accelerate keeps one precision a process: one that the caller has is put back at the end. Options that accelerate
    takes from the environment, as ``accelerate launch`` sets them, change nothing here but devices and processes.

    Raises:
        ValueError: for fp16 without a GPU, or for parts of a network on several devices.
    """
    device = torch.device(PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device)
    precision = best_precision(device) if precision == "auto" else precision
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU: on this CPU use bf16 or fp32")
    shared = AcceleratorState._shared_state, GradientState._shared_state
    kept = [dict(state) for state in shared]
    try:
        for state in shared:
            state.clear()
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
        )
        kind = accelerator.distributed_type.value
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise ValueError(f"accelerate is set to {kind}: a run is trained by whole copies of the network alone")
        yield accelerator
    finally:
        for state, was in zip(shared, kept, strict=True):
            state.clear()
            state.update(was)


def best_precision(device: torch.device) -> str:
    """bf16 where the device multiplies matrices of it in hardware, else fp16 on a GPU and fp32 elsewhere."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and newer
        return "fp32"
    known = torch.cpu.get_capabilities()
    return "bf16" if known.get("amx_bf16") or known.get("avx512_bf16") else "fp32"


def device_name(device: torch.device) -> str:
    """What a record calls a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type.upper()}"


@cache
def keep_freed_memory() -> None:
    """From here on memory that is freed stays with this process, where that can be said (Linux with glibc).

    Otherwise each step of a large batch gives gigabytes back to the system and takes them anew, a page fault for
    every 4 kB.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, most_mapped, trim_threshold = ctypes.CDLL("libc.so.6"), -4, -1
        libc.mallopt(most_mapped, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
