r"""How long would a recipe train on a GPU that is not here? Count its work on the CPU and divide by stated speeds.

    RBM_DATA=data python benchmarks/size_recipes.py 'cifar-fs-*-full'

One update with one task is run on the CPU with the backend that a GPU uses. Its floating point operations are
multiplied by the tasks of an update, its kernels are not, since tasks run together there. To that comes what the CPU
does for every update (drawing and augmenting tasks), and validation. The parts are added up, as if none overlapped.
The speeds are assumptions, not measurements: an H200 whose convolutions reach --tflops and whose host starts a kernel
every --launch microseconds. `benchmarks/gpu.py` measures what a GPU really does.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from robustbench_meta import train, zoo
from robustbench_meta.catalog import family_of
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.descent import descend
from robustbench_meta.terminal import print_table
from robustbench_meta.train_plan import chosen
from robustbench_meta.types import Streams
