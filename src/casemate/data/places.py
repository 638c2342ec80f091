"""Where data is sought: the user's folder, then the cache, then the mirrors. Two environment variables move the first
two (`CASEMATE_DATA`, `CASEMATE_CACHE`), and `CASEMATE_MIRROR` replaces the last."""

import os
from collections.abc import Sequence
from pathlib import Path

from casemate.data.canonical import CanonicalFile, Damaged, Source, read_file, read_members
from casemate.errors import CasemateError


def data_folder(root: Path | None) -> Path | None:
    """`root`, or else the folder that `CASEMATE_DATA` names, or None; raises `CasemateError` if it is no folder."""
    named = str(root) if root is not None else os.environ.get("CASEMATE_DATA", "")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise CasemateError(
            f"the data folder {folder} is no folder that can be read; name one that is, or leave CASEMATE_DATA unset"
        )
    return folder


def cache_folder(source: Source) -> Path:
    """Where the downloaded files of `source` are kept."""
    named = os.environ.get("CASEMATE_CACHE", "")
    if named:
        return Path(named).expanduser() / source.name / source.folder
    import pooch  # only here and in download.py: what is in the data folder is read without it

    return Path(pooch.os_cache("casemate")) / source.name / source.folder


def mirrors(source: Source) -> tuple[str, ...]:
    """URLs of the folders that hold the files: `CASEMATE_MIRROR`/NAME where that is set, the canonical ones otherwise.

    A mirror of one's own is laid out like a data folder, for instance MIRROR/mnist/train-images-idx3-ubyte.gz and
    MIRROR/cifar10/cifar-10-binary.tar.gz.
    """
    own = os.environ.get("CASEMATE_MIRROR", "")
    return (f"{own.rstrip('/')}/{source.name}",) if own else source.mirrors


def read(source: Source, files: Sequence[CanonicalFile], root: Path | None, progress: bool) -> list[bytes]:
    """The content of each of `files`, each with the published hash.

    A file in the data folder that does not hold what it must is refused, never passed over for a download; one in the
    cache is fetched again. Raises `CasemateError`.
    """
    contents = _read_from_data_folder(source, files, data_folder(root))
    missing = [file for file in files if file.name not in contents]
    if missing:
        contents |= _read_from_cache_or_mirror(source, missing, root, progress)
    return [contents[file.name] for file in files]


def where(source: Source, root: Path | None) -> str | None:
    """The folder or archive that has every file of `source` now (by name, unchecked), or None."""
    folder = data_folder(root)
    if folder is not None:
        found = [path for file in source.files if (path := _find(source, file.name, folder))]
        if len(found) == len(source.files):
            return str(found[0].parent)
        archive = _find(source, source.archive, folder) if source.archive else None
        if archive:
            return str(archive)
    cache = cache_folder(source)
    return str(cache) if all(os.path.isfile(cache / source.kept_as(file)) for file in source.files) else None


def _read_from_data_folder(source: Source, files: Sequence[CanonicalFile], folder: Path | None) -> dict[str, bytes]:
    if folder is None:
        return {}
    contents = {}
    for file in files:
        path = _find(source, file.name, folder)
        if path:
            try:
                contents[file.name] = read_file(path, file)
            except Damaged as error:
                raise _refusal(source, folder, path, error) from None
    missing = [file for file in files if file.name not in contents]
    archive = _find(source, source.archive, folder) if source.archive and missing else None
    if archive:
        try:
            contents |= {file.name: content for file, content in read_members(archive, missing)}
        except Damaged as error:
            raise _refusal(source, folder, archive, error) from None
    return contents


def _refusal(source: Source, folder: Path, path: Path, error: Damaged) -> CasemateError:
    return CasemateError(
        f"{path} {error}: put {source.name}'s own file into {folder / source.name}, or remove this one to have it "
        "downloaded"
    )


def _read_from_cache_or_mirror(
    source: Source, files: Sequence[CanonicalFile], root: Path | None, progress: bool
) -> dict[str, bytes]:
    cache = cache_folder(source)
    contents, damaged = {}, ""
    for file in files:
        path = cache / source.kept_as(file)
        if os.path.isfile(path):
            try:
                contents[file.name] = read_file(path, file)
            except Damaged as error:
                damaged += f"; {path} {error}"
    missing = [file for file in files if file.name not in contents]
    if not missing:
        return contents
    from casemate.data.download import Unavailable, download  # pooch, requests and rich: only for this

    try:
        return contents | download(source, missing, cache, mirrors(source), progress)
    except Unavailable as error:
        folder = data_folder(root)
        looked = f"{folder} or {cache}" if folder else f"{cache} (CASEMATE_DATA is not set)"
        names = " or ".join(file.name for file in missing)
        raise CasemateError(
            f"{source.name}: no usable {names} in {looked}{damaged}, and none to be had from {error}; "
            "name a folder that has the files in CASEMATE_DATA, or try again with a connection"
        ) from None


def _find(source: Source, name: str, folder: Path) -> Path | None:
    # os.path.isfile, here and above, is False for a folder that may not be entered; Path.is_file raises.
    for place in (folder / source.name / source.folder, folder / source.name, folder / source.folder, folder):
        for path in (place / name, place / f"{name}.gz"):
            if os.path.isfile(path):
                return path
    return None
