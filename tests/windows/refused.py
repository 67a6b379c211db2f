"""Tries, as a module of soulsai would, each thing that the simulation refuses; names the errors."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
from tests.windows import simulation

os.environ[simulation.FILES] = os.getcwd()
simulation.install()
CASES = {
    "module": "import fcntl",
    "name": "from os import getuid",
    "attribute": "import signal; signal.SIGKILL",
    "socket": "import socket; socket.AF_UNIX",
    "fork": "import os; os.fork()",
    "really forks": "import multiprocessing; multiprocessing.get_context('fork').Process().start()",
    "signal": "import signal; signal.signal(1, signal.SIG_IGN)",
    "session": "import subprocess; subprocess.run(['true'], preexec_fn=print)",
    "select": "import select; select.select([], [], [], 0)",
    "folder": "import os; os.open('.', os.O_RDONLY)",
    "device": "open('con.txt', 'w')",
    "colon": "open('12:30', 'wb')",
    "dot": "import os; os.mkdir('run.')",
    "open": "from pathlib import Path; file = open('a', 'wb'); Path('a').unlink()",
    "around": "import os; os.mkdir('d'); file = open('d/a', 'wb'); os.rename('d', 'e')",
    "exists": "from pathlib import Path; Path('f').touch(); Path('f').rename('f')",
    "encoding": "from pathlib import Path; Path('f').read_text()",
}
for case, code in CASES.items():
    try:
        exec(compile(code, case, "exec"), {"__name__": "soulsai.made_up", "__package__": "soulsai"})
    except Exception as error:
        sys.stdout.write(f"{case}: {type(error).__name__}\n")
