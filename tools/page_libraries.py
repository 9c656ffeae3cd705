"""Fetch the JavaScript libraries of the HTML page from their npm packages into `deltafx/views/page/lib`.

Run as `make page-libraries`. Files are taken as they were published. `libraries.json` is written anew with the hashes
of what came, so `git diff` shows whether anything is another than before.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

LIB = Path(__file__).parents[1] / "deltafx/views/page/lib"
PACKAGES = {
    "cytoscape@3.34.4": ["dist/cytoscape.min.js"],
    "cytoscape-dagre@4.0.1": ["dist/cytoscape-dagre.min.js"],
    "@dagrejs/dagre@3.1.3": [],  # it is inside of cytoscape-dagre's file
    "tabulator-tables@6.5.3": ["dist/js/tabulator.min.js", "dist/css/tabulator_simple.min.css"],
    "uplot@1.6.32": ["dist/uPlot.iife.min.js", "dist/uPlot.min.css"],
}


def main() -> None:
    LIB.mkdir(exist_ok=True)
    libraries, licences = [], []
    for package, files in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", package], cwd=folder, check=True)
            (archive,) = Path(folder).iterdir()
            with tarfile.open(archive) as tar:
                contents = {name: read(tar, name) for name in ("package.json", "LICENSE", *files)}
        licence = json.loads(contents["package.json"])["license"]
        licences.append(f"{package} ({licence})\n\n{contents['LICENSE'].decode().strip()}\n")
        for name in files:
            (LIB / Path(name).name).write_bytes(contents[name])
            digest = hashlib.sha256(contents[name]).hexdigest()
            libraries.append({"file": Path(name).name, "package": package, "licence": licence, "sha256": digest})
    (LIB / "libraries.json").write_text(json.dumps(libraries, indent=1) + "\n")
    (LIB / "LICENCES.txt").write_text(("\n" + "-" * 80 + "\n\n").join(licences))


def read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"package/{name}")
    assert file is not None
    return file.read()


if __name__ == "__main__":
    main()
