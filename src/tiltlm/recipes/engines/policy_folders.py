"""The weights of the policy on the disk, for servers that load them: one folder a round, `sync/VERSION/`."""

import shutil
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from safetensors import SafetensorError

from tiltlm.core import RunError
from tiltlm.data import Encoder
from tiltlm.distributed import Ranks
from tiltlm.models import Policy
from tiltlm.models.saving import save_policy
from tiltlm.reference import model_digest
from tiltlm.storage.files import sync, write_json

KEPT = 2
"""Versions that stay on the disk."""
READY = "ready.json"
"""The last file of a folder: with it the folder is whole."""


@dataclass(frozen=True)
class PolicyFolders:
    """The folders of one loop."""

    folder: Path
    """Where they are: an absolute path, since a server reads it."""
    policy: Policy
    encoder: Encoder
    response_end: int
    """The token that ends responses."""
    merges: bool
    """True: a whole model, with an adapter added to its weights. False: an adapter alone."""

    def version(self, number: int) -> str:
        """Return a name for the weights of now in a round; no other weights and no other loop have it."""
        loop = blake2b(str(self.folder).encode(), digest_size=3).hexdigest()
        return f"tiltlm-{loop}-{number:04d}-{model_digest(self.policy.module)[:8]}"

    def write(self, version: str, ranks: Ranks) -> Path:
        """Write the weights of now, unless they are there, and return their folder.

        Args:
            version: Their name.
            ranks: The processes of the run, which call it together. Those that share a sharded policy write it
                together; else rank 0 alone writes.

        Raises:
            RunError: The disk is full, or a file cannot be written.
        """
        if self.policy.sharding is None:
            return ranks.first(lambda: self._write(version, Ranks()))
        return self._write(version, ranks)

    def _write(self, version: str, ranks: Ranks) -> Path:
        path = self.folder / version
        if ranks.first(lambda: (path / READY).exists()):
            return path
        ranks.first(lambda: shutil.rmtree(path, ignore_errors=True))
        template = self.encoder.given_template
        try:
            save_policy(self.policy, path, self.merges, chat_template=template, response_end=self.response_end)
            ranks.first(lambda: _seal(path, version))
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{path}: the weights for the server could not be written ({error}). Free space there, then go on with "
                "--resume",
                code="not_writable",
                key="output",
            ) from error
        return path

    def others(self, version: str) -> list[Path]:
        """Return the folders of other versions, the newest first."""
        found = [path for path in self.folder.glob("tiltlm-*") if path.name != version]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def delete_old(self, version: str) -> None:
        """Delete all versions but this one and the newest other one."""
        for path in self.others(version)[KEPT - 1 :]:
            shutil.rmtree(path)


def _seal(path: Path, version: str) -> None:
    """Have a folder on the disk, and write its last file."""
    for file in path.iterdir():
        sync(file)
    write_json(path / READY, {"version": version})
