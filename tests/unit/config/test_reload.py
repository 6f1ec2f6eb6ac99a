"""What a running process takes over from changed settings, and what it never does."""

import pytest

from forebay.config.reload import CannotFollow, diff, follow
from forebay.config.settings import Settings
from forebay.config.sources import load_settings


def settings(**values: object) -> Settings:
    return load_settings({"api_keys": ("sk-a",), **values}, env={})[0]


def test_what_is_hot_and_what_waits_for_a_restart_are_told_apart() -> None:
    changes = diff(settings(), settings(api_keys=("sk-b",), max_n=3, port=1, log_file="/x"))
    assert changes.hot == ("api_keys", "max_n")
    assert changes.restart == ("port", "log_file")
    assert diff(settings(max_n=3), settings(max_n=3)) == diff(settings(), settings())


def test_what_a_rollout_takes_over_waits_for_a_restart_where_engines_run_elsewhere() -> None:
    elsewhere = {"upstream": ("http://127.0.0.1:1",)}
    assert diff(settings(**elsewhere), settings(**elsewhere, engine_concurrency=4)).restart == ("engine_concurrency",)
    assert diff(settings(), settings(engine_concurrency=4)) == diff(settings(), settings())


def test_a_key_goes_together_with_its_limit() -> None:
    before = settings(api_keys=("sk-a", "sk-b"), api_key_limits=("sk-a:5",))
    running, changes = follow(before, settings(api_keys=("sk-b",)))
    assert (running.api_key_limits, changes.hot, changes.restart) == ((), ("api_keys", "api_key_limits"), ())


def test_only_what_is_hot_is_followed_back_to_the_default_too() -> None:
    running, changes = follow(settings(max_n=3, port=5), settings(port=6, max_stop=2))
    assert (running.port, running.max_n, running.max_stop) == (5, 8, 2)
    assert changes.restart == ("port",)
    again, changes = follow(running, settings(port=6, max_stop=2))
    assert (again, changes.hot, changes.restart) == (running, (), ("port",))


def test_a_reload_never_takes_the_last_key_away() -> None:
    with pytest.raises(CannotFollow, match="no key any more"):
        follow(settings(), settings(api_keys=()))
    assert follow(settings(api_keys=()), settings())[0].api_keys == settings().api_keys


def test_old_and_new_settings_that_do_not_go_together_are_refused() -> None:
    shared = {"cache_shared": True, "redis_url": "redis://127.0.0.1"}
    running, changes = follow(settings(), settings(**shared))
    assert not running.cache_shared
    assert set(changes.restart) == {"cache_shared", "redis_url"}


def test_settings_of_each_model_stay_as_they_are() -> None:
    models = ({"model": "a"}, {"model": "b"})
    changed = settings(models=models, max_num_seqs=5, max_n=2)
    running, changes = follow(settings(models=models, max_num_seqs=4), changed)
    assert changes.restart == ()  # a rollout's affair
    assert [one.max_num_seqs for one in running.each_model()] == [4, 4]
    assert [one.max_n for one in running.each_model()] == [2, 2]
