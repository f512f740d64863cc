"""Keys, tokens and the limiter."""

from __future__ import annotations

from tunesmith.endpoints import keys


def test_either_key_opens_and_nothing_else() -> None:
    first, second = keys.new_key(), keys.new_key()
    digests = (keys.digest(first), keys.digest(second))
    assert keys.opens(first, digests)
    assert keys.opens(second, digests)
    for wrong in ("", first[:-1], first + "x", keys.new_key(), "\ud800", "ä"):
        assert not keys.opens(wrong, digests)


def test_tokens_open_their_endpoint_until_they_expire() -> None:
    token, expires = keys.new_token("chat", "secret", lifetime_s=60, now=1000.0)
    assert expires == 1060.0
    assert keys.token_opens(token, "chat", "secret", now=1059.0)
    assert not keys.token_opens(token, "chat", "secret", now=1060.0)
    assert not keys.token_opens(token, "other", "secret", now=1000.0)
    assert not keys.token_opens(token, "chat", "another secret", now=1000.0)
    head, _, tail = token.rpartition(".")
    for wrong in ("", "tse.", "tse.x.y", head, f"{head}x.{tail}", token[:-2], "tse.\ud800.x"):
        assert not keys.token_opens(wrong, "chat", "secret", now=1000.0)


def test_the_limiter_slows_a_storm_and_forgets_it_after_its_window() -> None:
    now = [0.0]
    limiter = keys.WrongKeyLimiter(limit=2, window_s=60, callers=2, clock=lambda: now[0])
    assert [limiter.failed("a"), limiter.failed("a"), limiter.failed("b")] == [0, 0, 0]
    now[0] = 10
    assert limiter.failed("a") == 50
    now[0] = 60
    assert limiter.failed("a") == 0
    for caller in ("c", "d", "e"):
        limiter.failed(caller)
    assert limiter.failed("a") == 0  # its count was forgotten: the table is bounded
