"""Values for stores of others: a digest of address and value tells what was really put there."""

import hashlib
import logging

from refrag_rag.errors import StoreError
from refrag_rag.store.entry import PassageEntry

DIGEST = 16
logger = logging.getLogger(__name__)


def seal(address: str, entry: PassageEntry) -> bytes:
    """Bytes of an entry that can be read only where it was put."""
    data = entry.to_bytes()
    return _digest(address, data) + data


def unseal(address: str, sealed: object) -> PassageEntry | None:
    """Read what `seal` made; anything else counts as not there, and is logged.

    So a store that lost, mixed up or damaged a value costs an encoding and never gives a wrong
    vector.
    """
    if sealed is None:
        return None
    if isinstance(sealed, bytes | bytearray | memoryview):
        data = bytes(sealed)
        if _digest(address, data[DIGEST:]) == data[:DIGEST]:
            try:
                return PassageEntry.from_bytes(data[DIGEST:])
            except StoreError as error:  # whole, but of a newer version
                logger.warning("%s: %s", address, error)
                return None
    logger.warning("The value at %s is not what was put there; it counts as missing.", address)
    return None


def _digest(address: str, data: bytes) -> bytes:
    place = hashlib.sha256(address.encode()).digest()
    return hashlib.blake2b(data, digest_size=DIGEST, key=place).digest()
