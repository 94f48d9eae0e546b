"""The script of a Slurm array with a task for each cell."""

import shlex
from collections.abc import Sequence

__all__ = ["array_script"]


def array_script(command: Sequence[str], count: int, cpus: int, gpus: float) -> str:
    """Return the script; a task that is requeued goes on behind what its cell finished.

    Args:
        command: that runs all cells; with `--cell N` it runs the N-th, from 1.
        count: of the cells.
        cpus, gpus: of each task.
    """
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=mrecg",
        f"#SBATCH --array=1-{count}",
        f"#SBATCH --cpus-per-task={cpus}",
        *([f"#SBATCH --gres=gpu:{-int(-gpus // 1)}"] if gpus else []),
        "#SBATCH --requeue",
        'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"',
        f'{shlex.join(command)} --cell "$SLURM_ARRAY_TASK_ID"',
    ]
    return "\n".join(lines) + "\n"
