"""Policies from outside: bytes that were pushed, or a file that changed; checked before anything is done.

With a public key (Ed25519, PEM) only signed policies are taken: the signature of the file's bytes, 64 bytes
of its own, lies beside the file as `policy.npz.sig` or comes with the push. How to make keys and sign:
docs/security.md.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..config import Config
from ..errors import AdaphiError, ConfigError, InvalidRequest, MissingExtraError, PolicyError
from ..policies import files
from ..policies.rules import is_rule
from .rollout import Rollout

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

log = logging.getLogger("adaphi")

Seen: TypeAlias = tuple[int, int, int]
"""A file's time, size and node."""


class PolicySource:
    """Where a daemon's policies come from: one at the start; later ones are pushed, or the file changes.

    Later ones are offered to a rollout, and decide in the shadow first; a bad one changes nothing.
    """

    def __init__(self, config: Config) -> None:
        self._gate = PolicyGate(config.policy_key)
        self._named = config.policy
        self._file = _watched(config.policy)

    def first(self) -> str | files.Solved | None:
        """Return what the daemon begins with: a rule's name, a policy, or None; raise `PolicyError`."""
        return self._named if self._file is None else self._gate.load(self._file.path)

    def push(self, rollout: Rollout, content: bytes, signature: bytes | None) -> None:
        """Offer a pushed policy; raise `InvalidRequest` if it is not taken."""
        try:
            rollout.offer(self._gate.open(content, signature))
        except AdaphiError as error:
            raise InvalidRequest(str(error)) from None
        log.info("a policy was pushed: it decides in the shadow")

    def look(self, rollout: Rollout) -> None:
        """Offer the policy in the file, if that has changed."""
        file = self._file
        if file is None or not file.changed():
            return
        try:
            rollout.offer(self._gate.load(file.path))
        except AdaphiError as error:
            log.error("the changed policy is not taken: %s", error)
        else:
            log.info("%s has changed: it decides in the shadow", file.path)

    def follow(self, config: Config, rollout: Rollout | None) -> None:
        """Offer what a new configuration names, a file or a rule, if it is another, and watch that file.

        Raises `PolicyError` or `InputError` for what cannot be had, and then goes on with the one before.
        """
        named = config.policy
        if named is None or named == self._named:
            return
        file = _watched(named)
        if rollout is not None:
            rollout.offer(named if file is None else self._gate.load(file.path))
            log.info("the policy is to be %s: it decides in the shadow", named)
        self._named, self._file = named, file


class PolicyGate:
    """Turns bytes into a policy, or says why not; with `public_key` (a PEM file) only if they are signed.

    Raises `ConfigError` for a key that cannot be read, `MissingExtraError` without the extra `signed`.
    """

    def __init__(self, public_key: str | Path | None = None) -> None:
        self._key = None if public_key is None else _load_key(Path(public_key))

    def open(self, content: bytes, signature: bytes | None) -> files.Solved:
        """Return the policy; raise `PolicyError` for a bad or missing signature, or a damaged policy."""
        if self._key is not None:
            from cryptography.exceptions import InvalidSignature

            if signature is None:
                raise PolicyError("the policy is not signed", help="how: docs/security.md")
            try:
                self._key.verify(signature, content)
            except InvalidSignature:
                raise PolicyError("the policy's signature is not the key's") from None
        return files.from_bytes(content)

    def load(self, path: Path) -> files.Solved:
        """Return the policy in `path`, its signature beside it; raise `PolicyError` naming the file."""
        try:
            content = path.read_bytes()
            beside = signature_path(path)
            return self.open(content, beside.read_bytes() if beside.exists() else None)
        except OSError as error:
            raise PolicyError(f"{path}: {error.strerror}") from None
        except PolicyError as error:
            raise PolicyError(f"{path}: {error.message}", help=error.help) from None


class WatchedFile:
    """A file and its signature, looked at now and then: changed if time, size or node of either has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._look()

    def changed(self) -> bool:
        """Say whether the file is another one than when last asked; a file that is gone has not changed."""
        now = self._look()
        if now is None or now == self._seen:
            return False
        self._seen = now
        return True

    def _look(self) -> tuple[Seen, Seen | None] | None:
        seen = _seen(self.path)
        return None if seen is None else (seen, _seen(signature_path(self.path)))


def _seen(path: Path) -> Seen | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def signature_path(path: Path) -> Path:
    """Return where a policy file's signature lies."""
    return path.with_name(path.name + ".sig")


def _watched(policy: str | None) -> WatchedFile | None:
    """Return the file that a configuration names as policy, None where that is a rule or nothing."""
    return None if policy is None or is_rule(policy) else WatchedFile(Path(policy))


def _load_key(path: Path) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise MissingExtraError("signed policies", "signed") from None
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror} - at `$.policy_key`") from None
    except ValueError as error:
        raise ConfigError(
            f"{path}: not a public key in PEM ({error}) - at `$.policy_key`"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 key - at `$.policy_key`")
    return key
