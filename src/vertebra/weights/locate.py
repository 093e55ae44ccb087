"""Where a checkpoint is: a file, a folder, a repository on the Hugging Face Hub or a URL; from these two it is
downloaded, once."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import torch

from vertebra.errors import VertebraError, first_line, nearest, shown
from vertebra.files import expanded
from vertebra.weights.card import Weights

FILES = ("best.safetensors", "model.safetensors", "pytorch_model.bin")
"""What is looked for in a folder or a Hub repository, best first."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pdparams", ".pdopt", ".pdmodel")
"""Of files that hold checkpoints, or stand beside them."""
_HUB = "hf-hub:"
_RUNS = "runs"  # where training writes, also if nothing has been trained here
_SECONDS = 4.0
"""How long a server has for its first answer. Downloads, which take longer, begin only after it."""


class UnknownName(VertebraError):
    """No checkpoint of this name is known; the message can be followed by the nearest that is."""


def locate(where: str | Path | Weights) -> Path:
    """The file of a checkpoint, downloaded if need be.

    Args:
        where: a file, a folder that holds one of FILES, a Hub name such as `timm/resnet50.a1_in1k`, or the card of a
            published checkpoint. What looks like a path is never looked for on the Hub; `hf-hub:` before a Hub name
            says that it is one.

    Raises:
        UnknownName: if it is neither a path nor the name of a repository.
        VertebraError: if it is not there, cannot be downloaded, or is not what was published.
    """
    if isinstance(where, Weights):
        return _from_url(where) if where.url else _from_hub(where.hub, (where.file,) if where.file else FILES)
    name = str(where)
    if not name.startswith(_HUB):
        path = expanded(where)
        if path.is_dir():
            return _in_folder(path)
        if path.is_file():
            return path
        if isinstance(where, Path) or _is_path(name):
            raise VertebraError(f"{shown(name)} does not exist: there is no such file or folder.{_neighbour(path)}")
    owner, slash, repository = name.removeprefix(_HUB).partition("/")
    if slash:
        return _from_hub(f"{owner}/{repository}", FILES)
    raise UnknownName(
        f"{shown(name)} is neither a published checkpoint, a file, a folder nor a Hub name of the form owner/name; "
        "`vertebra models --weights` lists the published ones."
    )


def _is_path(name: str) -> bool:
    """Whether a name is written as that of a file or folder, although there is none."""
    if name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or name.endswith(("/", *SUFFIXES)):
        return True
    folder, slash, _ = name.partition("/")
    return bool(slash) and (folder == _RUNS or Path(folder).is_dir())


def _neighbour(path: Path) -> str:
    """What stands in the same folder under nearly the same name, as a question."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return nearest(path.name, names)


def _in_folder(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise VertebraError(f"{folder} holds no checkpoint: looked for {', '.join(FILES)}.")


def _answer(ask: Callable[[], Any]) -> Any:
    """What a server answers, within a time in which name servers and all its addresses have to be tried too."""
    answers: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {_SECONDS:g} seconds")
    return answers[0]


def _from_hub(repository: str, files: Sequence[str]) -> Path:
    """The first of `files` that a repository has. The Hub is asked once, because its library tries six times."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UnknownName(f"{shown(repository)} cannot be the name of a Hub repository: {first_line(error)}") from error
    for name in files:
        try:
            url = hf_hub_url(repository, name)
            _answer(lambda url=url: get_hf_file_metadata(url, timeout=_SECONDS))  # type: ignore[misc]
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except OfflineModeIsEnabled as error:
            problem: VertebraError = VertebraError(
                f"{repository} is not in the cache, {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set, so the Hub "
                "was not asked: unset it, or give the path of a downloaded file."
            )
            cause: Exception = error
        except Exception as error:  # of several libraries, by the version of huggingface_hub
            problem, cause = _hub_problem(repository, error), error
        cached = [path for file in files if isinstance(path := try_to_load_from_cache(repository, file), str)]
        if cached:
            return Path(cached[0])
        raise problem from cause
    raise VertebraError(f"Hub repository {repository} holds none of {', '.join(files)}.")


def _hub_problem(repository: str, error: Exception) -> VertebraError:
    """Why a repository cannot be read, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, GatedRepoError):
        return VertebraError(
            f"{repository} is gated: accept its terms at {page}, and log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RepositoryNotFoundError):
        return UnknownName(
            f"the Hub has no repository {repository} that everybody may read: check the spelling; if it is private, "
            "log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, HfHubHTTPError):
        return VertebraError(f"the Hub answers {page} with the status {error.response.status_code}: try again later.")
    return VertebraError(
        f"{repository} is not in the cache, {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} does not answer "
        f"({first_line(error)}): this machine is offline, or a firewall is in the way. Give the path of a downloaded "
        "file; HF_HUB_OFFLINE=1 uses the cache alone."
    )


def _from_url(card: Weights) -> Path:
    """A file of which one URL is published, kept where torch.hub keeps such."""
    folder = Path(torch.hub.get_dir(), "checkpoints")
    parts = urlsplit(card.url).path.split("/")
    sha256 = card.checksum.startswith("sha256:")
    path = folder / "-".join(parts[-1 if sha256 else -2 :])  # a name with such a hash is unique
    if path.is_file() and _has_checksum(path, card.checksum):
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    request = urllib.request.Request(card.url, method="HEAD")
    try:
        with _answer(lambda: urllib.request.urlopen(request, timeout=_SECONDS)) as response:
            size = response.headers.get("Content-Length")
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(card.url, str(partial), progress=sys.stderr.isatty())
        if size is not None and partial.stat().st_size != int(size):
            raise VertebraError(f"{card.url} broke off before its {int(size):,} bytes were downloaded: try again.")
        if not _has_checksum(partial, card.checksum):
            algorithm, _, digits = card.checksum.partition(":")
            raise VertebraError(
                f"{card.url} is not the file that was published: its {algorithm} does not begin with {digits}. Nothing "
                "was kept."
            )
        partial.replace(path)
    except HTTPError as error:
        raise VertebraError(
            f"{card.url} cannot be downloaded: its server answers with the status {error.code}."
        ) from error
    except OSError as error:
        raise VertebraError(
            f"{path.name} is not in {folder}, and {card.url} cannot be downloaded ({first_line(error)}): this machine "
            "is offline, or a firewall is in the way. Download the file elsewhere and give its path."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has the checksum of a card; True if there is none."""
    algorithm, _, digits = checksum.partition(":")
    if not digits:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(digits)
