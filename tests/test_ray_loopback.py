"""A Ray that nas starts can be reached from its own machine alone."""

from __future__ import annotations

import socket

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


def own_address() -> str:
    """Return the address under which other machines know this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no network")
        return str(asking.getsockname()[0])


def test_nothing_listens_beyond_loopback() -> None:
    import ray

    from nas.executors.ray import start

    other = own_address()
    if other.startswith("127."):
        pytest.skip("this machine has no other address")
    with start(1):
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        assert host == "127.0.0.1"
        [node] = ray.nodes()
        ports = [int(port), node["NodeManagerPort"], node["ObjectManagerPort"]]
        for number in ports:
            socket.create_connection((host, number), timeout=5).close()
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((other, number), timeout=5).close()

        @ray.remote
        def where() -> str:
            return str(ray.util.get_node_ip_address())

        assert ray.get(where.remote()) == "127.0.0.1"
