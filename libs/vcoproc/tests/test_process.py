"""What every service process does alike."""

from __future__ import annotations

import subprocess
import sys

LIMITED = """
import resource
from vcoproc.runtime.process import main_guard
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
main_guard("test", lambda: print(resource.getrlimit(resource.RLIMIT_NOFILE)))
"""


def test_a_service_takes_as_many_files_as_it_may() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(200, 200)\n"
