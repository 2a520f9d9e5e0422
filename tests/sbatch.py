"""A stand-in for SLURM's sbatch: it reads the options of a script and runs each task of its array.

It refuses options that it does not know, sets the variables that SLURM sets, and writes the output
where ``--output`` says (%x: job name, %A: job id, %a: task id).
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

JOB = "4711"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    for name in ("job-name", "array", "nodes", "ntasks", "gres", "cpus-per-task", "mem", "time",
                 "output", "signal"):  # fmt: skip
        parser.add_argument(f"--{name}")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs="*")
    script = next(word for word in words if word.endswith(".sbatch"))
    text = Path(script).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n")
    options = re.findall(r"^#SBATCH (\S+)$", text.partition("\nset ")[0], re.M)
    args = parser.parse_args([*options, *words])  # the command line takes precedence
    assert re.fullmatch(r"\d+:\d\d:\d\d", args.time) and re.fullmatch(r"\d+[MG]", args.mem)
    assert re.fullmatch(r"gpu:\d+", args.gres) and args.nodes == args.ntasks == "1"
    first, _, last = args.array.partition("-")
    codes = []
    for task in range(int(first), int(last or first) + 1):
        slurm = {"SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_ARRAY_TASK_ID": str(task),
                 "SLURM_JOB_ID": JOB, "SLURM_NTASKS": args.ntasks}  # fmt: skip
        log = args.output.replace("%x", args.job_name).replace("%A", JOB).replace("%a", str(task))
        with open(log, "w") as out:
            command = ["bash", script, *args.arguments]
            done = subprocess.run(command, env=os.environ | slurm, stdout=out, stderr=out)
        codes.append(done.returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
