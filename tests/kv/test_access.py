"""Certificates, users and passwords."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import trustme

from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import Denied, KVError, Unavailable
from fastnl_engine.kv.endpoints import Tls
from fastnl_engine.kv.mirror import Mirror
from fastnl_engine.kv.testing import eventually

# -- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture
def papers(tmp_path):
    """Files: ca.pem, server.pem with server.key, client.pem with client.key, and other.pem of somebody else."""
    ca, folder = trustme.CA(), tmp_path / "papers"
    folder.mkdir()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    for name, cert in (("server", ca.issue_cert("127.0.0.1", "localhost")), ("client", ca.issue_cert("client.host"))):
        cert.private_key_pem.write_to_path(folder / f"{name}.key")
        for i, pem in enumerate(cert.cert_chain_pems):
            pem.write_to_path(folder / f"{name}.pem", append=i > 0)
    return folder


@pytest.fixture
def tls_etcd(make_etcd, papers):
    return make_etcd(
        f"--cert-file={papers}/server.pem", f"--key-file={papers}/server.key",
        f"--trusted-ca-file={papers}/ca.pem", "--client-cert-auth",
        scheme="https",
        ctl=[f"--cacert={papers}/ca.pem", f"--cert={papers}/client.pem", f"--key={papers}/client.key"],
    )  # fmt: skip


def tls(papers, **other):
    files = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"} | other
    return Tls(**{name: str(papers / file) if file else "" for name, file in files.items()})


async def test_certificates_on_both_sides(tls_etcd, papers):
    bare = [url.removeprefix("https://") for url in tls_etcd.urls]
    for urls in (tls_etcd.urls, bare):
        async with open_etcd(urls, tls=tls(papers)) as kv, Mirror(kv, "t/") as mirror:
            await anext(mirror)
            tls_etcd.ctl("put", "t/1", urls[0])
            await anext(mirror)
            assert mirror.contents["t/1"].value == urls[0].encode()


async def test_certificates_that_do_not_fit(tls_etcd, papers):
    for wrong in ({"ca": "other.pem"}, {"cert": "", "key": ""}):
        async with open_etcd(tls_etcd.urls, tls=tls(papers, **wrong), timeout=3) as kv:
            with pytest.raises(Unavailable) as e:
                await kv.get("t/1")
            assert tls_etcd.urls[0] in str(e.value)
    async with open_etcd([url.replace("https", "http") for url in tls_etcd.urls], timeout=3) as kv:
        with pytest.raises(Unavailable):
            await kv.get("t/1")


async def test_renewed_files_count_at_the_next_connection(tls_etcd, papers):
    (papers / "mine.pem").write_bytes((papers / "other.pem").read_bytes())
    async with open_etcd(tls_etcd.urls, tls=tls(papers, ca="mine.pem"), timeout=5) as kv:
        with pytest.raises(Unavailable):
            await kv.get("t/1")
        (papers / "mine.pem").write_bytes((papers / "ca.pem").read_bytes())
        assert await kv.get("t/1") is None


async def test_files_that_are_not_there(papers):
    async with open_etcd(["https://127.0.0.1:1"], tls=tls(papers, ca="none.pem")) as kv:
        with pytest.raises(KVError, match=r"none\.pem: No such file.*PEM"):
            await kv.get("t/1")
        async with Mirror(kv, "t/"):  # waits for it, and does not hide why
            await eventually(lambda: "none.pem" in kv.trouble)
    async with open_etcd(["https://127.0.0.1:1"], tls=tls(papers, key="")) as kv:
        with pytest.raises(KVError, match="both `cert` and `key`"):
            await kv.get("t/1")


# -- users -------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(make_etcd):
    """An etcd that knows root (rootpw) and anna (annapw, everything under a/), and forgets a token after a second."""
    etcd = make_etcd("--auth-token-ttl", "1")
    guard(etcd)
    return etcd


def guard(etcd):
    etcd.ctl("user", "add", "root:rootpw")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("user", "add", "anna:annapw")
    etcd.ctl("role", "add", "a")
    etcd.ctl("role", "grant-permission", "a", "--prefix=true", "readwrite", "a/")
    etcd.ctl("user", "grant-role", "anna", "a")
    etcd.ctl("auth", "enable")
    etcd.ctl_flags += ["--user", "root:rootpw"]


async def test_a_token_that_has_run_out_is_renewed(guarded):
    async with open_etcd(guarded.urls, user="anna", password="annapw") as kv:
        tokens = set()
        for i in range(2):
            await kv.put("a/1", b"%d" % i)  # a write that is refused for its token was not done
            tokens.add(kv._cluster._token)
            await asyncio.sleep(3.5)
        assert (await kv.get("a/1")).version == 2
        assert len(tokens) == 2 and kv._cluster._token not in tokens


async def test_everything_goes_on_with_users(guarded):
    """Also when etcd forgets all tokens, as it does when it starts."""
    calls = []

    async def publish(lease):
        await kv.put("a/me", b"", lease=lease)
        calls.append(lease)

    async with (
        open_etcd(guarded.urls, user="anna", password="annapw", heartbeat=1) as kv,
        Mirror(kv, "a/") as mirror,
        kv.lease(3, publish) as lease,
    ):
        while "a/me" not in mirror.contents:
            await anext(mirror)
        await asyncio.sleep(3)
        guarded.ctl("put", "a/1", "1")
        await anext(mirror)
        assert mirror.contents["a/1"].value == b"1"
        guarded.kill()
        await asyncio.to_thread(guarded.start)
        guarded.ctl("put", "a/2", "2")
        async with asyncio.timeout(60):
            while "a/2" not in mirror.contents:
                await anext(mirror)
            await asyncio.gather(*(kv.put("a/many", b"%d" % i) for i in range(20)))
            await eventually(lambda: lease.alive)


async def test_a_write_that_did_not_get_its_token_was_not_done(guarded):
    async with open_etcd(guarded.urls, user="anna", password="annapw", timeout=4) as kv:
        await kv.put("a/1", b"1")
        kv._cluster._token = None  # as if it had run out
        guarded.members[0].hang()
        with pytest.raises(Unavailable):
            await kv.put("a/1", b"2")
        guarded.members[0].go_on()
        await eventually(lambda: kv.get("a/1"))
        assert (await kv.get("a/1")).version == 1


async def test_who_may_not_is_told_so(guarded):
    async with open_etcd(guarded.urls, user="anna", password="annapw") as kv:
        for refused in (kv.get("b/1"), kv.put("b/1", b""), kv.get_prefix(""), anext(kv.watch("b/"))):
            with pytest.raises(Denied, match="permission denied; give the user a role"):
                await refused
        async with Mirror(kv, "") as mirror:
            with pytest.raises(Denied):
                await anext(mirror)
    async with open_etcd(guarded.urls, user="anna", password="wrong") as kv:
        with pytest.raises(Denied, match="check user and password") as e:
            await kv.get("a/1")
        assert guarded.urls[0] in str(e.value)
        with pytest.raises(Denied):
            await anext(kv.watch("a/"))
    async with open_etcd(guarded.urls) as kv:
        with pytest.raises(Denied, match="wants a user and a password"):
            await kv.get("a/1")
    with pytest.raises(KVError, match="password"):
        open_etcd(guarded.urls, user="anna")


async def test_a_user_where_everybody_may_and_where_that_changes(make_etcd):
    etcd = make_etcd()
    async with open_etcd(etcd.urls, user="anna", password="annapw") as kv:
        async with contextlib.aclosing(kv.watch("a/")) as watch:
            await anext(watch)
            await kv.put("a/1", b"1")
            assert (await anext(watch)).events[0].key == "a/1"
            guard(etcd)
            await kv.put("a/2", b"2")
            assert (await anext(watch)).events[0].key == "a/2"
