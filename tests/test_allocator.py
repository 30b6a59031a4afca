import os
import subprocess
import sys

from rspretrain.allocator import TUNABLES

PROGRAM = """
import os, sys
from rspretrain.allocator import keep_large_tensors
keep_large_tensors()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


def start(path, **environment):
    path.write_text(PROGRAM)
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | environment
    process = subprocess.Popen(
        [sys.executable, "-u", str(path), "a b", "c"], env=env, stdout=subprocess.PIPE, text=True
    )
    return process.pid, process.communicate(timeout=60)[0].strip()


def test_restart_with_the_same_process_id_and_arguments(tmp_path):
    pid, output = start(tmp_path / "program.py")
    assert output == f"{pid} {TUNABLES} ['a b', 'c']"


def test_existing_tunables_are_kept(tmp_path):
    assert start(tmp_path / "program.py", GLIBC_TUNABLES="glibc.malloc.check=0")[1].split()[1] == "glibc.malloc.check=0"
