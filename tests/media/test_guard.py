"""What may be fetched and opened."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import MediaError
from quire.media.guard import check_addresses, check_url, is_allowed, open_path, scheme_of
from quire.media.policy import MediaPolicy

POLICY = MediaPolicy()
PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1"),
    *("2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "2001:0:7f00:1::"),
    *("2130706433", "0x7f000001", "127.1", "", "localhost", "8.8.8.8 "),
]
GLOBAL = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2002:808:808::", "64:ff9b::808:808"]

# IANA's special-purpose and address space registries, as of 2025; 2000::/3 alone is global unicast.
REGISTERED = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32"),
    *("192.0.0.10/32", "192.0.0.170/31", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
    *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *("::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b:1::/48"),
    *("100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:1::1/128", "2001:2::/48"),
    *("2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28"),
    *("2001:db8::/32", "2620:4f:8000::/48", "3fff::/20", "4000::/3", "5f00::/16"),
    *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
]
METADATA = [
    *("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200", "192.0.0.192"),
    *("168.63.129.16", "fd20:ce::254", "169.254.42.42"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_allowed(address, POLICY)
    with pytest.raises(MediaError, match="not public"):
        check_addresses(["8.8.8.8", address], POLICY)


@pytest.mark.parametrize("address", GLOBAL)
def test_public_addresses_are_allowed(address: str) -> None:
    assert check_addresses([address, address], POLICY) == [address]


@pytest.mark.parametrize("network", REGISTERED)
def test_no_special_network_is_public_from_its_first_address_to_its_last(network: str) -> None:
    special = ipaddress.ip_network(network)
    for address in (special[0], special[special.num_addresses // 2], special[-1]):
        assert not is_allowed(str(address), POLICY)
        if isinstance(address, ipaddress.IPv4Address):
            assert not any(is_allowed(dressed, POLICY) for dressed in as_ipv6(address))


@pytest.mark.parametrize("address", METADATA)
def test_the_services_of_clouds_are_not_public(address: str) -> None:
    parsed = ipaddress.ip_address(address)
    forms = as_ipv6(parsed) if isinstance(parsed, ipaddress.IPv4Address) else []
    for form in (address, *forms):
        assert not is_allowed(form, POLICY)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *(("9.255.255.255", "11.0.0.0"), ("100.63.255.255", "100.128.0.0")),
        *(("126.255.255.255", "128.0.0.0"), ("169.253.255.255", "169.255.0.0")),
        *(("172.15.255.255", "172.32.0.0"), ("191.255.255.255", "192.0.1.0")),
        *(("192.167.255.255", "192.169.0.0"), ("198.17.255.255", "198.20.0.0")),
        *(("223.255.255.255", "1.0.0.0"), ("168.63.129.15", "168.63.129.17")),
        *(("2001:200::", "2001:db7:ffff::"), ("2001:db9::", "2620:4f:7fff::")),
        *(("2620:4f:8001::", "3ffe:ffff::"), ("3fff:1000::", "3fff:ffff::")),
    ],
)
def test_the_neighbours_of_special_networks_are_public(before: str, after: str) -> None:
    assert check_addresses([before, after], POLICY) == [before, after]


def as_ipv6(address: ipaddress.IPv4Address) -> list[str]:
    """The forms of IPv6 that name an IPv4 address: mapped, compatible, translated, 6to4, NAT64, Teredo."""
    number = int(address)
    forms = [
        *(number, 0xFFFF << 32 | number, 0xFFFF << 48 | number),
        *(0x2002 << 112 | number << 80, 0x64_FF9B << 96 | number, 0x64_FF9B_0001 << 80 | number),
        0x2001 << 112 | number << 64 | number ^ 0xFFFF_FFFF,
    ]
    return [str(ipaddress.IPv6Address(form)) for form in forms]


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_ipv6_clothes_opens_nothing(address: ipaddress.IPv4Address) -> None:
    allowed = is_allowed(str(address), POLICY)
    mapped, compatible, translated, sixtofour, nat64, local_nat64, teredo = as_ipv6(address)
    for form in (mapped, compatible, translated, local_nat64, teredo):
        assert not is_allowed(form, POLICY)
    for form in (sixtofour, nat64):
        assert is_allowed(form, POLICY) == allowed


def test_a_trusted_network_is_allowed_and_nothing_beside_it() -> None:
    policy = MediaPolicy(networks=("10.1.0.0/16",))
    assert is_allowed("10.1.2.3", policy)
    assert not is_allowed("10.2.2.3", policy)
    assert not is_allowed("::ffff:10.1.2.3", policy)


def test_a_host_without_addresses_is_refused() -> None:
    with pytest.raises(MediaError, match="not known"):
        check_addresses([], POLICY)


@pytest.mark.parametrize(
    "text",
    [
        *("file:///etc/passwd", "ftp://example.com/x", "gopher://example.com/", "http:///x"),
        *("http://user:secret@example.com/x", "http://user@example.com/x", "http://[::1/x"),
        *("http://example.com:99999/", "http://", "https:x", "javascript:alert(1)"),
    ],
)
def test_addresses_of_another_form_are_refused(text: str) -> None:
    assert scheme_of(text) is not None
    with pytest.raises(MediaError):
        check_url(text, POLICY)


def test_no_address_is_fetched_where_none_are() -> None:
    with pytest.raises(MediaError, match="not fetched here"):
        check_url("https://example.com/x.png", MediaPolicy.for_server())


@pytest.mark.parametrize("name", ["a/b.png", "a:b.png", "C.png", "./x", "ähm.png", "~/x"])
def test_a_path_is_no_address(name: str) -> None:
    assert scheme_of(name) is None


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        url = check_url(text, POLICY)
    except MediaError:
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A media root with a picture, a folder, links that stay and links that leave."""
    inside = tmp_path / "media"
    (inside / "cats").mkdir(parents=True)
    (inside / "cats" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "b.png").write_bytes(b"outside")
    (inside / "good").symlink_to("cats/a.png")
    (inside / "out").symlink_to(tmp_path / "secret.png")
    (inside / "up").symlink_to("..")
    return inside


@pytest.mark.parametrize("name", ["cats/a.png", "good", "./cats//a.png"])
def test_files_under_the_root_are_opened(root: Path, name: str) -> None:
    with open_path(name, MediaPolicy.for_server(root)) as file:
        assert file.read() == b"inside"
    with open_path(str(root / name), MediaPolicy.for_server(root)) as file:
        assert file.read() == b"inside"


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.png", "cats/../../secret.png", "cats/../cats/a.png", "out", "up/secret.png"),
        *("/etc/passwd", "up/media2/b.png", "", ".", "cats", "missing.png", "a\0b", "x" * 5000),
    ],
)
def test_nothing_else_is_opened(root: Path, name: str) -> None:
    with pytest.raises(MediaError):
        open_path(name, MediaPolicy.for_server(root))


def test_a_neighbour_with_the_roots_name_in_front_is_outside(root: Path) -> None:
    with pytest.raises(MediaError, match="not inside"):
        open_path(f"{root}2/b.png", MediaPolicy.for_server(root))


def test_a_server_without_a_root_opens_nothing(root: Path) -> None:
    with pytest.raises(MediaError, match="not read here"):
        open_path(str(root / "good"), MediaPolicy.for_server())


def test_a_link_put_in_after_the_check_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is resolved while it is good, then its folder is swapped for a link that leaves."""
    resolve = os.path.realpath

    def swap(path: os.PathLike[str] | str, **options: bool) -> str:
        real = resolve(path)
        if str(real).endswith("a.png"):
            (root / "cats" / "a.png").unlink()
            (root / "cats").rmdir()
            (root / "cats").symlink_to(root.parent / "media2")
            (root.parent / "media2" / "a.png").write_bytes(b"outside")
        return real

    monkeypatch.setattr(os.path, "realpath", swap)
    with pytest.raises(MediaError):
        open_path("cats/a.png", MediaPolicy.for_server(root))


def test_python_may_open_any_file_and_its_media_folder_comes_first(root: Path) -> None:
    with open_path(str(root.parent / "secret.png"), POLICY) as file:
        assert file.read() == b"outside"
    with open_path("a.png", POLICY, folder=str(root / "cats")) as file:
        assert file.read() == b"inside"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for name in (tmp_path / "pipe", tmp_path / "socket", tmp_path, Path("/dev/zero")):
        with pytest.raises(MediaError):
            open_path(str(name), POLICY)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(MediaError, match="more than 2,048 MiB"):
        open_path(str(tmp_path / "big"), POLICY)


@given(st.lists(st.sampled_from(["..", ".", "cats", "a.png", "out", "up", "", "good"]), max_size=6))
def test_no_path_leads_out_of_the_root(parts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        inside = top / "media"
        (inside / "cats").mkdir(parents=True)
        (inside / "cats" / "a.png").write_bytes(b"inside")
        (top / "a.png").write_bytes(b"outside")
        (inside / "out").symlink_to(top / "a.png")
        (inside / "up").symlink_to("..")
        (inside / "good").symlink_to("cats/a.png")
        try:
            with open_path("/".join(parts), MediaPolicy.for_server(inside)) as file:
                assert file.read() == b"inside"
        except MediaError:
            pass
