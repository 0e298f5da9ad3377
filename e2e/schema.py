"""The API's own description against the program: Schemathesis makes requests from `/api/openapi.json`, right ones and wrong ones, and judges
the answers by it. No answer may be a failure of the server, have an undocumented status, or have a body that is not what is described.

    python schema.py <program>            E2E_EXAMPLES=500 for a longer look at every operation
"""

import os
import pathlib
import subprocess
import sys

from common import Server, check, equal, finish

PROGRAM = sys.argv[1]
EXAMPLES = os.environ.get("E2E_EXAMPLES", "10")
SEED = os.environ.get("E2E_SEED", "1")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"

server = Server(PROGRAM, settings=["log.level=warn"])


def described(who, key):
    def run():
        schemathesis = pathlib.Path(sys.executable).parent / "schemathesis"
        command = [
            schemathesis, "run", f"{server.base}/api/openapi.json",
            "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED, "--phases", "coverage,fuzzing", "--continue-on-failure",
            "--request-timeout", "30", "--warnings", "off", "--suppress-health-check", "all", "--no-color",
            # It has no end.
            "--exclude-path", "/api/live",
        ]
        if key:
            command += ["--header", f"Authorization: Bearer {key}"]
        # Its database of examples would be written to where it is run.
        done = subprocess.run(command, cwd=server.folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-int(os.environ.get("E2E_OUTPUT", "3000")):] + done.stderr[-500:]
        assert "Test cases" in done.stdout or "passed" in done.stdout, done.stdout[-500:]

    check(f"schema: {who} is answered as /api/openapi.json says", run)


try:
    server.start()
    admin = server.admin_key("dsd", "admin")
    described("somebody without a key", None)
    described("a department's administrator", admin)
    log = (server.folder / "server.log").read_text(errors="replace")
    check("schema: nothing panicked", lambda: equal([line for line in log.splitlines() if "panic" in line], []))
finally:
    server.close()
finish()
