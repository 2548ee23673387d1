"""What may be fetched and opened: one guard for every way in.

An address is parsed once and resolved once; every IP address of its host must be global, and the
connection is made to one of these (`fetch.py`). A path under a media root is opened folder by folder
without following a link, so that nothing can change between check and opening.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from quire.errors import MediaError
from quire.machine.files import READ, READ_NO_LINK
from quire.media.policy import MediaPolicy

if TYPE_CHECKING:
    from yarl import URL

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_URL_SCHEMES = frozenset({"http", "https", "file", "ftp", "data", "blob", "javascript"})

# The networks that are no part of the public one, from IANA's special-purpose registries (RFC 6890)
# and address space registries. The `ipaddress` module has such a table, too, but which networks are
# in it depends on the interpreter's age.
_SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind a provider's NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, where most clouds have their metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle Cloud's metadata are at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112: name servers that anybody may announce
        "192.52.193.0/24",  # relays of multicast
        "192.88.99.0/24",  # relays of 6to4, withdrawn
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "168.63.129.16/32",  # in no registry: the host's own services inside Azure
    )
)
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that is assigned to global unicast. Outside are loopback, mapped IPv4 addresses, private,
link-local and multicast ones, and more."""
_SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo, benchmarks and ORCHID
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""How networks with IPv6 alone reach IPv4 addresses, which are the last four bytes."""


def scheme_of(text: str) -> str | None:
    """The scheme of an address, in lower case; None for a path, which may hold a colon too."""
    match = _SCHEME.match(text)
    if match is None or not (match[2] or match[1].lower() in _URL_SCHEMES):
        return None
    return match[1].lower()


def check_url(text: str, policy: MediaPolicy) -> URL:
    """Parse an address and hold it to the policy.

    Everything after this uses the parsed URL: two parsers, or one that runs twice, may disagree
    about where the host ends.

    Raises:
        MediaError: this is no http or https address, or one that may not be fetched.
    """
    from yarl import URL

    if not policy.urls:
        raise MediaError("addresses are not fetched here; send the data itself, as a data URL.")
    try:
        url = URL(text.strip())
        host, port = url.raw_host, url.port
    except ValueError:
        raise MediaError("the address is not a valid URL.") from None
    if url.scheme not in ("http", "https"):
        raise MediaError(f"addresses begin with http:// or https://, not {url.scheme[:20]}:.")
    if not host or not port:
        raise MediaError("the address names no host.")
    if url.raw_user is not None or url.raw_password is not None:
        raise MediaError("an address with a user name or password is not fetched.")
    return url.with_fragment(None)


def check_addresses(resolved: Iterable[str], policy: MediaPolicy) -> list[str]:
    """The IP addresses of one host, each checked: if one may not be reached, none is.

    Raises:
        MediaError: the host has no address, or one that is not global.
    """
    addresses = list(dict.fromkeys(resolved))
    if not addresses:
        raise MediaError("the address's host is not known.")
    if not all(is_allowed(address, policy) for address in addresses):
        raise MediaError("the address leads to a network that is not public.")
    return addresses


def is_allowed(text: str, policy: MediaPolicy) -> bool:
    """Whether a connection may be made to this IP address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    trusted = (ipaddress.ip_network(network, strict=False) for network in policy.networks)
    return is_global(address) or any(address in network for network in trusted)


def is_global(address: Address) -> bool:
    """Whether an address is one of the public network, and does not stand for another one.

    IPv6 has ways to write an IPv4 address; in those that public networks route (6to4, NAT64), the
    IPv4 address must be public too.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    if address.scope_id is not None:
        return False
    embedded = address.sixtofour
    if embedded is None and address in _NAT64:
        embedded = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if embedded is not None:
        return is_global(embedded)
    return address in _GLOBAL_IPV6 and not any(address in network for network in _SPECIAL_IPV6)


def open_path(name: str, policy: MediaPolicy, folder: str | None = None) -> BinaryIO:
    """Open a local file for reading.

    Args:
        name: the path as the caller gave it.
        policy: whether local files may be read, and of which folder.
        folder: where a relative path is looked for first, unless the policy has a root.

    Raises:
        MediaError: the file may not be read, is not there, is no plain file, or is too large.
    """
    if not policy.local_files:
        raise MediaError("local files are not read here; send the data itself, as a data URL.")
    try:
        if policy.root is not None:
            handle = _open_under(policy.root, name)
        else:
            handle = os.open(_located(name, folder), READ)
    except MediaError:
        raise
    except (OSError, ValueError) as error:
        raise MediaError(_why(error)) from None
    return _checked_file(handle, policy)


def _located(name: str, folder: str | None) -> str:
    inside = os.path.join(folder, name) if folder else name
    return inside if os.path.exists(inside) else name


def _open_under(root: Path, name: str) -> int:
    """Open a file under `root`: resolve its path first, then walk it without following any link.

    A link that is put there after the path was resolved makes the walk fail. Opening the resolved
    path at once would follow it.
    """
    outside = MediaError("the file is not inside the media root.")
    if ".." in Path(name).parts:
        raise MediaError("a path with '..' is not read; name the file from the media root on.")
    top = os.path.realpath(root)
    path = os.path.join(top, name)
    if not Path(path).is_relative_to(top) and not Path(path).is_relative_to(root):
        raise outside
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(top) or real == Path(top):
        raise outside
    *folders, last = real.relative_to(top).parts
    if os.open not in os.supports_dir_fd:  # on Windows, where links are made by administrators
        return os.open(real, READ_NO_LINK)
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            inner = os.open(part, READ_NO_LINK | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(last, READ_NO_LINK, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _checked_file(handle: int, policy: MediaPolicy) -> BinaryIO:
    try:
        facts = os.fstat(handle)  # of what was opened, which a path could no longer name
        if not stat.S_ISREG(facts.st_mode):
            raise MediaError("it is no file.")
        if facts.st_size > policy.max_file_bytes:
            raise too_large(policy.max_file_bytes)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _why(error: OSError | ValueError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file."
    if code in (errno.EACCES, errno.EPERM):
        return "the file may not be read."
    if code == errno.ELOOP:
        return "the file is not inside the media root."
    return (
        "the path is not valid." if code in (None, errno.ENAMETOOLONG) else "it cannot be opened."
    )


def too_large(limit: int) -> MediaError:
    """The error for more bytes than are allowed."""
    size = f"{limit / 2**20:,.0f} MiB" if limit >= 2**20 else f"{limit:,} bytes"
    return MediaError(f"it has more than {size}.")
