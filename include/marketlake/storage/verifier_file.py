"""The offline verifier as one file: the folder ``proof``, zipped, with a line that starts it.

Same sources, same bytes: dates are fixed and nothing is compressed, so that its hash can be
published. What does not belong here: what it verifies (``proof``).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from marketlake.storage import proof

_PACKAGE = "ledger_proof"
_STARTER = "#!/usr/bin/env python3\n"
_MAIN = f"import sys\n\nfrom {_PACKAGE}.__main__ import main\n\nsys.exit(main())\n"
_DATE = (1980, 1, 1, 0, 0, 0)


def write_verifier(path: Path) -> Path:
    """Write the verifier: ``python verify_ledger.pyz FILE --public-key VKEY``."""
    folder = Path(proof.__file__).parent
    members = {"__main__.py": _MAIN.encode()}
    for source in sorted(folder.glob("*.py")):
        members[f"{_PACKAGE}/{source.name}"] = source.read_bytes()
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as file:
        file.write(_STARTER.encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                member = zipfile.ZipInfo(name, _DATE)
                member.create_system = 3  # the same on every system
                member.external_attr = 0o644 << 16
                archive.writestr(member, content)
    unfinished.chmod(0o755)
    return unfinished.replace(path)
