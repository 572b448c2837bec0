"""Whatever is sent with a key, wrong or right, the log of the service has nothing of it that would let anybody in."""

from __future__ import annotations

from tests.service.keys import KeyedService


def test_keys_and_signatures_are_not_logged(keyed: KeyedService) -> None:
    keys = [keyed.keys.create("submit", "sql"), keyed.keys.revoked("submit", "sql"), keyed.keys.create("admin")]
    signature = "c0ffee" * 10 + "abcd"
    signed = f"AWS4-HMAC-SHA256 Credential=a/20260101/r/athena/aws4_request, SignedHeaders=host, Signature={signature}"
    for key in keys:
        for sent in (key, f"Basic {key.key}", f"Bearer {key.key}x", f"Bearer {key.key} {key.key}", signed):
            for method, path in (("POST", "/api/submitlogs"), ("POST", "/api/sql"), ("POST", "/"), ("GET", "/metrics")):
                answer = keyed.call(method, path, sent, content=b"\xff{", headers={"content-type": "application/json"})
                assert key.key not in answer.text
    log = keyed.running.log()
    assert '"level": "debug"' in log or '"level": "info"' in log
    assert "keys in force" in log
    for key in [*keys, keyed.keys.all]:
        assert key.key.split("_", 2)[2] not in log
        assert key.kept.sha256 not in log
        assert keyed.keys.signing_secret(key) not in log
    assert signature not in log
